package serve

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

// unpackDeltas makes the layers that archives have as deltas of what is served with them, as files in
// a folder: a registry answers for ranges, and to many at a time. Archives may build on one another.
func (s *Server) unpackDeltas(ctx context.Context, o Options) error {
	for made := true; made; {
		made = false
		for i, store := range s.stores {
			from, ok := store.(*archive.Store)
			if !ok {
				continue
			}
			with, err := transfer.WithDeltas(ctx, from, storage{s.stores}, transfer.Options{TemporaryDir: o.TemporaryDir})
			var base *transfer.BaseError
			if errors.As(err, &base) {
				continue // another one may make it; if not, the archive is incomplete
			}
			if err != nil {
				return err
			}
			if len(with.Layers()) == 0 {
				continue
			}
			if s.stores[i], err = s.unpackArchive(ctx, from, with, o); err != nil {
				return err
			}
			made = true
		}
	}
	return nil
}

// unpackArchive makes the layers of one archive.
func (s *Server) unpackArchive(ctx context.Context, from *archive.Store, with *transfer.ArchiveWithDeltas, o Options) (_ *unpackedArchive, err error) {
	if s.dir == "" {
		if s.dir, err = os.MkdirTemp(o.TemporaryDir, "krtpkg-serve-*"); err != nil {
			return nil, err
		}
	}
	unpacked := &unpackedArchive{Store: from, files: map[digest.Digest]layerFile{}}
	for _, layer := range with.Layers() {
		name := filepath.Join(s.dir, layer.Digest.Encoded())
		if err := writeLayer(ctx, with, layer, name); err != nil {
			return nil, err
		}
		unpacked.files[layer.Digest] = layerFile{name, layer.Size}
	}
	return unpacked, nil
}

// writeLayer writes a layer, which is checked as it is made.
func writeLayer(ctx context.Context, from *transfer.ArchiveWithDeltas, layer ocispec.Descriptor, name string) error {
	body, err := from.Fetch(ctx, layer)
	if err != nil {
		return err
	}
	defer body.Close()
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, body)
	return errors.Join(err, file.Close())
}

// storage is the list as storage.
type storage struct{ storeList }

func (s storage) Exists(_ context.Context, desc ocispec.Descriptor) (bool, error) {
	_, err := s.Stat(desc.Digest)
	if errors.Is(err, errdef.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// unpackedArchive is an archive with the layers that its deltas make as files.
type unpackedArchive struct {
	*archive.Store
	files map[digest.Digest]layerFile
}

type layerFile struct {
	name string
	size int64
}

func (u *unpackedArchive) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if file, ok := u.files[desc.Digest]; ok {
		return os.Open(file.name)
	}
	return u.Store.Fetch(ctx, desc)
}

// Exists reports whether content is there.
func (u *unpackedArchive) Exists(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	if _, ok := u.files[desc.Digest]; ok {
		return true, nil
	}
	return u.Store.Exists(ctx, desc)
}

// Stat returns the size of content.
func (u *unpackedArchive) Stat(d digest.Digest) (int64, error) {
	if file, ok := u.files[d]; ok {
		return file.size, nil
	}
	return u.Store.Stat(d)
}
