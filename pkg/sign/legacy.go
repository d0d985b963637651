package sign

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	"github.com/sigstore/cosign/v2/pkg/types"
	"github.com/sigstore/sigstore/pkg/signature/payload"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
)

// signatureType marks the Referrer form; cosign 2 writes it as the artifact type and as the
// config's media type.
const signatureType = "application/vnd.dev.cosign.artifact.sig.v1+json"

const dockerConfig = "application/vnd.docker.container.image.v1+json"

// attachLegacy adds a layer to the manifest under root's tag, or makes that manifest.
func attachLegacy(ctx context.Context, store oras.GraphTarget, root ocispec.Descriptor, opts SignOptions) (Attached, error) {
	claim, err := simplePayload(root.Digest, opts)
	if err != nil {
		return Attached{}, err
	}
	attached := Attached{Object: Object{Form: Legacy}, Tag: Tag(root.Digest), KeyID: opts.Signer.Key().ID()}
	desc, m, err := fetchTagged(ctx, store, attached.Tag)
	switch {
	case errors.Is(err, errdef.ErrNotFound) && desc.Digest == "":
		desc.MediaType = ocispec.MediaTypeImageManifest
		m = &ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2},
			Config:    ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig},
		}
	case err != nil:
		// Other people's signatures may be in there: better to stop than to replace them.
		return Attached{}, fmt.Errorf("%s: %w", attached.Tag, err)
	case len(m.Layers) >= maxSignatures:
		return Attached{}, fmt.Errorf("%s: %d signatures already: %w", attached.Tag, len(m.Layers), ErrTooMany)
	}
	if attached.Layer = findClaim(m, claim, opts.Signer.Key()); attached.Layer >= 0 {
		attached.Manifest, attached.Existing = desc.Digest, true
		return attached, nil
	}
	layer, err := pushClaim(ctx, store, claim, opts.Signer)
	if err != nil {
		return Attached{}, err
	}
	m.MediaType = desc.MediaType // as the store has it, which is checked; the JSON may say anything
	m.Layers = append(m.Layers, layer)
	attached.Layer = len(m.Layers) - 1
	desc, err = pushSignatures(ctx, store, m, attached.Tag)
	attached.Manifest = desc.Digest
	return attached, err
}

// Merge adds what a manifest of the store holds to the one under one of cosign's tags there,
// as [Sign] adds a signature: nothing that is under the tag is lost. It returns what the tag
// names then. Manifests that do not have the form of signatures or attestations can't be
// merged; the error names both.
func Merge(ctx context.Context, store oras.GraphTarget, tag string, other ocispec.Descriptor) (ocispec.Descriptor, error) {
	desc, m, err := fetchTagged(ctx, store, tag)
	if err != nil {
		return desc, fmt.Errorf("merge %s into %s: %w", other.Digest, cmp.Or(desc.Digest.String(), tag), err)
	}
	theirs, err := fetchManifest(ctx, store, other)
	if err != nil {
		return desc, fmt.Errorf("merge %s into %s: %w", other.Digest, desc.Digest, err)
	}
	added := without(theirs.Layers, m.Layers)
	switch {
	case len(added) == 0:
		return desc, nil
	case len(without(m.Layers, theirs.Layers)) == 0:
		return other, store.Tag(ctx, other, tag)
	case strings.HasSuffix(tag, ".sbom"), !isManifest(other.MediaType), !isImageConfig(m.Config.MediaType), !isImageConfig(theirs.Config.MediaType):
		// Whoever reads an SBOM by its tag takes it for one layer.
		return desc, fmt.Errorf("%s is there already, and %s can't be merged with it: delete one of them", desc.Digest, other.Digest)
	case len(m.Layers)+len(added) > maxSignatures:
		return desc, fmt.Errorf("merge %s into %s: %d signatures: %w", other.Digest, desc.Digest, len(m.Layers)+len(added), ErrTooMany)
	}
	m.MediaType = desc.MediaType
	m.Layers = append(m.Layers, added...)
	return pushSignatures(ctx, store, m, tag)
}

// without are the layers that are not among others. Signatures of one claim have the same
// digest and differ in an annotation.
func without(layers, others []ocispec.Descriptor) []ocispec.Descriptor {
	return slices.DeleteFunc(slices.Clone(layers), func(l ocispec.Descriptor) bool {
		return slices.ContainsFunc(others, func(o ocispec.Descriptor) bool {
			return o.Digest == l.Digest && o.MediaType == l.MediaType && maps.Equal(o.Annotations, l.Annotations)
		})
	})
}

func isImageConfig(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageConfig || mediaType == dockerConfig
}

// pushClaim signs and writes the payload, and describes it as the layer that it will be.
func pushClaim(ctx context.Context, store content.Pusher, claim []byte, signer *Signer) (ocispec.Descriptor, error) {
	sig, err := signer.sign(ctx, claim)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	layer, err := push(ctx, store, types.SimpleSigningMediaType, claim)
	layer.Annotations = map[string]string{static.SignatureAnnotationKey: base64.StdEncoding.EncodeToString(sig)}
	return layer, err
}

// pushSignatures writes the manifest with a config that fits its layers, and tags it.
func pushSignatures(ctx context.Context, store oras.GraphTarget, m *ocispec.Manifest, tag string) (ocispec.Descriptor, error) {
	if t := m.Config.MediaType; isImageConfig(t) {
		config := ocispec.Image{RootFS: ocispec.RootFS{Type: "layers"}}
		for _, l := range m.Layers {
			// Payloads are not compressed: the layer's digest is its diff id.
			config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.Digest)
		}
		b, err := json.Marshal(config)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		if m.Config, err = push(ctx, store, t, b); err != nil {
			return ocispec.Descriptor{}, err
		}
	}
	b, err := json.Marshal(m)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return oras.TagBytes(ctx, store, m.MediaType, b, tag)
}

// simplePayload is the claim that the Legacy form signs (containers-signature(5)).
func simplePayload(root digest.Digest, opts SignOptions) ([]byte, error) {
	var optional map[string]any
	for k, v := range opts.Annotations {
		if optional == nil {
			optional = map[string]any{}
		}
		optional[k] = v
	}
	return json.Marshal(payload.SimpleContainerImage{
		Critical: payload.Critical{
			Identity: payload.Identity{DockerReference: opts.Reference},
			Image:    payload.Image{DockerManifestDigest: root.String()},
			Type:     payload.CosignSignatureType,
		},
		Optional: optional,
	})
}

// findClaim is the layer of m in which key has signed that very claim, or -1.
func findClaim(m *ocispec.Manifest, claim []byte, key *Key) int {
	d := digest.FromBytes(claim)
	for i, l := range m.Layers {
		if l.Digest != d || l.MediaType != types.SimpleSigningMediaType {
			continue
		}
		sig, err := layerSignature(l)
		if err == nil && key.signed(claim, sig) == nil {
			return i
		}
	}
	return -1
}

// walkLayers visits the signatures of a Legacy or Referrer manifest.
func walkLayers(ctx context.Context, store content.Fetcher, obj Object, m *ocispec.Manifest, see visit) error {
	for i, l := range m.Layers {
		obj.Layer = i
		sig, err := fetchLayer(ctx, store, l)
		if err := see(obj, sig, err); err != nil {
			return err
		}
	}
	return nil
}

func fetchLayer(ctx context.Context, store content.Fetcher, l ocispec.Descriptor) (envelope, error) {
	if l.MediaType != types.SimpleSigningMediaType {
		return nil, fmt.Errorf("layer media type %q, want %s", l.MediaType, types.SimpleSigningMediaType)
	}
	sig, err := layerSignature(l)
	if err != nil {
		return nil, err
	}
	claim, err := fetch(ctx, store, l, maxPayload)
	if err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	return simpleSigning{claim, sig}, nil
}

func layerSignature(l ocispec.Descriptor) ([]byte, error) {
	s, ok := l.Annotations[static.SignatureAnnotationKey]
	if !ok {
		return nil, fmt.Errorf("no annotation %s", static.SignatureAnnotationKey)
	}
	sig, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("annotation %s: %w", static.SignatureAnnotationKey, err)
	}
	return sig, nil
}

// simpleSigning is a signature over a simple signing payload.
type simpleSigning struct {
	payload, sig []byte
}

func (s simpleSigning) verify(root digest.Digest, keys []*Key) (claims, error) {
	for _, key := range keys {
		if key.signed(s.payload, s.sig) == nil {
			return s.claims(root, key)
		}
	}
	return claims{}, errUntrusted
}

// claims reads the payload, which key has signed, and holds it against root.
func (s simpleSigning) claims(root digest.Digest, key *Key) (claims, error) {
	var c payload.SimpleContainerImage
	if err := json.Unmarshal(s.payload, &c); err != nil {
		return claims{}, fmt.Errorf("payload: %w", err)
	}
	if c.Critical.Type != payload.CosignSignatureType {
		return claims{}, fmt.Errorf("signed type %q, want %q", c.Critical.Type, payload.CosignSignatureType)
	}
	if d := c.Critical.Image.DockerManifestDigest; d != root.String() {
		return claims{}, mismatch(d, root)
	}
	return claims{key, c.Critical.Identity.DockerReference, c.Optional}, nil
}
