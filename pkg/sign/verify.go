package sign

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
)

// Verified is a fact: an authority has signed the root with these claims, or attested
// something about it.
type Verified struct {
	Object
	// Authority is the name of the trusted authority that signed.
	Authority string `json:"authority"`
	// KeyID is the id of the signing key: the authority's own or a certificate's.
	KeyID string `json:"keyId"`
	// Certificate is the signer's certificate; nil for a bare key.
	Certificate *Certificate `json:"certificate,omitempty"`
	// Times are the proofs of the signing time.
	Times []Time `json:"times,omitempty"`
	// Log are the verified entries in transparency logs.
	Log []LogEntry `json:"log,omitempty"`
	// Reference is the name that the signer claims for the root; empty in bundles.
	Reference string `json:"reference,omitempty"`
	// Annotations are the signer's further claims.
	Annotations map[string]any `json:"annotations,omitempty"`
	// PredicateType is the type of an attestation's predicate, a URI; empty for a signature.
	PredicateType string `json:"predicateType,omitempty"`
	// Predicate is the content of an attestation.
	Predicate json.RawMessage `json:"-"`
}

// Certificate describes the holder and the issuer of a certificate.
type Certificate struct {
	Subject string `json:"subject"`
	Issuer  string `json:"issuer,omitempty"`
	// Authority is the distinguished name of the certificate authority.
	Authority string `json:"authority"`
}

// Time is a proof that a signature existed at a time.
type Time struct {
	Time time.Time `json:"time"`
	// Source is the origin of the proof: "transparency log", "timestamp authority", or "clock", which is
	// no proof.
	Source string `json:"source"`
	URI    string `json:"uri,omitempty"`
}

// The sources of proofs of time.
const (
	sourceLog       = "transparency log"
	sourceTimestamp = "timestamp authority"
)

// IsProof reports whether a log or a timestamp authority vouches for the time.
func (t Time) IsProof() bool { return t.Source == sourceLog || t.Source == sourceTimestamp }

// LogEntry is the place of a signature in a transparency log.
type LogEntry struct {
	// LogID is the SHA-256 of the log's key, in hex.
	LogID string `json:"logId"`
	Index int64  `json:"index"`
}

// Result is what [Verify] found about Root.
type Result struct {
	Root digest.Digest `json:"root"`
	// Verified are the valid signatures, by as many authorities as the policy requires; the Legacy
	// form first, then by manifest digest.
	Verified []Verified `json:"verified"`
	// Attestations are what authorities attested about the root, in the same order.
	Attestations []Verified `json:"attestations,omitempty"`
	// Rejected are the other signatures and attestations, which do not affect the result.
	Rejected []Rejected `json:"rejected,omitempty"`
	// Unexamined is how many more there are that nobody looked at: there were enough.
	Unexamined int `json:"unexamined,omitempty"`
}

// sortObjects puts the Legacy form first, then the manifests by digest.
func sortObjects[T any](all []T, of func(T) Object) {
	slices.SortStableFunc(all, func(a, b T) int {
		x, y := of(a), of(b)
		switch {
		case x.Form == Legacy && y.Form == Legacy:
			return 0
		case x.Form == Legacy:
			return -1
		case y.Form == Legacy:
			return 1
		}
		return cmp.Or(strings.Compare(x.Manifest.String(), y.Manifest.String()), cmp.Compare(x.Layer, y.Layer))
	})
}

// Authorities returns the names of the authorities that signed, without duplicates.
func (r *Result) Authorities() []string { return authorityNames(r.Verified) }

func authorityNames(facts []Verified) (names []string) {
	for _, v := range facts {
		if !slices.Contains(names, v.Authority) {
			names = append(names, v.Authority)
		}
	}
	return names
}

// Verify reads the signatures and attestations of root that store has, in all three forms, and
// checks each against policy: up to 1,000 signatures, and up to 5,000 if the first 1,000 do not satisfy it. As many authorities as the policy asks for must have signed;
// otherwise the error is a [*VerifyError], which is [ErrUnsigned] or [ErrNotVerified].
// Attestations never count as signatures. A signature that cannot be read is rejected with that
// reason; a store that cannot list signatures is an error.
//
// Root is by digest; its content is not read. The caller compares what it fetches with that
// digest.
func Verify(ctx context.Context, store oras.ReadOnlyGraphTarget, root ocispec.Descriptor, policy Policy) (*Result, error) {
	if err := policy.Validate(); err != nil {
		return nil, fmt.Errorf("verify %s: %w", root.Digest, err)
	}
	if err := checkRootDigest(root); err != nil {
		return nil, fmt.Errorf("verify %s: %w", root.Digest, err)
	}
	result := &Result{Root: root.Digest}
	found := 0
	w := &signatureWalker{store: store, root: root, scope: walkScope(!policy.SignaturesOnly)}
	w.suffices = func() bool {
		return len(result.Authorities()) >= policy.requiredSignatures() && (policy.Suffices == nil || policy.Suffices(result))
	}
	w.visitor = func(obj Object, e *envelope, err error) error {
		isSignature := e == nil || e.isSignature()
		if isSignature {
			found++
		}
		var fact *Verified
		if err == nil {
			fact, err = policy.verifyEnvelope(e, root.Digest)
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
	}
	if err := w.walk(ctx); err != nil {
		return nil, fmt.Errorf("verify %s: %w", root.Digest, err)
	}
	result.Unexamined = w.left
	for _, facts := range [][]Verified{result.Verified, result.Attestations} {
		sortObjects(facts, func(v Verified) Object { return v.Object })
	}
	sortObjects(result.Rejected, func(r Rejected) Object { return r.Object })
	if signed := result.Authorities(); len(signed) < policy.requiredSignatures() {
		return nil, &VerifyError{
			Root: root.Digest, Rejected: rejectedSignatures(result.Rejected), Signed: signed, Threshold: policy.requiredSignatures(), Unexamined: w.left,
		}
	}
	return result, nil
}

func rejectedSignatures(all []Rejected) []Rejected {
	return slices.DeleteFunc(slices.Clone(all), func(r Rejected) bool { return r.attestation })
}
