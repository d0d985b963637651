package sign

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sigstore/cosign/v2/pkg/types"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"oras.land/oras-go/v2"
)

const (
	mediaTypeBundle       = "application/vnd.dev.sigstore.bundle.v0.3+json"
	mediaTypeBundlePrefix = "application/vnd.dev.sigstore.bundle" // of any version

	statementType = "https://in-toto.io/Statement/v1"
)

// attachBundle adds a referrer of root that holds a Sigstore bundle, laid out as by cosign 3,
// but for the annotation with the time.
func (o SignOptions) attachBundle(ctx context.Context, store oras.GraphTarget, root ocispec.Descriptor, add *signedContent) (attached Attached, err error) {
	if o.isReproducible() {
		attached.Manifest, err = findBundle(ctx, store, root, add.signed, o.Signer.Key())
		if attached.Existing = attached.Manifest != ""; attached.Existing || err != nil {
			return attached, err
		}
	}
	pb, err := o.signContent(ctx, add.content)
	if err != nil {
		return attached, err
	}
	b, err := marshalBundle(pb)
	if err != nil {
		return attached, err
	}
	predicateType := add.predicateType
	if predicateType == "" {
		predicateType = types.CosignSignPredicateType
	}
	attached.Manifest, err = pushBundle(ctx, store, root, b, predicateType)
	return attached, err
}

func pushBundle(ctx context.Context, store oras.GraphTarget, root ocispec.Descriptor, b []byte, predicateType string) (digest.Digest, error) {
	layer, err := pushBytes(ctx, store, mediaTypeBundle, b)
	if err != nil {
		return "", err
	}
	config, err := pushBytes(ctx, store, ocispec.MediaTypeEmptyJSON, []byte("{}"))
	if err != nil {
		return "", err
	}
	m, err := json.Marshal(ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: mediaTypeBundle,
		Config:       config,
		Layers:       []ocispec.Descriptor{layer},
		Subject:      &ocispec.Descriptor{MediaType: root.MediaType, Digest: root.Digest, Size: root.Size},
		Annotations: map[string]string{
			"dev.sigstore.bundle.content":       "dsse-envelope",
			"dev.sigstore.bundle.predicateType": predicateType,
		},
	})
	if err != nil {
		return "", err
	}
	desc, err := pushBytes(ctx, store, ocispec.MediaTypeImageManifest, m)
	return desc.Digest, err
}

// findBundle returns the manifest of a bundle in which key has signed that very statement.
func findBundle(ctx context.Context, store oras.GraphTarget, root ocispec.Descriptor, statement []byte, key *Key) (digest.Digest, error) {
	policy := Policy{Authorities: []Authority{{Key: key}}}
	var found digest.Digest
	w := &signatureWalker{store: store, root: root, scope: allAttached, visitor: func(obj Object, e *envelope, _ error) error {
		if e == nil || obj.Form != Bundle || !bytes.Equal(e.payload, statement) {
			return nil
		}
		if _, err := policy.verifyEnvelope(e, root.Digest); err == nil {
			found = obj.Manifest
		}
		return nil
	}}
	return found, w.walkReferrers(ctx)
}

// encodeSignStatement returns the in-toto statement that cosign 3's sign makes.
func encodeSignStatement(d digest.Digest, annotations map[string]string) ([]byte, error) {
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

// encodeStatement encodes the in-toto statement of an attestation.
func encodeStatement(d digest.Digest, opts SignOptions, s Statement) ([]byte, error) {
	type subject struct {
		Name        string            `json:"name,omitempty"`
		Digest      map[string]string `json:"digest"`
		Annotations map[string]string `json:"annotations,omitempty"`
	}
	return json.Marshal(struct {
		Type          string          `json:"_type"`
		Subject       []subject       `json:"subject"`
		PredicateType string          `json:"predicateType"`
		Predicate     json.RawMessage `json:"predicate"`
	}{
		Type:          statementType,
		Subject:       []subject{{opts.Reference, map[string]string{d.Algorithm().String(): d.Encoded()}, opts.Annotations}},
		PredicateType: s.Type,
		Predicate:     s.Predicate,
	})
}

// marshalBundle encodes a bundle in compact form: the blanks of protojson differ between builds
// of the program.
func marshalBundle(pb *protobundle.Bundle) ([]byte, error) {
	b, err := protojson.Marshal(pb)
	if err != nil {
		return nil, err
	}
	var compact bytes.Buffer
	err = json.Compact(&compact, b)
	return compact.Bytes(), err
}

// isBundle reports whether the artifact type or a layer is a Sigstore bundle: cosign looks at the
// layer alone.
func isBundle(m *ocispec.Manifest) bool {
	return strings.HasPrefix(m.ArtifactType, mediaTypeBundlePrefix) ||
		slices.ContainsFunc(m.Layers, func(l ocispec.Descriptor) bool { return strings.HasPrefix(l.MediaType, mediaTypeBundlePrefix) })
}

// isSignType reports whether cosign 3's sign makes statements of this type.
func isSignType(predicateType string) bool { return predicateType == types.CosignSignPredicateType }
