package transfer

import (
	"context"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/pkg/oci"
)

// manifest is what manifests of every kind say of themselves.
type manifest struct {
	ArtifactType string               `json:"artifactType"`
	Config       *ocispec.Descriptor  `json:"config"`
	Layers       []ocispec.Descriptor `json:"layers"`
	Manifests    []ocispec.Descriptor `json:"manifests"`
	Subject      *ocispec.Descriptor  `json:"subject"`
}

func parse(data []byte) (manifest, error) {
	var m manifest
	err := oci.Unmarshal(data, &m)
	return m, err
}

// needs is what a manifest is not whole without. Its subject is no part of that: it need
// not exist (image-spec v1.1, manifest.md).
func (m manifest) needs(mediaType string) []ocispec.Descriptor {
	if isIndex(mediaType) {
		return m.Manifests
	}
	if m.Config == nil {
		return m.Layers
	}
	return append([]ocispec.Descriptor{*m.Config}, m.Layers...)
}

// read reads a manifest and checks it against its descriptor.
func read(ctx context.Context, from content.Fetcher, desc ocispec.Descriptor) ([]byte, error) {
	if desc.Size > oci.MaxManifest {
		return nil, fmt.Errorf("manifest %s of %d bytes is over the limit of %d", desc.Digest, desc.Size, oci.MaxManifest)
	}
	var data []byte
	err := retried(ctx, func() (err error) {
		data, err = content.FetchAll(ctx, from, desc)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read manifest %s from source %s: %w", desc.Digest, where(from), err)
	}
	return data, nil
}

const (
	dockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
)

func isIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == dockerIndex
}

func isManifest(mediaType string) bool {
	return isIndex(mediaType) || mediaType == ocispec.MediaTypeImageManifest || mediaType == dockerManifest
}

// isForeign is true of layers that registries need not have, since their descriptors say at
// which URLs they are: Windows' base layers, for the most part.
func isForeign(mediaType string) bool {
	switch mediaType {
	case "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
		"application/vnd.oci.image.layer.nondistributable.v1.tar",
		"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
		"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd":
		return true
	}
	return false
}
