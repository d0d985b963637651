package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

// listDeltas returns the layers that archives say they have as deltas.
func (s storeList) listDeltas(ctx context.Context) (map[digest.Digest]bool, error) {
	layers := map[digest.Digest]bool{}
	for _, store := range s {
		from, ok := store.(*archive.Store)
		if !ok {
			continue
		}
		list, err := from.Deltas(ctx)
		if err != nil {
			return nil, err
		}
		for _, d := range list {
			layers[d.Layer.Digest] = true
		}
	}
	return layers, nil
}

// unpackDeltas makes the layers of roots that archives have as deltas of what is served with them, in a
// file: a registry answers for ranges, and to many at a time. Archives may build on one another. What the
// roots do not need is not made, whatever an archive says.
func (s *Server) unpackDeltas(ctx context.Context, o Options, roots []openedRoot) error {
	needed, err := s.listBlobs(ctx, roots)
	if err != nil {
		return err
	}
	bases := storage{s.stores, nil}
	if o.Verify != nil {
		bases.allowed = needed
	}
	for made := true; made; {
		made = false
		for i, store := range s.stores {
			from, ok := store.(*archive.Store)
			if !ok {
				continue
			}
			with, err := transfer.WithDeltas(ctx, from, bases, transfer.Options{TemporaryDir: o.TemporaryDir})
			var base *transfer.BaseError
			if errors.As(err, &base) {
				continue // another one may make it; if not, the archive is incomplete
			}
			if err != nil {
				return err
			}
			layers, err := needed.pickLayers(with.Layers())
			if err != nil {
				return fmt.Errorf("archive %s: %w", from, err)
			}
			if len(layers) == 0 {
				continue
			}
			if s.stores[i], err = s.unpackArchive(ctx, from, with, layers, o); err != nil {
				return fmt.Errorf("archive %s: %w", from, err)
			}
			made = true
		}
	}
	return nil
}

// pickLayers returns the layers that are needed. Their sizes must be those of the manifests.
func (sizes blobSizes) pickLayers(layers []ocispec.Descriptor) (picked []ocispec.Descriptor, err error) {
	for _, layer := range layers {
		size, ok := sizes[layer.Digest]
		if !ok {
			continue
		}
		if size != layer.Size {
			return nil, fmt.Errorf("delta of layer %s claims %d bytes, the manifest of the image %d: %w", layer.Digest, layer.Size, size, archive.ErrDamaged)
		}
		picked = append(picked, layer)
	}
	return picked, nil
}

// unpackArchive makes layers of one archive.
func (s *Server) unpackArchive(ctx context.Context, from *archive.Store, with *transfer.ArchiveWithDeltas, layers []ocispec.Descriptor, o Options) (_ *unpackedArchive, err error) {
	if s.layers == nil {
		if s.layers, err = newLayerFile(o.TemporaryDir); err != nil {
			return nil, fmt.Errorf("unpack deltas: %w: set TMPDIR to a folder with enough space", err)
		}
	}
	unpacked := &unpackedArchive{Store: from, layers: map[digest.Digest]*io.SectionReader{}}
	for _, layer := range layers {
		if unpacked.layers[layer.Digest], err = s.layers.writeLayer(ctx, with, layer); err != nil {
			return nil, err
		}
	}
	return unpacked, nil
}

// layerFile is a temporary file of layers, one after the other. It has no name where the system allows
// that, so that nothing is left of a process that was killed.
type layerFile struct {
	*os.File
	size int64
	// named is set if the file is to be removed when it is closed.
	named bool
}

func newLayerFile(dir string) (*layerFile, error) {
	file, err := os.CreateTemp(dir, "krtpkg-serve-*")
	if err != nil {
		return nil, err
	}
	return &layerFile{File: file, named: os.Remove(file.Name()) != nil}, nil
}

// writeLayer appends a layer, which is checked as it is made.
func (f *layerFile) writeLayer(ctx context.Context, from *transfer.ArchiveWithDeltas, layer ocispec.Descriptor) (*io.SectionReader, error) {
	body, err := from.Fetch(ctx, layer)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	start := f.size
	n, err := io.Copy(f.File, body)
	f.size += n
	return io.NewSectionReader(f.File, start, n), err
}

// Close removes the file.
func (f *layerFile) Close() error {
	err := f.File.Close()
	if f.named {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}

// storage is the list as storage of what is allowed; of all if that is nil.
type storage struct {
	storeList
	allowed blobSizes
}

func (s storage) Exists(_ context.Context, desc ocispec.Descriptor) (bool, error) {
	if _, ok := s.allowed[desc.Digest]; !ok && s.allowed != nil {
		return false, nil
	}
	_, err := s.Stat(desc.Digest)
	if errors.Is(err, errdef.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// unpackedArchive is an archive with the layers that its deltas make.
type unpackedArchive struct {
	*archive.Store
	layers map[digest.Digest]*io.SectionReader
}

// layerReader is a layer that seeks, and that several read at a time.
type layerReader struct{ *io.SectionReader }

func (layerReader) Close() error { return nil }

func (u *unpackedArchive) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if layer, ok := u.layers[desc.Digest]; ok {
		return layerReader{io.NewSectionReader(layer, 0, layer.Size())}, nil
	}
	return u.Store.Fetch(ctx, desc)
}

// Exists reports whether content is there.
func (u *unpackedArchive) Exists(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	if _, ok := u.layers[desc.Digest]; ok {
		return true, nil
	}
	return u.Store.Exists(ctx, desc)
}

// Stat returns the size of content.
func (u *unpackedArchive) Stat(d digest.Digest) (int64, error) {
	if layer, ok := u.layers[d]; ok {
		return layer.Size(), nil
	}
	return u.Store.Stat(d)
}
