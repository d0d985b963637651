package sign

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
)

// Policy says which signatures are good. The zero Policy trusts nobody, and [Verify] refuses
// it.
type Policy struct {
	keys []*Key
}

// KeyPolicy trusts each of keys: one valid signature by one of them is enough. It asks for no
// transparency log entry and no timestamp; a signature that has them is as good as one that
// has not.
func KeyPolicy(keys ...*Key) (Policy, error) {
	if len(keys) == 0 {
		return Policy{}, errors.New("policy: no key to trust")
	}
	if slices.Contains(keys, nil) {
		return Policy{}, errors.New("policy: a key is nil")
	}
	return Policy{keys: slices.Clone(keys)}, nil
}

// Verified is a fact: the key KeyID signed the root with these claims.
type Verified struct {
	Object
	KeyID string `json:"keyId"`
	// Reference is what the signer claims the root to be called. Bundles do not say.
	Reference string `json:"reference,omitempty"`
	// Annotations are the signer's further claims.
	Annotations map[string]any `json:"annotations,omitempty"`
}

// Result is what [Verify] found out about Root.
type Result struct {
	Root digest.Digest `json:"root"`
	// Verified has at least one element, the Legacy form first, then by manifest digest.
	Verified []Verified `json:"verified"`
	// Rejected are the other signatures; they do no harm.
	Rejected []Rejected `json:"rejected,omitempty"`
}

// Verify reads every signature of root that store has, in all three forms, and checks each
// against policy. At least one must be valid; otherwise the error is a [*VerifyError], which
// is [ErrUnsigned] or [ErrNotVerified]. A signature that cannot be read is rejected with that
// reason; a store that cannot say what there is is an error of its own.
//
// Root is by digest; its content is not read. The caller compares what it fetches with that
// digest.
func Verify(ctx context.Context, store oras.ReadOnlyGraphTarget, root ocispec.Descriptor, policy Policy) (*Result, error) {
	if len(policy.keys) == 0 {
		return nil, fmt.Errorf("verify %s: the policy trusts nobody", root.Digest)
	}
	if err := validRoot(root); err != nil {
		return nil, fmt.Errorf("verify %s: %w", root.Digest, err)
	}
	result := &Result{Root: root.Digest}
	err := walk(ctx, store, root, func(obj Object, sig envelope, err error) error {
		var c claims
		if err == nil {
			c, err = sig.verify(root.Digest, policy.keys)
		}
		if err != nil {
			result.Rejected = append(result.Rejected, Rejected{obj, err})
		} else {
			result.Verified = append(result.Verified, Verified{obj, c.key.ID(), c.reference, c.annotations})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("verify %s: %w", root.Digest, err)
	}
	if len(result.Verified) == 0 {
		return nil, &VerifyError{root.Digest, result.Rejected}
	}
	return result, nil
}

// envelope is a signature with what it signs, read and not verified.
type envelope interface {
	// verify accepts if one of keys signed a claim about root, and returns that claim.
	verify(root digest.Digest, keys []*Key) (claims, error)
}

// claims is what a key has signed.
type claims struct {
	key         *Key
	reference   string
	annotations map[string]any
}

// errUntrusted cannot be more precise: a changed payload, a changed signature and another key
// look the same.
var errUntrusted = errors.New("not signed by a trusted key, or changed since")

// mismatch is the error of a good signature of something else.
func mismatch(signed string, root digest.Digest) error {
	return fmt.Errorf("signed digest %s, want %s", signed, root)
}
