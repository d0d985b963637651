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
	bundleType   = "application/vnd.dev.sigstore.bundle.v0.3+json"
	bundlePrefix = "application/vnd.dev.sigstore.bundle" // of any version

	statementType = "https://in-toto.io/Statement/v1"
)

// attachBundle adds a referrer of root that holds a Sigstore bundle, laid out as by cosign 3,
// but for the annotation with the time.
func (o SignOptions) attachBundle(ctx context.Context, store oras.GraphTarget, root ocispec.Descriptor, add *addition) (attached Attached, err error) {
	if o.repeats() {
		attached.Manifest, err = findBundle(ctx, store, root, add.signed, o.Signer.Key())
		if attached.Existing = attached.Manifest != ""; attached.Existing || err != nil {
			return attached, err
		}
	}
	pb, err := o.seal(ctx, add.content)
	if err != nil {
		return attached, err
	}
	b, err := marshal(pb)
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
			"dev.sigstore.bundle.predicateType": predicateType,
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
	policy := Policy{Authorities: []Authority{{Key: key}}}
	var found digest.Digest
	w := &walker{store: store, root: root, what: everything, see: func(obj Object, e *envelope, _ error) error {
		if e == nil || obj.Form != Bundle || !bytes.Equal(e.payload, statement) {
			return nil
		}
		if _, err := policy.judge(e, root.Digest); err == nil {
			found = obj.Manifest
		}
		return nil
	}}
	return found, w.referrers(ctx)
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

// inToto is the statement that attests something.
func inToto(d digest.Digest, opts SignOptions, s Statement) ([]byte, error) {
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

// marshal writes a bundle. protojson puts in blanks that differ from one build of the program
// to the next.
func marshal(pb *protobundle.Bundle) ([]byte, error) {
	b, err := protojson.Marshal(pb)
	if err != nil {
		return nil, err
	}
	var compact bytes.Buffer
	err = json.Compact(&compact, b)
	return compact.Bytes(), err
}

// isBundle goes by the artifact type and by the layer, as cosign looks at the layer alone.
func isBundle(m *ocispec.Manifest) bool {
	return strings.HasPrefix(m.ArtifactType, bundlePrefix) ||
		slices.ContainsFunc(m.Layers, func(l ocispec.Descriptor) bool { return strings.HasPrefix(l.MediaType, bundlePrefix) })
}

// isSignType is true of the statement that cosign 3's sign makes.
func isSignType(predicateType string) bool { return predicateType == types.CosignSignPredicateType }
