package archive

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"
)

// Fetch returns a manifest.
func (m manifestContents) Fetch(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	data, ok := m[desc.Digest]
	if !ok {
		return nil, fmt.Errorf("%s: %w", desc.Digest, errdef.ErrNotFound)
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

// Exists reports whether a manifest is there.
func (m manifestContents) Exists(_ context.Context, desc ocispec.Descriptor) (bool, error) {
	_, ok := m[desc.Digest]
	return ok, nil
}

// Stat returns the size of a manifest.
func (m manifestContents) Stat(d digest.Digest) (int64, error) {
	data, ok := m[d]
	if !ok {
		return 0, errdef.ErrNotFound
	}
	return int64(len(data)), nil
}
