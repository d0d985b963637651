package transfer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"

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

// Limits on the manifests of deltas that one copy reads. Anyone who can push may attach them: what is over
// a limit is not used.
const (
	maxDeltaManifests     = 100
	maxDeltaManifestBytes = 16 << 20
	// maxLayerDeltas is how many deltas of one layer are looked at, the smallest first, and maxDeltaBases for how many
	// bases the target is asked in all.
	maxLayerDeltas = 16
	maxDeltaBases  = 2000
)

// deltaManifest is a referrer that lists deltas.
type deltaManifest struct {
	desc ocispec.Descriptor
	from content.Fetcher
}

// leaveDeltas records deltas for [Plan.Copy] to make layers with, and reports whether they are left where they
// are: a target that has the layers does not need them.
func (g *attachmentSearch) leaveDeltas(desc ocispec.Descriptor, from content.Fetcher) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !slices.ContainsFunc(g.deltaManifests, func(m deltaManifest) bool { return m.desc.Digest == desc.Digest }) {
		g.deltaManifests = append(g.deltaManifests, deltaManifest{desc, from})
	}
	return g.options.Attached != AttachedAll
}

// publishedDelta is a delta of a layer, at the source of the layer's root.
type publishedDelta struct {
	archive.Delta
	from content.Fetcher
}

// publishedDeltas are the deltas of layers of a plan; they are read once a layer is lacking.
type publishedDeltas struct {
	once    sync.Once
	byLayer map[digest.Digest][]publishedDelta

	mu sync.Mutex
	// there tells which bases the target has, of those that it was asked for.
	there map[digest.Digest]bool
	// stopped is set once a delta took too much work: no other is used then.
	stopped bool
}

// sendFromDelta makes a layer that the target lacks from a published delta and what the target has. Nothing
// that is wrong with a delta is an error: it reports false then, and the layer has to be copied whole.
func (c *copier) sendFromDelta(ctx context.Context, n *planNode) (bool, error) {
	d := c.findDelta(ctx, n)
	if d == nil {
		return false, ctx.Err()
	}
	made := &madeBlob{d, c}
	_, sent, err := c.tryBlob(ctx, &planNode{desc: n.desc, from: made})
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if err != nil {
		if sent != nil && sent.sourceError() != nil {
			err = sent.sourceError()
		}
		if sent != nil && sent.offset > 0 {
			sent.onProgress(-sent.offset)
		}
		note := fmt.Sprintf("is copied whole: its delta %s cannot be used: %v", d.Blob.Digest, err)
		if errors.Is(err, delta.ErrWork) {
			// Whoever publishes one that keeps sites busy may have published one for each layer.
			c.deltas.stop()
			note += "; no other delta is used"
		}
		c.emitNote(n.desc, note)
		return false, nil
	}
	c.mu.Lock()
	c.present[n.desc.Digest] = true
	c.mu.Unlock()
	c.countItem(&c.report.Copied, progress.Copied, n.desc)
	atomic.AddInt64(&c.report.CopiedBytes, n.desc.Size)
	atomic.AddInt64(&c.report.Made, 1)
	atomic.AddInt64(&c.report.MadeBytes, n.desc.Size)
	atomic.AddInt64(&c.report.DeltaBytes, d.Blob.Size)
	return true, nil
}

// findDelta returns the smallest delta of a layer whose bases the target has; nil if the layer is better
// copied whole.
func (c *copier) findDelta(ctx context.Context, n *planNode) *publishedDelta {
	if c.options.WholeLayers || len(c.deltaManifests) == 0 || n.desc.Size == 0 || !isRemote(n.from) {
		return nil
	}
	if _, mounted := c.mountSource(n); mounted != "" {
		return nil
	}
	c.deltas.once.Do(func() { c.readDeltas(ctx) })
	for i, d := range c.deltas.byLayer[n.desc.Digest] {
		if i == maxLayerDeltas {
			break
		}
		if c.hasBases(ctx, d.Bases) {
			return &d
		}
	}
	return nil
}

// stop has no other delta be used.
func (d *publishedDeltas) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopped = true
}

// isRemote reports whether content comes from a registry: reading a folder costs less than making a layer.
func isRemote(from content.Fetcher) bool {
	if o, ok := from.(*fallbackFetcher); ok {
		from = o.first
	}
	_, remote := from.(registryRepository)
	return remote
}

// hasBases reports whether the target has all bases of a delta.
func (c *copier) hasBases(ctx context.Context, bases []digest.Digest) bool {
	c.deltas.mu.Lock()
	defer c.deltas.mu.Unlock()
	if c.deltas.stopped {
		return false
	}
	for _, base := range bases {
		there, known := c.deltas.there[base]
		if !known && len(c.deltas.there) < maxDeltaBases {
			var err error
			there, err = c.dst.Exists(ctx, ocispec.Descriptor{MediaType: "application/octet-stream", Digest: base})
			there = there && err == nil
			c.deltas.there[base] = there
		}
		if !there {
			return false
		}
	}
	return true
}

// readDeltas reads the manifests of deltas, the smallest first, as far as the limits allow.
func (c *copier) readDeltas(ctx context.Context) {
	c.deltas.byLayer, c.deltas.there = map[digest.Digest][]publishedDelta{}, map[digest.Digest]bool{}
	manifests := slices.Clone(c.deltaManifests)
	slices.SortFunc(manifests, func(a, b deltaManifest) int {
		return cmp.Or(cmp.Compare(a.desc.Size, b.desc.Size), cmp.Compare(a.desc.Digest, b.desc.Digest))
	})
	total, unused, first := int64(0), 0, error(nil)
	for i, m := range manifests {
		if total += m.desc.Size; i == maxDeltaManifests || total > maxDeltaManifestBytes {
			unused += len(manifests) - i
			first = cmp.Or(first, fmt.Errorf("the limits are %d manifests and %d MiB", maxDeltaManifests, maxDeltaManifestBytes>>20))
			break
		}
		// A listing may be stale, and deltas are withdrawn by deleting them.
		if err := c.readDeltaManifest(ctx, m); err != nil && !errors.Is(err, errdef.ErrNotFound) {
			unused++
			first = cmp.Or(first, fmt.Errorf("manifest %s: %w", m.desc.Digest, err))
		}
	}
	if unused > 0 && ctx.Err() == nil {
		c.emitNote(c.roots[0].desc, fmt.Sprintf("has manifests of deltas that are not used, %d of %d: %v", unused, len(manifests), first))
	}
	for _, list := range c.deltas.byLayer {
		slices.SortStableFunc(list, func(a, b publishedDelta) int { return cmp.Compare(a.Blob.Size, b.Blob.Size) })
	}
}

// readDeltaManifest adds the deltas of layers of the plan that a manifest lists.
func (c *copier) readDeltaManifest(ctx context.Context, manifest deltaManifest) error {
	data, err := readManifest(ctx, manifest.from, manifest.desc)
	if err != nil {
		return err
	}
	m, err := oci.ParseManifest(data)
	if err != nil {
		return err
	}
	for _, blob := range m.Layers {
		if m.ArtifactType != bundle.TypeDeltas || blob.MediaType != archive.TypeDelta {
			continue // of a later version
		}
		d, err := archive.ParseDelta(blob)
		if err != nil {
			return err
		}
		n := c.nodes[d.Layer.Digest]
		if n == nil || n.data != nil || d.Blob.Size >= n.desc.Size {
			continue
		}
		if d.Layer.Size != n.desc.Size {
			return fmt.Errorf("delta %s claims a layer of %d bytes, the manifest of the image %d", d.Blob.Digest, d.Layer.Size, n.desc.Size)
		}
		d.Layer = n.desc
		c.deltas.byLayer[n.desc.Digest] = append(c.deltas.byLayer[n.desc.Digest], publishedDelta{d, manifest.from})
	}
	return nil
}

// madeBlob is a layer that is made from a delta each time it is fetched.
type madeBlob struct {
	*publishedDelta
	copier *copier
}

func (m *madeBlob) Fetch(ctx context.Context, layer ocispec.Descriptor) (io.ReadCloser, error) {
	body, err := m.from.Fetch(ctx, m.Blob)
	if err != nil {
		return nil, err
	}
	// Nothing is believed of a delta, so its own digest need not be checked, but it is not read beyond its size.
	made, err := applyDelta(ctx, m.Delta, layer, io.LimitReader(body, m.Blob.Size), m.copier.dst, m.copier.options.TemporaryDir)
	if err != nil {
		return nil, errors.Join(err, body.Close())
	}
	return madeLayer{made, body}, nil
}
