package sign

import (
	"bytes"
	"context"
	"crypto"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sigstore/cosign/v2/pkg/types"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	sigstore "github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"google.golang.org/protobuf/encoding/protojson"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
)

const (
	bundleType   = "application/vnd.dev.sigstore.bundle.v0.3+json"
	bundlePrefix = "application/vnd.dev.sigstore.bundle" // of any version

	statementType = "https://in-toto.io/Statement/v1"
)

// attachBundle adds a referrer of root that holds a Sigstore bundle, laid out as by cosign 3's
// sign, but for the annotation with the time.
func attachBundle(ctx context.Context, store oras.GraphTarget, root ocispec.Descriptor, opts SignOptions) (Attached, error) {
	statement, err := signStatement(root.Digest, opts.Annotations)
	if err != nil {
		return Attached{}, err
	}
	attached := Attached{Object: Object{Form: Bundle}, KeyID: opts.Signer.Key().ID()}
	if attached.Manifest, err = findBundle(ctx, store, root, statement, opts.Signer.Key()); err != nil {
		return Attached{}, err
	}
	if attached.Existing = attached.Manifest != ""; attached.Existing {
		return attached, nil
	}
	b, err := newBundle(ctx, statement, opts.Signer)
	if err != nil {
		return Attached{}, err
	}
	attached.Manifest, err = pushBundle(ctx, store, root, b)
	return attached, err
}

func pushBundle(ctx context.Context, store oras.GraphTarget, root ocispec.Descriptor, b []byte) (digest.Digest, error) {
	layer, err := push(ctx, store, bundleType, b)
	if err != nil {
		return "", err
	}
	config, err := push(ctx, store, ocispec.MediaTypeEmptyJSON, []byte("{}"))
	if err != nil {
		return "", err
	}
	m, err := json.Marshal(ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: bundleType,
		Config:       config,
		Layers:       []ocispec.Descriptor{layer},
		Subject:      &ocispec.Descriptor{MediaType: root.MediaType, Digest: root.Digest, Size: root.Size},
		Annotations: map[string]string{
			"dev.sigstore.bundle.content":       "dsse-envelope",
			"dev.sigstore.bundle.predicateType": types.CosignSignPredicateType,
		},
	})
	if err != nil {
		return "", err
	}
	desc, err := push(ctx, store, ocispec.MediaTypeImageManifest, m)
	return desc.Digest, err
}

// findBundle is the manifest of a bundle in which key has signed that very statement.
func findBundle(ctx context.Context, store oras.GraphTarget, root ocispec.Descriptor, statement []byte, key *Key) (digest.Digest, error) {
	var found digest.Digest
	err := walkReferrers(ctx, store, root, func(obj Object, sig envelope, _ error) error {
		b, ok := sig.(*signedBundle)
		if !ok || !bytes.Equal(b.statement, statement) {
			return nil
		}
		if _, err := b.verify(root.Digest, []*Key{key}); err == nil {
			found = obj.Manifest
		}
		return nil
	})
	return found, err
}

// signStatement is the in-toto statement that cosign 3's sign makes.
func signStatement(d digest.Digest, annotations map[string]string) ([]byte, error) {
	type subject struct {
		Digest      map[string]string `json:"digest"`
		Annotations map[string]string `json:"annotations,omitempty"`
	}
	return json.Marshal(struct {
		Type          string    `json:"_type"`
		Subject       []subject `json:"subject"`
		PredicateType string    `json:"predicateType"`
		Predicate     struct{}  `json:"predicate"`
	}{
		Type:          statementType,
		Subject:       []subject{{map[string]string{d.Algorithm().String(): d.Encoded()}, annotations}},
		PredicateType: types.CosignSignPredicateType,
	})
}

func newBundle(ctx context.Context, statement []byte, signer *Signer) ([]byte, error) {
	pb, err := sigstore.Bundle(
		&sigstore.DSSEData{Data: statement, PayloadType: bundle.IntotoMediaType},
		keypair{signer},
		sigstore.BundleOptions{Context: ctx},
	)
	if err != nil {
		return nil, err
	}
	b, err := protojson.Marshal(pb)
	if err != nil {
		return nil, err
	}
	// protojson puts in blanks that differ from one build of the program to the next.
	var compact bytes.Buffer
	err = json.Compact(&compact, b)
	return compact.Bytes(), err
}

// isBundle goes by the artifact type and by the layer, as cosign looks at the layer alone.
func isBundle(m *ocispec.Manifest) bool {
	return strings.HasPrefix(m.ArtifactType, bundlePrefix) ||
		slices.ContainsFunc(m.Layers, func(l ocispec.Descriptor) bool { return strings.HasPrefix(l.MediaType, bundlePrefix) })
}

// errAttestation is the error of a bundle that claims something else than cosign's sign does.
var errAttestation = errors.New("bundle: an attestation, not a signature")

// fetchBundle reads the bundle of m.
func fetchBundle(ctx context.Context, store content.Fetcher, m *ocispec.Manifest) (envelope, error) {
	if len(m.Layers) != 1 {
		return nil, fmt.Errorf("%d layers, want 1", len(m.Layers))
	}
	raw, err := fetch(ctx, store, m.Layers[0], maxPayload)
	if err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	var b bundle.Bundle
	if err := b.UnmarshalJSON(raw); err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	if b.GetDsseEnvelope() == nil {
		return nil, errors.New("bundle: no DSSE envelope")
	}
	e, err := b.Envelope()
	if err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	s, err := e.Statement()
	if err != nil {
		return nil, fmt.Errorf("bundle: statement: %w", err)
	}
	if s.GetPredicateType() != types.CosignSignPredicateType {
		return nil, errAttestation
	}
	return &signedBundle{&b, b.GetDsseEnvelope().GetPayload()}, nil
}

// signedBundle is a Sigstore bundle with a statement of cosign's sign type.
type signedBundle struct {
	bundle    *bundle.Bundle
	statement []byte
}

func (s *signedBundle) verify(d digest.Digest, keys []*Key) (claims, error) {
	raw, err := hex.DecodeString(d.Encoded())
	if err != nil {
		return claims{}, err
	}
	for _, key := range keys {
		res, err := s.by(key, verify.WithArtifactDigest(d.Algorithm().String(), raw))
		if err == nil {
			return bundleClaims(res, d, key)
		}
	}
	return claims{}, s.reason(d, keys)
}

// by verifies with one key alone, without a transparency log, a timestamp or a certificate.
func (s *signedBundle) by(key *Key, artifact verify.ArtifactPolicyOption) (*verify.VerificationResult, error) {
	trusted := root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) {
		// Whatever the bundle calls its key, this is the one that is trusted.
		return root.NewExpiringKey(key.verifier, time.Time{}, time.Time{}), nil
	})
	v, err := verify.NewVerifier(trusted, verify.WithNoObserverTimestamps())
	if err != nil {
		return nil, err
	}
	return v.Verify(s.bundle, verify.NewPolicy(artifact, verify.WithKey()))
}

// reason tells why none of keys will do: a good signature of something else, a key that is not
// trusted (by the bundle's own word), or neither.
func (s *signedBundle) reason(d digest.Digest, keys []*Key) error {
	for _, key := range keys {
		if res, err := s.by(key, verify.WithoutArtifactUnsafe()); err == nil {
			return mismatch(subjects(res), d)
		}
	}
	id := s.hint()
	switch {
	case s.bundle.GetVerificationMaterial().GetPublicKey() == nil:
		return errors.New("signed with a certificate, and only keys are trusted")
	case id != "" && slices.ContainsFunc(keys, func(k *Key) bool { return k.ID() == id }):
		return fmt.Errorf("names the trusted key %s, but the signature is not valid", id)
	case id != "":
		return fmt.Errorf("signed with key %s, which is not trusted", id)
	}
	return errUntrusted
}

// subjects says what a statement is about, for a message.
func subjects(res *verify.VerificationResult) string {
	all := res.Statement.GetSubject()
	if len(all) == 0 {
		return "of nothing"
	}
	first := "sha256:" + all[0].GetDigest()["sha256"]
	if len(all) > 1 {
		return fmt.Sprintf("%s and %d more", first, len(all)-1)
	}
	return first
}

// hint is the id of the key that the bundle says it is signed with, if it says so as cosign
// does: the base64 of the SHA-256 of the key.
func (s *signedBundle) hint() string {
	b, err := base64.StdEncoding.DecodeString(s.bundle.GetVerificationMaterial().GetPublicKey().GetHint())
	if err != nil || len(b) != 32 {
		return ""
	}
	return hex.EncodeToString(b)
}

func bundleClaims(res *verify.VerificationResult, d digest.Digest, key *Key) (claims, error) {
	for _, subject := range res.Statement.GetSubject() {
		if subject.GetDigest()[d.Algorithm().String()] == d.Encoded() {
			return claims{key: key, annotations: subject.GetAnnotations().AsMap()}, nil
		}
	}
	// sigstore-go compares bytes, this compares hex: upper case would end here.
	return claims{}, fmt.Errorf("no subject names %s", d)
}

// keypair is a Signer as sigstore-go wants it.
type keypair struct{ *Signer }

func (k keypair) GetHashAlgorithm() protocommon.HashAlgorithm { return k.algo.GetProtoHashType() }
func (k keypair) GetSigningAlgorithm() protocommon.PublicKeyDetails {
	return k.algo.GetSignatureAlgorithm()
}
func (k keypair) GetPublicKey() crypto.PublicKey { return k.public }

// GetKeyAlgorithm is asked by Fulcio only.
func (k keypair) GetKeyAlgorithm() string { return "" }

func (k keypair) GetHint() []byte {
	sum, _ := hex.DecodeString(k.key.ID())
	return []byte(base64.StdEncoding.EncodeToString(sum))
}

func (k keypair) GetPublicKeyPem() (string, error) {
	b, err := cryptoutils.MarshalPublicKeyToPEM(k.public)
	return string(b), err
}

// SignData returns no digest: a DSSE envelope has no place for it.
func (k keypair) SignData(ctx context.Context, data []byte) ([]byte, []byte, error) {
	sig, err := k.sign(ctx, data)
	return sig, nil, err
}
