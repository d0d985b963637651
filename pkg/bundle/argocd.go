package bundle

import (
	"encoding/json"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
)

// ForArgoCD returns a second manifest over the layer of a bundle or a runtime. Argo CD takes none but OCI's
// media type of a layer, imgpkg none but Docker's.
func ForArgoCD(m *ocispec.Manifest) (ocispec.Descriptor, []byte, error) {
	second := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: TypeArgoCD,
		Config: m.Config, Layers: []ocispec.Descriptor{m.Layers[0]}, Annotations: m.Annotations,
	}
	second.Layers[0].MediaType = ocispec.MediaTypeImageLayerGzip
	data, err := json.Marshal(second)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	return content.NewDescriptorFromBytes(ocispec.MediaTypeImageManifest, data), data, nil
}

// ArgoCDIndex returns the index that keeps the second manifests of a runtime and of its bundles where the
// runtime is, and brings them along wherever it goes: a referrer.
func ArgoCDIndex(runtime ocispec.Descriptor, manifests []ocispec.Descriptor) (ocispec.Descriptor, []byte, error) {
	subject := ocispec.Descriptor{MediaType: runtime.MediaType, Digest: runtime.Digest, Size: runtime.Size}
	data, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, ArtifactType: TypeArgoCD,
		Manifests: manifests, Subject: &subject,
	})
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	return content.NewDescriptorFromBytes(ocispec.MediaTypeImageIndex, data), data, nil
}
