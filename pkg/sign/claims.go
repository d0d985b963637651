package sign

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore/pkg/signature/payload"
	"oras.land/oras-go/v2"
)

// Claim is what a signature or an attestation says of itself. Nothing of it was verified: whoever may write to the
// store can attach anything.
type Claim struct {
	Object
	// KeyID is the id of the signing key; "" where the form does not record it.
	KeyID string `json:"keyId,omitempty"`
	// Subject and Issuer are those of the signer's certificate.
	Subject string `json:"subject,omitempty"`
	Issuer  string `json:"issuer,omitempty"`
	// Time is when a transparency log recorded it.
	Time time.Time `json:"time,omitzero"`
	// Reference is the name of the root, and Annotations are further claims.
	Reference   string         `json:"reference,omitempty"`
	Annotations map[string]any `json:"annotations,omitempty"`
	// PredicateType is an attestation's, a URI; empty for a signature.
	PredicateType string `json:"predicateType,omitempty"`
	// Predicate is the content of an attestation.
	Predicate json.RawMessage `json:"-"`
	// Problem is why it could not be read.
	Problem string `json:"problem,omitempty"`
}

// ListClaims lists the signatures and attestations of root that a store has, as they describe themselves, and
// verifies none of them: it serves listings.
func ListClaims(ctx context.Context, store oras.ReadOnlyGraphTarget, root ocispec.Descriptor) ([]Claim, error) {
	var found []Claim
	w := &signatureWalker{store: store, root: root, scope: allAttached, visitor: func(obj Object, e *envelope, err error) error {
		claim := Claim{Object: obj}
		if err == nil {
			err = claim.read(e)
		}
		if err != nil {
			claim.Problem = err.Error()
		}
		found = append(found, claim)
		return nil
	}}
	err := w.walk(ctx)
	if err == nil && w.left > 0 {
		err = fmt.Errorf("more than %d: %w", maxExamined, ErrTooMany)
	}
	sortObjects(found, func(c Claim) Object { return c.Object })
	if err != nil {
		return nil, fmt.Errorf("find signatures of %s: %w", root.Digest, err)
	}
	return found, nil
}

// read takes out of an envelope what it says of itself.
func (c *Claim) read(e *envelope) error {
	for _, entry := range e.bundle.GetVerificationMaterial().GetTlogEntries() {
		if seconds := entry.GetIntegratedTime(); seconds > 0 {
			c.Time = time.Unix(seconds, 0).UTC()
		}
	}
	c.KeyID = e.keyHint()
	if leaf, err := e.leafCertificate(); err == nil && leaf != nil {
		summary, err := certificate.SummarizeCertificate(leaf)
		if err != nil {
			return fmt.Errorf("certificate: %w", err)
		}
		c.Subject, c.Issuer = summary.SubjectAlternativeName, summary.Issuer
		if c.KeyID, err = certificateKeyID(leaf); err != nil {
			return err
		}
	}
	if e.isClaim() {
		var signed payload.SimpleContainerImage
		if err := json.Unmarshal(e.payload, &signed); err != nil {
			return fmt.Errorf("payload: %w", err)
		}
		c.Reference, c.Annotations = signed.Critical.Identity.DockerReference, signed.Optional
		return nil
	}
	var statement struct {
		Subject []struct {
			Annotations map[string]any `json:"annotations"`
		} `json:"subject"`
		Predicate json.RawMessage `json:"predicate"`
	}
	if err := json.Unmarshal(e.payload, &statement); err != nil {
		return fmt.Errorf("statement: %w", err)
	}
	if len(statement.Subject) > 0 {
		c.Annotations = statement.Subject[0].Annotations
	}
	if !e.isSignature() {
		c.PredicateType, c.Predicate = e.predicateType, statement.Predicate
	}
	return nil
}

// Claim returns a fact in the form of a claim.
func (v Verified) Claim() Claim {
	c := Claim{Object: v.Object, KeyID: v.KeyID, Reference: v.Reference, Annotations: v.Annotations, PredicateType: v.PredicateType, Predicate: v.Predicate}
	if v.Certificate != nil {
		c.Subject, c.Issuer = v.Certificate.Subject, v.Certificate.Issuer
	}
	if len(v.Times) > 0 {
		c.Time = v.Times[0].Time
	}
	return c
}
