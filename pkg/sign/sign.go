// Package sign attaches signatures to what a store holds and verifies them, on a registry,
// an OCI layout or anything else that oras calls a graph target. It is the only importer of
// cosign and sigstore.
//
// To sign, load a key with [LoadSigner] and call [Sign]. To verify, load public keys with
// [LoadPublicKey], make a policy of them with [KeyPolicy] and call [Verify]; it returns a
// list of verified facts, and whatever is not in that list was not verified. The root is
// always given by digest: resolve a tag once, and use that descriptor for everything.
//
// # Promises
//
// Verify reads nothing but the store and needs no network, transparency log or clock. It
// trusts no tags, referrers listings or descriptors that it has not hashed itself: every
// byte is checked against its digest while it is read, and sizes and counts are capped.
// Only a statement of cosign's sign type counts as a signature: a provenance or an SBOM
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
// having one as soon as it sees a bundle, even where a valid Legacy signature is next to it.
//
// Their verify accepts what Verify does not: any attestation bundle by the key passes for a
// signature, and cosign 2.6 does not compare -a with the annotations of a bundle.
package sign

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	sigstore "github.com/sigstore/sigstore-go/pkg/sign"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
)

// Form is a way to store a signature next to what it signs.
type Form string

const (
	// Legacy is cosign 2's default: a simple signing payload as a layer of the image that is
	// tagged [Tag] of the root, or a DSSE envelope as one of the image tagged [AttestationTag].
	Legacy Form = "legacy"
	// Referrer is cosign 2's OCI 1.1 mode: the same layers in a referrer of the root. It is
	// verified and never written. A referrer that cannot be read is reported under this name
	// as well, since nobody can tell what it was.
	Referrer Form = "referrer"
	// Bundle is cosign 3's default: a Sigstore bundle as a referrer of the root.
	Bundle Form = "bundle"
)

// Tag returns the tag of a manifest's Legacy signatures: sha256-<hex>.sig.
func Tag(d digest.Digest) string {
	return d.Algorithm().String() + "-" + d.Encoded() + ".sig"
}

// AttestationTag returns the tag of a manifest's Legacy attestations: sha256-<hex>.att.
func AttestationTag(d digest.Digest) string {
	return d.Algorithm().String() + "-" + d.Encoded() + ".att"
}

// SignOptions are the signer, the claims and the forms of a signature.
type SignOptions struct {
	// Signer makes the signatures. It is required.
	Signer *Signer
	// Reference is the name that the signer claims for the root (repository, or repository
	// and tag). Only the Legacy form of a signature has a place for it. Default: no claim.
	Reference string
	// Annotations are further claims, signed with the digest. Default: none.
	Annotations map[string]string
	// Forms are the forms to write, of Legacy and Bundle. Default: both.
	Forms []Form
	// Proofs are the services that prove the time of the signature. Default: none.
	Proofs Proofs
}

// Proofs are the services that prove when a signature was made, and that it was.
type Proofs struct {
	// Log is the URL of a transparency log, Rekor 1.
	Log string
	// Timestamp is the URL of a timestamp authority (RFC 3161).
	Timestamp string
}

// Attached is a signature or an attestation that [Sign] or [Attest] has attached.
type Attached struct {
	Object
	// Tag is the manifest's tag; only the Legacy form has one.
	Tag   string `json:"tag,omitempty"`
	KeyID string `json:"keyId"`
	// Subject is the subject of the signer's certificate, if there is one.
	Subject string `json:"subject,omitempty"`
	// PredicateType is an attestation's; empty for a signature.
	PredicateType string `json:"predicateType,omitempty"`
	// Existing is set if the store already had the same claim by the same key, so that nothing
	// was written.
	Existing bool `json:"existing,omitempty"`
}

// Statement is something to attest: a predicate of a type (in-toto attestation v1).
type Statement struct {
	// Type is the predicate's, as a URI.
	Type string
	// Predicate is a JSON object.
	Predicate json.RawMessage
}

// Sign attaches signatures of root to it in store, one for each form, the Legacy form first.
// Root is the descriptor that the caller resolved in that store; its digest must be sha256.
//
// A Legacy signature is added to those under the tag. The registry API has no
// compare and swap: when two signers do this at the same moment, one signature is lost.
//
// On an error, what is returned has been attached.
func Sign(ctx context.Context, store oras.GraphTarget, root ocispec.Descriptor, opts SignOptions) ([]Attached, error) {
	if err := opts.validate(root); err != nil {
		return nil, fmt.Errorf("sign %s: %w", root.Digest, err)
	}
	statement, err := encodeSignStatement(root.Digest, opts.Annotations)
	if err != nil {
		return nil, err
	}
	payload, err := encodeSimpleClaim(root.Digest, opts)
	if err != nil {
		return nil, err
	}
	return opts.attachClaims(ctx, store, root, []signableClaim{{newStatementContent(statement, ""), &signedContent{
		tag: Tag(root.Digest), mediaType: mediaTypeSimpleSigning, signed: payload,
		content: &sigstore.PlainData{Data: payload},
	}}})
}

// Attest attaches attestations of root, as Sign attaches signatures; the Legacy
// form of all statements is one write. An attestation is not a signature.
func Attest(ctx context.Context, store oras.GraphTarget, root ocispec.Descriptor, statements []Statement, opts SignOptions) ([]Attached, error) {
	if err := opts.validate(root); err != nil {
		return nil, fmt.Errorf("attest %s: %w", root.Digest, err)
	}
	var all []signableClaim
	for _, s := range statements {
		statement, err := opts.buildStatement(root, s)
		if err != nil {
			return nil, fmt.Errorf("attest %s: %w", root.Digest, err)
		}
		data := newStatementContent(statement, s.Type)
		all = append(all, signableClaim{bundle: data, legacy: &signedContent{
			tag: AttestationTag(root.Digest), mediaType: mediaTypeDSSE, signed: statement,
			content: data.content, predicateType: s.Type,
		}})
	}
	return opts.attachClaims(ctx, store, root, all)
}

// buildStatement returns the in-toto statement of what is to be attested.
func (o SignOptions) buildStatement(root ocispec.Descriptor, s Statement) ([]byte, error) {
	if u, err := url.Parse(s.Type); err != nil || u.Scheme == "" {
		return nil, fmt.Errorf("predicate type %q is not a URI", s.Type)
	}
	if isSignType(s.Type) {
		return nil, fmt.Errorf("predicate type %s is reserved for signatures", s.Type)
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(s.Predicate, &object); err != nil || object == nil {
		return nil, fmt.Errorf("%s: the predicate is not a JSON object", s.Type)
	}
	statement, err := encodeStatement(root.Digest, o, s)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Type, err)
	}
	if len(statement) > maxStatement/2 {
		return nil, fmt.Errorf("%s: %d bytes, the limit is %d", s.Type, len(statement), maxStatement/2)
	}
	return statement, nil
}

// GatherReferrers calls attach, which attaches referrers in store. Where a store lists referrers in
// a manifest under a tag, which may be immutable, that manifest is written once for all of them.
func GatherReferrers(ctx context.Context, store any, attach func(context.Context) error) error {
	gatherer, ok := store.(interface {
		GatherReferrers(ctx context.Context, push func(context.Context) error) error
	})
	if !ok {
		return attach(ctx)
	}
	return gatherer.GatherReferrers(ctx, attach)
}

// signableClaim is the signed content of both forms; all claims of one call have the same tag.
type signableClaim struct{ bundle, legacy *signedContent }

// signedContent is what is signed and where it is stored.
type signedContent struct {
	// tag and mediaType are those of the Legacy form.
	tag, mediaType string
	// signed is the claim or the statement.
	signed        []byte
	content       sigstore.Content
	predicateType string
}

func newStatementContent(data []byte, predicateType string) *signedContent {
	return &signedContent{
		signed: data, predicateType: predicateType,
		content: &sigstore.DSSEData{Data: data, PayloadType: bundle.IntotoMediaType},
	}
}

// attachClaims writes the requested forms.
func (o SignOptions) attachClaims(ctx context.Context, store oras.GraphTarget, root ocispec.Descriptor, claims []signableClaim) (done []Attached, err error) {
	err = GatherReferrers(ctx, store, func(ctx context.Context) (err error) {
		done, err = o.attachForms(ctx, store, root, claims)
		return err
	})
	return done, err
}

func (o SignOptions) attachForms(ctx context.Context, store oras.GraphTarget, root ocispec.Descriptor, claims []signableClaim) (done []Attached, err error) {
	failed := func(form Form, err error) error { return fmt.Errorf("sign %s (%s): %w", root.Digest, form, err) }
	// Legacy first: should the second fail, cosign 2.6 is happier with this one alone.
	var legacy []Attached
	if o.writesForm(Legacy) && len(claims) > 0 {
		if legacy, err = o.attachLegacy(ctx, store, claims); err != nil {
			return nil, failed(Legacy, err)
		}
	}
	for i, c := range claims {
		if legacy != nil {
			done = append(done, o.describeAttached(legacy[i], Legacy, c))
		}
		if !o.writesForm(Bundle) || err != nil {
			continue
		}
		a, attachErr := o.attachBundle(ctx, store, root, c.bundle)
		if attachErr != nil {
			err = failed(Bundle, attachErr)
			continue
		}
		done = append(done, o.describeAttached(a, Bundle, c))
	}
	return done, err
}

func (o SignOptions) writesForm(form Form) bool {
	return len(o.Forms) == 0 || slices.Contains(o.Forms, form)
}

// describeAttached completes the facts of an attached claim.
func (o SignOptions) describeAttached(a Attached, form Form, c signableClaim) Attached {
	a.Form, a.KeyID, a.Subject, a.PredicateType = form, o.Signer.Key().ID(), o.Signer.certificateSubject(), c.legacy.predicateType
	return a
}

// isReproducible reports whether signing the same again adds nothing: a bare key repeats its claim,
// while a certificate or a log entry belongs to its moment.
func (o SignOptions) isReproducible() bool {
	return o.Signer.certificate == nil && o.Proofs == Proofs{}
}

// signContent signs and fetches the proofs.
func (o SignOptions) signContent(ctx context.Context, content sigstore.Content) (*protobundle.Bundle, error) {
	options := sigstore.BundleOptions{Context: ctx}
	if o.Signer.certificate != nil {
		options.CertificateProvider = o.Signer
	}
	if o.Proofs.Timestamp != "" {
		options.TimestampAuthorities = []*sigstore.TimestampAuthority{newTimestampAuthority(o.Proofs.Timestamp)}
	}
	if o.Proofs.Log != "" {
		options.TransparencyLogs = []sigstore.Transparency{sigstore.NewRekor(&sigstore.RekorOptions{BaseURL: o.Proofs.Log, Retries: serviceRetries})}
	}
	return sigstore.Bundle(content, keypair{o.Signer}, options)
}

func newTimestampAuthority(url string) *sigstore.TimestampAuthority {
	return sigstore.NewTimestampAuthority(&sigstore.TimestampAuthorityOptions{URL: url, Retries: serviceRetries})
}

// serviceRetries is how often a failed request to Sigstore's services is repeated.
const serviceRetries = 3

func (o SignOptions) validate(root ocispec.Descriptor) error {
	if o.Signer == nil {
		return errors.New("SignOptions.Signer is nil: want a signer, such as that of LoadSigner")
	}
	for _, f := range o.Forms {
		if f != Legacy && f != Bundle {
			return fmt.Errorf("unknown signature format %q", f)
		}
	}
	return checkRootDigest(root)
}

// checkRootDigest refuses digests other than sha256: simple signing payloads and cosign's
// statements know no other.
func checkRootDigest(root ocispec.Descriptor) error {
	if err := root.Digest.Validate(); err != nil {
		return fmt.Errorf("root digest %q: %w", root.Digest, err)
	}
	if a := root.Digest.Algorithm(); a != digest.SHA256 {
		return fmt.Errorf("root digest is %s, want %s", a, digest.SHA256)
	}
	return nil
}

// pushBytes pushes b unless the store has it.
func pushBytes(ctx context.Context, store content.Pusher, mediaType string, b []byte) (ocispec.Descriptor, error) {
	desc := content.NewDescriptorFromBytes(mediaType, b)
	if err := store.Push(ctx, desc, bytes.NewReader(b)); err != nil && !errors.Is(err, errdef.ErrAlreadyExists) {
		return ocispec.Descriptor{}, err
	}
	return desc, nil
}
