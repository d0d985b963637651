package sign

import (
	"bytes"
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
	"github.com/sigstore/cosign/v2/pkg/types"
	"github.com/sigstore/sigstore/pkg/signature/payload"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/oci"
)

// signatureType and attestationType mark the Referrer form; cosign 2 writes them as the artifact
// type and as the config's media type.
const (
	artifactTypeSignature   = "application/vnd.dev.cosign.artifact.sig.v1+json"
	artifactTypeAttestation = "application/vnd.dev.cosign.artifact.att.v1+json"
)

// Annotations of a layer in the legacy form: the signature, and what it is verified with.
const (
	annotationSignature   = "dev.cosignproject.cosign/signature"
	annotationCertificate = "dev.sigstore.cosign/certificate"
	annotationChain       = "dev.sigstore.cosign/chain"
	annotationLogEntry    = "dev.sigstore.cosign/bundle"
	annotationTimestamp   = "dev.sigstore.cosign/rfc3161timestamp"
)

// legacyLogEntry is what annotationLogEntry holds, as JSON: an entry of the log and the log's promise of inclusion, the signed
// entry timestamp.
type legacyLogEntry struct {
	SignedEntryTimestamp []byte
	Payload              legacyLogPayload
}

type legacyLogPayload struct {
	Body           []byte `json:"body"`
	IntegratedTime int64  `json:"integratedTime"`
	LogIndex       int64  `json:"logIndex"`
	LogID          string `json:"logID"`
}

// legacyTimestamp is what annotationTimestamp holds, as JSON: a TimeStampResp in DER (RFC 3161, section 2.4.2).
type legacyTimestamp struct{ SignedRFC3161Timestamp []byte }

const mediaTypeDockerConfig = "application/vnd.docker.container.image.v1+json"

// mediaTypeSimpleSigning is the media type of a simple signing claim in a layer.
const mediaTypeSimpleSigning = types.SimpleSigningMediaType

// attachLegacy adds a layer for each claim to the manifest under their tag, or makes that
// manifest. The tag is written once: it may not be movable.
func (o SignOptions) attachLegacy(ctx context.Context, store oras.GraphTarget, claims []signableClaim) ([]Attached, error) {
	tag := claims[0].legacy.tag
	desc, m, err := fetchTaggedManifest(ctx, store, tag)
	switch {
	case errors.Is(err, errdef.ErrNotFound) && desc.Digest == "":
		desc.MediaType = ocispec.MediaTypeImageManifest
		m = &ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2},
			Config:    ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig},
		}
	case err != nil:
		// It may hold other people's signatures: stop rather than replace them.
		return nil, fmt.Errorf("%s: %w", tag, err)
	}
	all := make([]Attached, len(claims))
	before := len(m.Layers)
	for i, c := range claims {
		all[i].Tag = tag
		if all[i].Layer = o.findOwnLayer(ctx, store, m, c.legacy); all[i].Layer >= 0 {
			all[i].Existing = true
			continue
		}
		if len(m.Layers) >= maxSignatures {
			return nil, fmt.Errorf("%s: has %d signatures: %w", tag, len(m.Layers), ErrTooMany)
		}
		layer, err := o.signLayer(ctx, store, c.legacy)
		if err != nil {
			return nil, err
		}
		m.Layers = append(m.Layers, layer)
		all[i].Layer = len(m.Layers) - 1
	}
	if len(m.Layers) > before {
		m.MediaType = desc.MediaType // as the store has it, which is checked; the JSON may say anything
		if desc, err = pushSignatures(ctx, store, m, tag); err != nil {
			return nil, err
		}
	}
	for i := range all {
		all[i].Manifest = desc.Digest
	}
	return all, nil
}

// findOwnLayer returns the layer in which the signer has already made the same claim, or -1.
func (o SignOptions) findOwnLayer(ctx context.Context, store content.Fetcher, m *ocispec.Manifest, add *signedContent) int {
	if !o.isReproducible() {
		return -1
	}
	return findLayerSignedBy(ctx, store, m, add, o.Signer.Key())
}

// signLayer signs, pushes the signed content and returns its descriptor for the manifest.
func (o SignOptions) signLayer(ctx context.Context, store content.Pusher, add *signedContent) (layer ocispec.Descriptor, err error) {
	sealing := o
	if add.mediaType == mediaTypeDSSE {
		sealing.Proofs.Timestamp = "" // of the envelope, which does not exist yet
	}
	pb, err := sealing.signContent(ctx, add.content)
	if err != nil {
		return layer, err
	}
	annotations, err := encodeAnnotations(pb, o.Signer.chain)
	if err != nil {
		return layer, err
	}
	data := add.signed
	if e := pb.GetDsseEnvelope(); e != nil {
		// As sigstore-go gives it to the log, to the byte: cosign compares the layer with the
		// hash in the entry.
		if data, err = json.Marshal(e); err != nil {
			return layer, err
		}
		annotations["predicateType"] = add.predicateType
		annotations[annotationSignature] = ""
		if err := o.timestampEnvelope(ctx, data, annotations); err != nil {
			return layer, err
		}
	} else {
		annotations[annotationSignature] = base64.StdEncoding.EncodeToString(pb.GetMessageSignature().GetSignature())
	}
	layer, err = pushBytes(ctx, store, add.mediaType, data)
	layer.Annotations = annotations
	return layer, err
}

// Merge adds what a manifest of the store holds to the one under one of cosign's tags there,
// as [Sign] adds a signature: nothing under the tag is lost. It returns what the tag then
// names. Manifests that do not have the form of signatures or attestations cannot be
// merged; the error names both.
func Merge(ctx context.Context, store oras.GraphTarget, tag string, other ocispec.Descriptor) (ocispec.Descriptor, error) {
	desc, m, err := fetchTaggedManifest(ctx, store, tag)
	if err != nil {
		return desc, fmt.Errorf("merge %s into %s: %w", other.Digest, cmp.Or(desc.Digest.String(), tag), err)
	}
	theirs, err := fetchManifest(ctx, store, other)
	if err != nil {
		return desc, fmt.Errorf("merge %s into %s: %w", other.Digest, desc.Digest, err)
	}
	added := subtractLayers(theirs.Layers, m.Layers)
	switch {
	case len(added) == 0:
		return desc, nil
	case len(subtractLayers(m.Layers, theirs.Layers)) == 0:
		return other, store.Tag(ctx, other, tag)
	case strings.HasSuffix(tag, ".sbom"), !oci.IsImageManifest(other.MediaType), !isImageConfig(m.Config.MediaType), !isImageConfig(theirs.Config.MediaType):
		// Whoever reads an SBOM by its tag takes it for one layer.
		return desc, fmt.Errorf("merge %[2]s into %[1]s: not signatures that can be merged: delete one of them", desc.Digest, other.Digest)
	case len(m.Layers)+len(added) > maxSignatures:
		return desc, fmt.Errorf("merge %s into %s: %d signatures: %w", other.Digest, desc.Digest, len(m.Layers)+len(added), ErrTooMany)
	}
	m.MediaType = desc.MediaType
	m.Layers = append(m.Layers, added...)
	return pushSignatures(ctx, store, m, tag)
}

// subtractLayers returns the layers that others does not have. Signatures of one claim have the same
// digest and differ in an annotation.
func subtractLayers(layers, others []ocispec.Descriptor) []ocispec.Descriptor {
	return slices.DeleteFunc(slices.Clone(layers), func(l ocispec.Descriptor) bool {
		return slices.ContainsFunc(others, func(o ocispec.Descriptor) bool {
			return o.Digest == l.Digest && o.MediaType == l.MediaType && maps.Equal(o.Annotations, l.Annotations)
		})
	})
}

func isImageConfig(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageConfig || mediaType == mediaTypeDockerConfig
}

// timestampEnvelope timestamps the whole envelope, as cosign 2 does and verifies in this form.
func (o SignOptions) timestampEnvelope(ctx context.Context, envelope []byte, annotations map[string]string) error {
	if o.Proofs.Timestamp == "" {
		return nil
	}
	stamp, err := newTimestampAuthority(o.Proofs.Timestamp).GetTimestamp(ctx, envelope)
	if err != nil {
		return err
	}
	text, err := json.Marshal(legacyTimestamp{SignedRFC3161Timestamp: stamp})
	annotations[annotationTimestamp] = string(text)
	return err
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
		if m.Config, err = pushBytes(ctx, store, t, b); err != nil {
			return ocispec.Descriptor{}, err
		}
	}
	b, err := json.Marshal(m)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return oras.TagBytes(ctx, store, m.MediaType, b, tag)
}

// encodeSimpleClaim returns the claim that the Legacy form signs (containers-signature(5)).
func encodeSimpleClaim(root digest.Digest, opts SignOptions) ([]byte, error) {
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

// findLayerSignedBy returns the layer of m in which key has signed that very claim or statement, or -1.
func findLayerSignedBy(ctx context.Context, store content.Fetcher, m *ocispec.Manifest, add *signedContent, key *Key) int {
	policy := Policy{Authorities: []Authority{{Key: key}}}
	claim := digest.FromBytes(add.signed)
	for i, l := range m.Layers {
		if l.MediaType != add.mediaType || l.MediaType == mediaTypeSimpleSigning && l.Digest != claim {
			continue
		}
		data, err := fetchVerified(ctx, store, l, maxStatement)
		if err != nil {
			continue // someone else's, and damaged
		}
		e, err := openLegacyLayer(l, data)
		if err != nil || !bytes.Equal(e.payload, add.signed) {
			continue
		}
		if err := policy.checkKeySignature(e); err == nil {
			return i
		}
	}
	return -1
}
