package transfer

import (
	"context"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/pkg/oci"
)

// requiredBy returns what a manifest needs to be complete. Its subject is not part of that: it need
// not exist (image-spec v1.1, manifest.md).
func requiredBy(mediaType string, m *oci.Manifest) []ocispec.Descriptor {
	if oci.IsIndex(mediaType) {
		return m.Manifests
	}
	return m.Blobs()
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
