package transfer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/delta"
	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/progress"
)

// DeltaOptions are the parameters of [Plan.MakeDeltas].
type DeltaOptions struct {
	// Dir is the folder of the deltas and other temporary files; the system's when empty.
	Dir string
	// MinLayer is the size of layers from which on a delta is made, 64 KiB when zero.
	MinLayer int64
	// MaxShare is how large a delta may be in percent of its layer, 90 when zero.
	MaxShare int64
	// MaxMemory is how much making a delta may take; see [delta.Options].
	MaxMemory int64
	// Progress receives events; nil drops them.
	Progress progress.Func
}

const (
	defaultMinLayer = 64 << 10
	defaultMaxShare = 90
	// maxRelatives is how many layers of the base a delta is made from at most.
	maxRelatives = 3
)

// LayerDelta describes how a layer travels that the base lacks.
type LayerDelta struct {
	// Image is the reference of the image that the layer is of.
	Image string
	Layer digest.Digest
	Size  int64
	// DeltaSize is the size of its delta; 0 if it travels whole.
	DeltaSize int64
	// Bases are the layers that the delta is made from.
	Bases []digest.Digest
	// Encoder is how the layer is compressed, where that was found.
	Encoder string
	// Why is why it travels whole.
	Why string
}

// Deltas are layers of a plan as differences from those of a base.
type Deltas struct {
	// Layers are all layers that the base lacks, the largest first.
	Layers []LayerDelta

	// from are the roots of the base.
	from     []digest.Digest
	spool    *deltaSpool
	list     []archive.Delta
	manifest []byte
	// manifestDigest is that of manifest.
	manifestDigest digest.Digest
}

// deltaSpool is a temporary file of deltas, one after the other.
type deltaSpool struct {
	file *delta.Scratch
	end  int64
	// starts are where deltas begin.
	starts map[digest.Digest]int64
}

// keep keeps a delta that was written at the end.
func (s *deltaSpool) keep(desc ocispec.Descriptor) {
	if _, known := s.starts[desc.Digest]; !known {
		s.starts[desc.Digest] = s.end
		s.end += desc.Size
	}
}

// MakeDeltas makes deltas of the layers of images that has does not report, from layers of the base:
// plans of what the site has. They are in a file until the caller closes the result. The same layers give
// the same deltas.
func (p *Plan) MakeDeltas(ctx context.Context, base []*Plan, has func(digest.Digest) bool, o DeltaOptions) (_ *Deltas, err error) {
	o.MinLayer, o.MaxShare = cmp.Or(o.MinLayer, defaultMinLayer), cmp.Or(o.MaxShare, defaultMaxShare)
	d := &Deltas{}
	for _, b := range base {
		for _, r := range b.roots {
			d.from = append(d.from, r.desc.Digest)
		}
	}
	file, err := delta.NewScratch(o.Dir)
	if err != nil {
		return nil, err
	}
	d.spool = &deltaSpool{file: file, starts: map[digest.Digest]int64{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	layers := p.lackingLayers(base, has)
	planned := progress.Event{Kind: progress.Planned, Items: len(layers)}
	for _, lacking := range layers {
		planned.Bytes += lacking.desc.Size
	}
	o.Progress.Emit(planned)
	for _, lacking := range layers {
		event := progress.Event{Kind: progress.Began, Subject: lacking.desc.Digest.String(), Bytes: lacking.desc.Size}
		o.Progress.Emit(event)
		made, err := p.makeDelta(ctx, d, lacking, o)
		if err != nil {
			return nil, err
		}
		event.Kind = progress.Copied
		o.Progress.Emit(event)
		d.Layers = append(d.Layers, *made)
	}
	slices.SortFunc(d.list, func(a, b archive.Delta) int { return cmp.Compare(a.Layer.Digest, b.Layer.Digest) })
	if len(d.list) == 0 {
		return d, nil
	}
	if d.manifest, err = archive.EncodeDeltas(d.list); err == nil && len(d.manifest) > oci.MaxManifest {
		err = fmt.Errorf("%d deltas: their manifest has %d bytes, the limit is %d: export fewer versions at once", len(d.list), len(d.manifest), oci.MaxManifest)
	}
	d.manifestDigest = digest.FromBytes(d.manifest)
	return d, err
}

// Close removes the deltas.
func (d *Deltas) Close() error { return d.spool.file.Close() }

// Saved returns how many bytes less the deltas have than their layers.
func (d *Deltas) Saved() (saved int64) {
	for _, l := range d.list {
		saved += l.Layer.Size - l.Blob.Size
	}
	return saved
}

// lackingLayer is a layer that the base lacks, with what it may be made from.
type lackingLayer struct {
	desc      ocispec.Descriptor
	image     string
	from      content.Fetcher
	relatives []relativeLayer
}

type relativeLayer struct {
	desc ocispec.Descriptor
	from content.Fetcher
}

// imageLayers are the layers of one manifest of an image.
type imageLayers struct {
	image  string
	layers []ocispec.Descriptor
}

// lackingLayers returns the layers of images that are not at the base, the largest first.
func (p *Plan) lackingLayers(base []*Plan, has func(digest.Digest) bool) []lackingLayer {
	old := map[string][]imageLayers{}
	stores := map[digest.Digest]content.Fetcher{}
	for _, b := range base {
		for key, list := range b.layersOfImages() {
			old[key] = append(old[key], list...)
		}
		for d, n := range b.nodes {
			stores[d] = n.from
		}
	}
	byLayer := map[digest.Digest]*lackingLayer{}
	images := p.layersOfImages()
	for _, key := range slices.Sorted(maps.Keys(images)) {
		for _, image := range images[key] {
			kept := digestSet(image.layers)
			isKept := func(d digest.Digest) bool { return kept[d] }
			for at, layer := range image.layers {
				n := p.nodes[layer.Digest]
				if n == nil || n.data != nil || has(layer.Digest) {
					continue
				}
				if byLayer[layer.Digest] == nil {
					byLayer[layer.Digest] = &lackingLayer{desc: n.desc, image: image.image, from: n.from}
				}
				byLayer[layer.Digest].addRelatives(at, isKept, old[key], stores)
			}
		}
	}
	all := make([]lackingLayer, 0, len(byLayer))
	for _, l := range byLayer {
		all = append(all, *l)
	}
	slices.SortFunc(all, func(a, b lackingLayer) int {
		return cmp.Or(cmp.Compare(b.desc.Size, a.desc.Size), cmp.Compare(a.desc.Digest, b.desc.Digest))
	})
	return all
}

// layersOfImages returns the layers of each manifest of each image of the plan, by the repository and
// the platform: versions of an image have those in common.
func (p *Plan) layersOfImages() map[string][]imageLayers {
	found := map[string][]imageLayers{}
	for _, r := range p.roots {
		for _, image := range r.images {
			repository, _ := image.locked().CalledBy()
			if bundle.IsFile(image.image) {
				p.addLayers(found, image.cargo, image.cargo, image.desc, 0) // its name
				continue
			}
			p.addLayers(found, image.reference, repository.Name(), image.desc, 0)
		}
	}
	return found
}

// addLayers adds the layers of an image, or of the images of an index.
func (p *Plan) addLayers(found map[string][]imageLayers, reference, key string, desc ocispec.Descriptor, depth int) {
	n := p.nodes[desc.Digest]
	if n == nil || n.data == nil || depth > 2 {
		return
	}
	m, err := oci.ParseManifest(n.data)
	if err != nil {
		return // cannot happen: it was parsed for the plan
	}
	if !oci.IsIndex(n.desc.MediaType) {
		found[key] = append(found[key], imageLayers{reference, m.Layers})
		return
	}
	for _, child := range m.Manifests {
		platform := ""
		if child.Platform != nil {
			platform = strings.Join([]string{child.Platform.OS, child.Platform.Architecture, child.Platform.Variant, child.Platform.OSVersion}, "/")
		}
		p.addLayers(found, reference, key+" "+platform, child, depth+1)
	}
}

// addRelatives adds the layers of earlier versions of an image that a layer may be made from: first
// those that the image has no more, the nearest in place before others, then the rest.
func (l *lackingLayer) addRelatives(at int, isKept func(digest.Digest) bool, old []imageLayers, stores map[digest.Digest]content.Fetcher) {
	for _, image := range old {
		for _, kept := range []bool{false, true} {
			for away := 0; away < max(len(image.layers), at+1) && len(l.relatives) < maxRelatives; away++ {
				for _, i := range slices.Compact([]int{at - away, at + away}) {
					if i >= 0 && i < len(image.layers) && isKept(image.layers[i].Digest) == kept {
						l.addRelative(image.layers[i], stores[image.layers[i].Digest])
					}
				}
			}
		}
	}
}

// addRelative adds a layer that can be read, unless it is known or there are enough.
func (l *lackingLayer) addRelative(desc ocispec.Descriptor, from content.Fetcher) {
	known := slices.ContainsFunc(l.relatives, func(r relativeLayer) bool { return r.desc.Digest == desc.Digest })
	if !known && from != nil && !oci.IsForeign(desc) && len(l.relatives) < maxRelatives {
		l.relatives = append(l.relatives, relativeLayer{bareDescriptor(desc), from})
	}
}

// makeDelta makes the delta of one layer, or finds out why it travels whole.
func (p *Plan) makeDelta(ctx context.Context, d *Deltas, l lackingLayer, o DeltaOptions) (*LayerDelta, error) {
	result := &LayerDelta{Image: l.image, Layer: l.desc.Digest, Size: l.desc.Size}
	switch {
	case l.desc.Size < o.MinLayer:
		result.Why = "small"
		return result, nil
	case len(l.relatives) == 0:
		result.Why = "the base has no earlier version of the image"
		return result, nil
	}
	var bases []delta.Layer
	for _, relative := range l.relatives {
		bases = append(bases, deltaLayer(relative.desc, relative.from))
	}
	hash := digest.Canonical.Digester()
	out := io.MultiWriter(io.NewOffsetWriter(d.spool.file.File, d.spool.end), hash.Hash())
	made, err := delta.Make(ctx, out, deltaLayer(l.desc, l.from), bases, delta.Options{Dir: o.Dir, MaxMemory: o.MaxMemory})
	var base *delta.BaseError
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, delta.ErrEncoder):
		result.Why = delta.ErrEncoder.Error()
	case errors.Is(err, delta.ErrWork):
		result.Why = "making it again takes " + delta.ErrWork.Error()
	case errors.As(err, &base) && errors.Is(err, delta.ErrUnpack):
		result.Why = fmt.Sprintf("base layer %s cannot be unpacked here", base.Base)
	case errors.Is(err, delta.ErrUnpack):
		result.Why = delta.ErrUnpack.Error()
	case errors.As(err, &base) && errors.Is(err, errdef.ErrNotFound):
		result.Why = fmt.Sprintf("base layer %s is not available", base.Base)
	case err != nil:
		return nil, fmt.Errorf("make delta: %w", err)
	case made.Size*100 > l.desc.Size*o.MaxShare:
		result.Encoder = made.Encoder.String()
		result.Why = fmt.Sprintf("a delta would have %d %% of it", made.Size*100/l.desc.Size)
	}
	if result.Why != "" {
		return result, nil
	}
	entry := archive.Delta{Layer: l.desc, Blob: ocispec.Descriptor{MediaType: archive.TypeDelta, Digest: hash.Digest(), Size: made.Size}}
	for _, b := range made.Bases {
		entry.Bases = append(entry.Bases, b.Digest)
	}
	d.list = append(d.list, entry)
	d.spool.keep(entry.Blob)
	result.DeltaSize, result.Bases, result.Encoder = made.Size, entry.Bases, made.Encoder.String()
	return result, nil
}

func deltaLayer(desc ocispec.Descriptor, from content.Fetcher) delta.Layer {
	return delta.Layer{Digest: desc.Digest, Size: desc.Size, Open: func(ctx context.Context) (io.ReadCloser, error) { return from.Fetch(ctx, desc) }}
}

// AddTo returns contents with the deltas instead of the layers that they make.
func (d *Deltas) AddTo(c archive.Contents) archive.Contents {
	if len(d.list) == 0 {
		return c
	}
	c.HasDeltas = true
	made := map[digest.Digest]bool{}
	for _, l := range d.list {
		made[l.Layer.Digest] = true
	}
	c.Blobs = slices.DeleteFunc(slices.Clone(c.Blobs), func(desc ocispec.Descriptor) bool { return made[desc.Digest] })
	has := func(list []ocispec.Descriptor, desc ocispec.Descriptor) bool {
		return slices.ContainsFunc(list, func(other ocispec.Descriptor) bool { return other.Digest == desc.Digest })
	}
	for _, l := range d.list {
		c.Blobs = append(c.Blobs, bareDescriptor(l.Blob))
	}
	if config := bareDescriptor(ocispec.DescriptorEmptyJSON); !has(c.Blobs, config) && !has(c.Front, config) {
		c.Blobs = append(c.Blobs, config)
	}
	archive.SortBlobs(c.Blobs)
	manifest := content.NewDescriptorFromBytes(ocispec.MediaTypeImageManifest, d.manifest)
	c.Manifests = append([]ocispec.Descriptor{manifest}, c.Manifests...)
	listed := manifest
	listed.ArtifactType = archive.TypeDelta
	c.Named = append([]ocispec.Descriptor{listed}, c.Named...)
	return c
}

// WithDeltas returns a source of contents with deltas; rest has everything else.
func (d *Deltas) WithDeltas(rest content.Fetcher) content.Fetcher { return deltaFetcher{d, rest} }

type spooledDelta struct{ *io.SectionReader }

func (spooledDelta) Close() error { return nil }

type deltaFetcher struct {
	*Deltas
	rest content.Fetcher
}

func (f deltaFetcher) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if start, ok := f.spool.starts[desc.Digest]; ok {
		return spooledDelta{io.NewSectionReader(f.spool.file, start, desc.Size)}, nil
	}
	switch desc.Digest {
	case f.manifestDigest:
		return newMemoryReader(f.manifest), nil
	case ocispec.DescriptorEmptyJSON.Digest:
		return newMemoryReader(ocispec.DescriptorEmptyJSON.Data), nil
	}
	return f.rest.Fetch(ctx, desc)
}
