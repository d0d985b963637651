// Package sign attaches signatures to what a store holds and verifies them, on a registry,
// an OCI layout or anything else that oras calls a graph target. It is the only importer of
// cosign and sigstore.
//
// To sign, load a key with [LoadSigner] and call [Sign]. To verify, load public keys with
// [LoadPublicKey], say whom to trust with [KeyPolicy] and call [Verify]; what it returns is a
// list of verified facts, and whatever is not in that list was not verified. The root is
// always given by digest: resolve a tag once, and use that descriptor for everything.
//
// # Promises
//
// Verify reads nothing but the store and needs no network, transparency log or clock. It
// trusts no tag, no referrers listing and no descriptor that it has not hashed itself: every
// byte is checked against its digest while it is read, and sizes and counts are capped.
// Nothing counts as a signature but a statement of cosign's sign type: a provenance or an SBOM
// that was signed with the same key is not a signature of the artifact.
//
// Sign adds and never removes. It reads no clock: apart from the random part of an ECDSA
// signature, the same input gives the same bytes. Signing twice writes once.
//
// # What other verifiers need
//
// All of these were run against the released programs (see interop_test.go). Without a
// transparency log, each needs --insecure-ignore-tlog, and --signature-digest-algorithm sha384
// or sha512 for a P-384 or P-521 key.
//
//	signed as        cosign 2.6 verify                    cosign 3 verify
//	Legacy           --key K                              --key K
//	Bundle           --key K --trusted-root T             --key K
//	Legacy, Bundle   --key K --trusted-root T             --key K
//
// T may be a trusted root that is empty but for its media type; cosign 2.6 insists on
// having one as soon as it sees a bundle, even where a valid Legacy signature is beside it.
//
// Their verify accepts what Verify does not: any attestation bundle by the key passes for a
// signature, and cosign 2.6 does not compare -a with the annotations of a bundle.
package sign

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
)

// Form is a way in which the field stores a signature beside what it signs.
type Form string

const (
	// Legacy is cosign 2's default: a simple signing payload as a layer of the image that is
	// tagged [Tag] of the root.
	Legacy Form = "legacy"
	// Referrer is cosign 2's OCI 1.1 mode: the same layers in a referrer of the root. It is
	// verified and never written. A referrer that cannot be read is reported under this name
	// as well, since nobody can tell what it was.
	Referrer Form = "referrer"
	// Bundle is cosign 3's default: a Sigstore bundle as a referrer of the root.
	Bundle Form = "bundle"
)

// Tag is the tag of a manifest's Legacy signatures: sha256-<hex>.sig.
func Tag(d digest.Digest) string {
	return d.Algorithm().String() + "-" + d.Encoded() + ".sig"
}

// SignOptions says who signs what with which claims.
type SignOptions struct {
	// Signer makes the signatures. It is required.
	Signer *Signer
	// Reference is what the signer claims the root to be called (repository, or repository
	// and tag). Only the Legacy form has a place for it. Default: no claim.
	Reference string
	// Annotations are further claims, signed with the digest. Default: none.
	Annotations map[string]string
	// Forms are the forms to write, of Legacy and Bundle. Default: both.
	Forms []Form
}

// Attached is a signature that the store now has.
type Attached struct {
	Object
	// Tag is the manifest's tag; only the Legacy form has one.
	Tag   string `json:"tag,omitempty"`
	KeyID string `json:"keyId"`
	// Existing says that this very claim by this key was there already, so that nothing
	// was written.
	Existing bool `json:"existing,omitempty"`
}

// Sign attaches signatures of root to it in store, one for each form, the Legacy form first.
// Root is what the caller resolved in that store; its digest must be sha256.
//
// A Legacy signature joins those that are under the tag already. The registry API has no
// compare and swap: when two signers do this at the same moment, one signature is lost.
//
// On an error, what is returned has been attached.
func Sign(ctx context.Context, store oras.GraphTarget, root ocispec.Descriptor, opts SignOptions) ([]Attached, error) {
	if err := opts.validate(root); err != nil {
		return nil, fmt.Errorf("sign %s: %w", root.Digest, err)
	}
	var done []Attached
	for _, f := range []struct {
		form   Form
		attach func(context.Context, oras.GraphTarget, ocispec.Descriptor, SignOptions) (Attached, error)
	}{
		// Legacy first: should the second fail, cosign 2.6 is happier with this one alone.
		{Legacy, attachLegacy},
		{Bundle, attachBundle},
	} {
		if len(opts.Forms) > 0 && !slices.Contains(opts.Forms, f.form) {
			continue
		}
		a, err := f.attach(ctx, store, root, opts)
		if err != nil {
			return done, fmt.Errorf("sign %s (%s): %w", root.Digest, f.form, err)
		}
		done = append(done, a)
	}
	return done, nil
}

func (o SignOptions) validate(root ocispec.Descriptor) error {
	if o.Signer == nil {
		return errors.New("no signer")
	}
	for _, f := range o.Forms {
		if f != Legacy && f != Bundle {
			return fmt.Errorf("cannot write form %q", f)
		}
	}
	return validRoot(root)
}

// validRoot refuses what no signature of the field can name: simple signing payloads and
// cosign's statements know sha256 only.
func validRoot(root ocispec.Descriptor) error {
	if err := root.Digest.Validate(); err != nil {
		return fmt.Errorf("root digest %q: %w", root.Digest, err)
	}
	if a := root.Digest.Algorithm(); a != digest.SHA256 {
		return fmt.Errorf("root digest is %s, want %s", a, digest.SHA256)
	}
	return nil
}

// push writes b unless it is there.
func push(ctx context.Context, store content.Pusher, mediaType string, b []byte) (ocispec.Descriptor, error) {
	desc := content.NewDescriptorFromBytes(mediaType, b)
	if err := store.Push(ctx, desc, bytes.NewReader(b)); err != nil && !errors.Is(err, errdef.ErrAlreadyExists) {
		return ocispec.Descriptor{}, err
	}
	return desc, nil
}
