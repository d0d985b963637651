package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/delta"
)

// layerMaker makes layers from deltas and from what the target has.
type layerMaker struct {
	// deltas are those of layers that the target lacks, by the layer; blobs the same by the delta.
	deltas, blobs map[digest.Digest]archive.Delta
	bases         content.Fetcher
	dir           string
}

// newLayerMaker finds out which layers the target lacks. It returns [*BaseError] if what they are made
// from is not there either.
func newLayerMaker(ctx context.Context, deltas []archive.Delta, base []string, dst content.ReadOnlyStorage, o Options) (*layerMaker, error) {
	m := &layerMaker{deltas: map[digest.Digest]archive.Delta{}, blobs: map[digest.Digest]archive.Delta{}, bases: dst, dir: o.TemporaryDir}
	if len(deltas) == 0 {
		return m, nil
	}
	var layers []ocispec.Descriptor
	for _, d := range deltas {
		layers = append(layers, d.Layer)
		m.blobs[d.Blob.Digest] = d
	}
	list := func(all []ocispec.Descriptor) lackingLister {
		return func(context.Context) ([]ocispec.Descriptor, error) { return all, nil }
	}
	absent, err := findMissingBlobs(ctx, list(layers), dst, o.Concurrency)
	if err != nil {
		return nil, err
	}
	var needed []ocispec.Descriptor
	for _, d := range deltas {
		if _, lacks := slices.BinarySearch(absent, d.Layer.Digest); !lacks {
			continue
		}
		m.deltas[d.Layer.Digest] = d
		for _, b := range d.Bases {
			needed = append(needed, ocispec.Descriptor{MediaType: "application/octet-stream", Digest: b})
		}
	}
	slices.SortFunc(needed, func(a, b ocispec.Descriptor) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
	needed = slices.CompactFunc(needed, func(a, b ocispec.Descriptor) bool { return a.Digest == b.Digest })
	missing, err := findMissingBlobs(ctx, list(needed), dst, o.Concurrency)
	if err == nil && len(missing) > 0 {
		err = newBaseError(ctx, base, missing, func() map[digest.Digest]string { return nil }, dst)
	}
	return m, err
}

// makes reports whether a layer can be made.
func (m *layerMaker) makes(layer digest.Digest) bool {
	_, ok := m.deltas[layer]
	return ok
}

// open makes a layer from its delta, which is closed with it.
func (m *layerMaker) open(ctx context.Context, layer ocispec.Descriptor, from io.ReadCloser) (io.ReadCloser, error) {
	var made io.ReadCloser
	err := m.checkSize(layer)
	if err == nil {
		made, err = m.apply(ctx, layer, from)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("delta of layer %s: %w", layer.Digest, err), from.Close())
	}
	return madeLayer{made, from}, nil
}

// checkSize returns an error if a layer is to have another size than its delta claims.
func (m *layerMaker) checkSize(layer ocispec.Descriptor) error {
	if claimed := m.deltas[layer.Digest].Layer.Size; claimed != layer.Size {
		return fmt.Errorf("delta claims %d bytes, the manifest of the image %d: %w", claimed, layer.Size, archive.ErrDamaged)
	}
	return nil
}

func (m *layerMaker) apply(ctx context.Context, layer ocispec.Descriptor, from io.Reader) (io.ReadCloser, error) {
	return applyDelta(ctx, m.deltas[layer.Digest], layer, from, m.bases, m.dir)
}

// applyDelta returns the layer that a delta makes of those bases that its manifest names.
func applyDelta(ctx context.Context, listed archive.Delta, layer ocispec.Descriptor, from io.Reader, bases content.Fetcher, dir string) (io.ReadCloser, error) {
	d, err := delta.Open(from)
	if err != nil {
		return nil, err
	}
	for _, b := range d.Bases {
		if !slices.Contains(listed.Bases, b.Digest) {
			return nil, fmt.Errorf("delta is made from %s, which its manifest does not name: %w", b.Digest, delta.ErrDamaged)
		}
	}
	return d.Apply(ctx, layer.Digest, layer.Size, func(ctx context.Context, b delta.Base) (io.ReadCloser, error) {
		return bases.Fetch(ctx, ocispec.Descriptor{MediaType: "application/octet-stream", Digest: b.Digest, Size: b.Size})
	}, delta.Options{Dir: dir})
}

type madeLayer struct {
	io.ReadCloser
	delta io.Closer
}

func (l madeLayer) Close() error { return errors.Join(l.ReadCloser.Close(), l.delta.Close()) }

// ArchiveWithDeltas is an archive that has the layers too that its deltas make.
type ArchiveWithDeltas struct {
	*archive.Store
	maker *layerMaker
}

// WithDeltas returns an archive with the layers that its deltas make of those of bases. Bases are asked
// for what they lack once. It returns [*BaseError] if what a delta is made from is not there. Options give
// Concurrency and TemporaryDir.
func WithDeltas(ctx context.Context, from *archive.Store, bases content.ReadOnlyStorage, o Options) (*ArchiveWithDeltas, error) {
	o.setDefaults()
	deltas, err := from.Deltas(ctx)
	if err != nil {
		return nil, err
	}
	maker, err := newLayerMaker(ctx, deltas, from.BaseReferences(), bases, o)
	if err != nil {
		return nil, err
	}
	return &ArchiveWithDeltas{from, maker}, nil
}

// Layers lists the layers that bases lack and deltas make, by digest.
func (a *ArchiveWithDeltas) Layers() (list []ocispec.Descriptor) {
	for _, d := range a.maker.deltas {
		list = append(list, d.Layer)
	}
	archive.SortBlobs(list)
	return list
}

// Fetch returns content of the archive, or a layer that is made as it is read.
func (a *ArchiveWithDeltas) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	body, err := a.Store.Fetch(ctx, desc)
	known, ok := a.maker.deltas[desc.Digest]
	if err == nil || !ok || !errors.Is(err, errdef.ErrNotFound) {
		return body, err
	}
	from, err := a.Store.Fetch(ctx, known.Blob)
	if err != nil {
		return nil, err
	}
	return a.maker.open(ctx, desc, from)
}

// applyDeltas has archives among sources make layers of what the target has.
func applyDeltas(ctx context.Context, sources []Source, dst content.ReadOnlyStorage, o Options) ([]Source, error) {
	sources = slices.Clone(sources)
	for i := range sources {
		if from, ok := sources[i].Store.(*archive.Store); ok {
			store, err := WithDeltas(ctx, from, dst, o)
			if err != nil {
				return nil, err
			}
			sources[i].Store = store
		}
	}
	return sources, nil
}
