package layout

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"
)

// Unlist takes manifests out of index.json, with all of their tags, in one write. Their content stays.
func (s *Store) Unlist(_ context.Context, manifests []digest.Digest) error {
	unlisted := map[digest.Digest]bool{}
	for _, d := range manifests {
		unlisted[d] = true
	}
	return s.updateIndex(func(index *ocispec.Index) {
		index.Manifests = slices.DeleteFunc(index.Manifests, func(d ocispec.Descriptor) bool { return unlisted[d.Digest] })
	})
}

// Remove removes content, and frees its disk space. Content that does not exist is not an error.
func (s *Store) Remove(_ context.Context, d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("%q: %w", d, errdef.ErrInvalidDigest)
	}
	name := blobPath(d)
	if err := s.folder.removeFile(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	partial := filepath.Join("ingest", d.Encoded()+".partial")
	if err := s.folder.removeFile(partial); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// ListEntries returns what index.json lists, with and without tags.
func (s *Store) ListEntries() ([]ocispec.Descriptor, error) {
	index, err := s.loadIndex()
	return index.Manifests, err
}
