package transfer

import (
	"context"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/pkg/oci"
)

// manifest holds the fields of all kinds of manifests.
type manifest struct {
	ArtifactType string               `json:"artifactType"`
	Config       *ocispec.Descriptor  `json:"config"`
	Layers       []ocispec.Descriptor `json:"layers"`
	Manifests    []ocispec.Descriptor `json:"manifests"`
	Subject      *ocispec.Descriptor  `json:"subject"`
}

func parseManifest(data []byte) (manifest, error) {
	var m manifest
	err := oci.UnmarshalJSON(data, &m)
	return m, err
}

// required returns what a manifest needs to be complete. Its subject is not part of that: it need
// not exist (image-spec v1.1, manifest.md).
func (m manifest) required(mediaType string) []ocispec.Descriptor {
	if isIndex(mediaType) {
		return m.Manifests
	}
	if m.Config == nil {
		return m.Layers
	}
	return append([]ocispec.Descriptor{*m.Config}, m.Layers...)
}

// readManifest reads a manifest and verifies its digest.
func readManifest(ctx context.Context, from content.Fetcher, desc ocispec.Descriptor) ([]byte, error) {
	if desc.Size > oci.MaxManifest {
		return nil, fmt.Errorf("manifest %s has %d bytes, the limit is %d", desc.Digest, desc.Size, oci.MaxManifest)
	}
	var data []byte
	err := withRetries(ctx, func() (err error) {
		data, err = content.FetchAll(ctx, from, desc)
		return err
	})
	if err != nil {
		return nil, &ItemError{Digest: desc.Digest, Item: "manifest", Source: storeName(from), Err: err}
	}
	return data, nil
}

const (
	mediaTypeDockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
	mediaTypeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
)

func isIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == mediaTypeDockerIndex
}

func isManifest(mediaType string) bool {
	return isIndex(mediaType) || mediaType == ocispec.MediaTypeImageManifest || mediaType == mediaTypeDockerManifest
}
