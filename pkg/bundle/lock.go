package bundle

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/oci"
)

// ReadLock reads the image lock of a bundle, a runtime or any other imgpkg bundle, and nothing else of it: versions of
// krtpkg that put other files into one can be read, too. A manifest that is not an imgpkg bundle has no lock, which is
// not an error. Each byte is checked against its digest. The error is a [*LockError] if the bytes are right and the lock is
// not.
func ReadLock(ctx context.Context, store content.Fetcher, m *oci.Manifest) (images.Lock, error) {
	if is, err := hasLock(ctx, store, m); !is || err != nil {
		return nil, err
	}
	layer := m.Layers[0]
	if layer.Size > maxLayer {
		return nil, fmt.Errorf("layer %s has %d bytes, the limit is %d", layer.Digest, layer.Size, maxLayer)
	}
	blob, err := store.Fetch(ctx, layer)
	if err != nil {
		return nil, fmt.Errorf("read layer %s: %w", layer.Digest, err)
	}
	defer blob.Close()
	verified := content.NewVerifyReader(blob, layer)
	data, unpackErr := findLock(verified)
	// The digest is the better reason: unpacking fails in odd ways on wrong bytes.
	if _, err := io.Copy(io.Discard, verified); err != nil {
		return nil, fmt.Errorf("read layer %s: %w", layer.Digest, err)
	}
	if err := verified.Verify(); err != nil {
		return nil, fmt.Errorf("layer %s: %w", layer.Digest, err)
	}
	if unpackErr != nil {
		return nil, &LockError{layer.Digest, unpackErr}
	}
	lock, err := images.UnmarshalLock(fileImages, data)
	if err != nil {
		return nil, &LockError{layer.Digest, err}
	}
	return lock, nil
}

// LockError reports a layer that matches its digest and has no image lock that can be read: reading it again does not help.
type LockError struct {
	Layer digest.Digest
	Err   error
}

func (e *LockError) Error() string { return fmt.Sprintf("layer %s: %v", e.Layer, e.Err) }

func (e *LockError) Unwrap() error { return e.Err }

// maxConfig is how large the config may be of what can be an imgpkg bundle, whose own is a few labels.
const maxConfig = oci.MaxManifest

// hasLock reports whether a manifest is an imgpkg bundle: by its type, or by the label in its config.
func hasLock(ctx context.Context, store content.Fetcher, m *oci.Manifest) (bool, error) {
	switch m.ArtifactType {
	case TypeBundle, TypeRuntime, TypeCatalogue:
		if len(m.Layers) != 1 {
			return false, fmt.Errorf("%s has %d layers, want 1", m.ArtifactType, len(m.Layers))
		}
		return true, nil
	case TypeArgoCD, TypeClosure, TypeDeltas:
		return false, nil
	}
	if len(m.Layers) != 1 || m.Config == nil || m.Config.Size <= 2 {
		return false, nil
	}
	if m.Config.Size > maxConfig {
		return false, fmt.Errorf("config %s has %d bytes, the limit is %d: %w", m.Config.Digest, m.Config.Size, maxConfig, oci.ErrTooLarge)
	}
	data, err := content.FetchAll(ctx, store, *m.Config)
	if err != nil {
		return false, fmt.Errorf("read config %s: %w", m.Config.Digest, err)
	}
	var config struct {
		Config struct {
			Labels map[string]string `json:"Labels"`
		} `json:"config"`
	}
	if err := oci.UnmarshalJSON(data, &config); err != nil {
		return false, nil // an artifact, whose config need not be JSON
	}
	_, is := config.Config.Labels[labelImgpkg]
	return is, nil
}

// findLock returns the lock in a bundle's layer.
func findLock(r io.Reader) ([]byte, error) {
	zip, err := gzip.NewReader(r)
	if err != nil {
		return nil, err
	}
	stream := &io.LimitedReader{R: zip, N: maxStream}
	archive := tar.NewReader(stream)
	var lock []byte
	for {
		header, err := archive.Next()
		switch {
		case errors.Is(err, io.EOF) && stream.N > 0:
			if lock == nil {
				return nil, fmt.Errorf("%s is missing", fileImages)
			}
			return lock, nil
		case stream.N <= 0:
			return nil, fmt.Errorf("the archive has more than %d bytes", int64(maxStream))
		case err != nil:
			return nil, err
		case header.Name != fileImages || header.Typeflag != tar.TypeReg:
			continue
		case lock != nil:
			return nil, fmt.Errorf("duplicate %s", fileImages)
		case header.Size > oci.MaxMetadataFile:
			return nil, fmt.Errorf("%s has %d bytes, the limit is %d: %w", fileImages, header.Size, oci.MaxMetadataFile, oci.ErrTooLarge)
		}
		if lock, err = io.ReadAll(archive); err != nil {
			return nil, err
		}
	}
}
