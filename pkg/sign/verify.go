package sign

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
)

// Verified is a fact: an authority has signed the root with these claims, or attested
// something about it.
type Verified struct {
	Object
	// Authority is the name of who is trusted and signed.
	Authority string `json:"authority"`
	// KeyID is the id of the key that signed, be it the authority's own or a certificate's.
	KeyID string `json:"keyId"`
	// Certificate is what was signed with, unless it was a bare key.
	Certificate *Certificate `json:"certificate,omitempty"`
	// Times are the proofs of when it was signed.
	Times []Time `json:"times,omitempty"`
	// Log are the verified entries in transparency logs.
	Log []LogEntry `json:"log,omitempty"`
	// Reference is what the signer claims the root to be called. Bundles do not say.
	Reference string `json:"reference,omitempty"`
	// Annotations are the signer's further claims.
	Annotations map[string]any `json:"annotations,omitempty"`
	// PredicateType says what an attestation is about, as a URI; empty for a signature.
	PredicateType string `json:"predicateType,omitempty"`
	// Predicate is what an attestation says.
	Predicate json.RawMessage `json:"-"`
}

// Certificate is whom a certificate is for, and who vouched for that.
type Certificate struct {
	Subject string `json:"subject"`
	Issuer  string `json:"issuer,omitempty"`
	// Authority is the distinguished name of the certificate authority.
	Authority string `json:"authority"`
}

// Time is a proof of when a signature was there.
type Time struct {
	Time time.Time `json:"time"`
	// Source is who says so: "transparency log", "timestamp authority", or "clock", which is
	// no proof.
	Source string `json:"source"`
	URI    string `json:"uri,omitempty"`
}

// LogEntry is the place of a signature in a transparency log.
type LogEntry struct {
	// LogID is the SHA-256 of the log's key, in hex.
	LogID string `json:"logId"`
	Index int64  `json:"index"`
}

// Result is what [Verify] found out about Root.
type Result struct {
	Root digest.Digest `json:"root"`
	// Verified are the signatures, by as many authorities as the policy asks for; the Legacy
	// form first, then by manifest digest.
	Verified []Verified `json:"verified"`
	// Attestations are what authorities attested about the root, in the same order.
	Attestations []Verified `json:"attestations,omitempty"`
	// Rejected are the other signatures and attestations; they do no harm.
	Rejected []Rejected `json:"rejected,omitempty"`
}

// Authorities are the names of those who signed, each once.
func (r *Result) Authorities() []string { return authorities(r.Verified) }

func authorities(facts []Verified) (names []string) {
	for _, v := range facts {
		if !slices.Contains(names, v.Authority) {
			names = append(names, v.Authority)
		}
	}
	return names
}

// Verify reads every signature and attestation of root that store has, in all three forms, and
// checks each against policy. As many authorities as the policy asks for have to have signed;
// otherwise the error is a [*VerifyError], which is [ErrUnsigned] or [ErrNotVerified].
// Attestations are never counted for signatures. What cannot be read is rejected with that
// reason; a store that cannot say what there is is an error of its own.
//
// Root is by digest; its content is not read. The caller compares what it fetches with that
// digest.
func Verify(ctx context.Context, store oras.ReadOnlyGraphTarget, root ocispec.Descriptor, policy Policy) (*Result, error) {
	if err := policy.Check(); err != nil {
		return nil, fmt.Errorf("verify %s: %w", root.Digest, err)
	}
	if err := validRoot(root); err != nil {
		return nil, fmt.Errorf("verify %s: %w", root.Digest, err)
	}
	result := &Result{Root: root.Digest}
	found := 0
	err := walk(ctx, store, root, wanted(!policy.SignaturesOnly), func(obj Object, e *envelope, err error) error {
		isSignature := e == nil || e.isSignature()
		if isSignature {
			found++
		}
		var fact *Verified
		if err == nil {
			fact, err = policy.judge(e, root.Digest)
		}
		switch {
		case err != nil:
			result.Rejected = append(result.Rejected, Rejected{Object: obj, Err: err, attestation: !isSignature})
		case isSignature:
			fact.Object = obj
			result.Verified = append(result.Verified, *fact)
		default:
			fact.Object = obj
			result.Attestations = append(result.Attestations, *fact)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("verify %s: %w", root.Digest, err)
	}
	if signed := result.Authorities(); len(signed) < policy.threshold() {
		return nil, &VerifyError{
			Root: root.Digest, Rejected: signatures(result.Rejected), Signed: signed, Threshold: policy.threshold(),
		}
	}
	return result, nil
}

func signatures(all []Rejected) []Rejected {
	return slices.DeleteFunc(slices.Clone(all), func(r Rejected) bool { return r.attestation })
}
