package oci

import (
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The media types of Docker's manifests (distribution: manifest/schema2, manifest/manifestlist).
const (
	MediaTypeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	MediaTypeDockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
	// MediaTypeDockerSchema1 is that of signed manifests of Docker's schema 1, and MediaTypeDockerSchema1Unsigned that
	// of others: registries no longer take them in.
	MediaTypeDockerSchema1         = "application/vnd.docker.distribution.manifest.v1+prettyjws"
	MediaTypeDockerSchema1Unsigned = "application/vnd.docker.distribution.manifest.v1+json"
)

// IsIndex reports whether a media type is that of an index, OCI's or Docker's.
func IsIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == MediaTypeDockerIndex
}

// IsImageManifest reports whether a media type is that of an image's manifest, OCI's or Docker's.
func IsImageManifest(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageManifest || mediaType == MediaTypeDockerManifest
}

// IsManifest reports whether a media type is that of an image's manifest or of an index.
func IsManifest(mediaType string) bool { return IsIndex(mediaType) || IsImageManifest(mediaType) }

// Manifest has what manifests of all kinds have (image-spec v1.1, manifest.md and image-index.md).
type Manifest struct {
	SchemaVersion int                  `json:"schemaVersion"`
	MediaType     string               `json:"mediaType"`
	ArtifactType  string               `json:"artifactType"`
	Config        *ocispec.Descriptor  `json:"config"`
	Layers        []ocispec.Descriptor `json:"layers"`
	Manifests     []ocispec.Descriptor `json:"manifests"`
	Subject       *ocispec.Descriptor  `json:"subject"`
	Annotations   map[string]string    `json:"annotations"`
}

// ParseManifest decodes a manifest within the limits of [UnmarshalJSON].
func ParseManifest(data []byte) (*Manifest, error) {
	m := &Manifest{}
	if err := UnmarshalJSON(data, m); err != nil {
		return nil, err
	}
	return m, nil
}

// Blobs returns the config, if there is one, and the layers.
func (m *Manifest) Blobs() []ocispec.Descriptor {
	if m.Config == nil {
		return m.Layers
	}
	return append([]ocispec.Descriptor{*m.Config}, m.Layers...)
}
