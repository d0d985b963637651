package transfer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/progress"
	"krtpkg.dev/krtpkg/pkg/tracing"
)

// Plan is the closure of some roots and what is attached to it: every item and its source.
type Plan struct {
	// described says what items are, once somebody asks.
	describeOnce sync.Once
	described    map[digest.Digest]string

	roots    []*planRoot
	attached []attachedItem

	options   Options
	platforms platformSet
	// sourceLimit holds the platforms to which the source limits the root being added: manifests
	// for other platforms are copied if they exist.
	sourceLimit platformSet
	stores      storeCache
	// deltaManifests are manifests of deltas that were found next to what is copied.
	deltaManifests []deltaManifest

	// budget limits the memory for the manifests and bundles of the plan.
	budget *oci.Budget

	mu      sync.Mutex
	nodes   map[digest.Digest]*planNode
	missing []Missing
	// foreign are the foreign layers that a source was asked for and does not have, with what is
	// said of each.
	foreign map[digest.Digest]string
}

// planRoot is a bundle or runtime with everything that it needs.
type planRoot struct {
	Source
	desc     ocispec.Descriptor
	bundles  []ocispec.Descriptor
	artifact *bundle.Artifact
	// opened holds the root itself if it is a bundle, or its bundles.
	opened []*bundle.Artifact
	// closure names everything; it is empty if images are left out.
	closure ocispec.Descriptor
	// imageCount counts the images, images lists them by each of their names, with the files and charts of bundles.
	imageCount int
	images     []namedImage
	// platforms limits the copy, as requested or as the source is limited; empty for all.
	platforms []string
	// complete is set if the target has the closure and so everything in it. Images are not read
	// then.
	complete bool
	// tagged is set if a tag of the target names the root, which is then there.
	tagged bool
	// tagsBefore is what tags named at the target when it was asked last; empty for a tag that it did not have.
	tagsBefore map[string]digest.Digest
}

const closureType = bundle.TypeClosure

// NewPlan finds everything that sources need. It reads manifests, and of blobs only the layers of
// bundles. It returns [*IncompleteError] and [*bundle.TagError].
func NewPlan(ctx context.Context, sources []Source, o Options) (*Plan, error) {
	if err := checkSources(sources); err != nil {
		return nil, err
	}
	return makePlan(ctx, sources, nil, o)
}

// checkSources returns an error that names a field which is required and nil.
func checkSources(sources []Source) error {
	for i, source := range sources {
		if source.Store == nil {
			return fmt.Errorf("plan: Source.Store is nil in source %d of %d: want the store that holds the root", i+1, len(sources))
		}
	}
	return nil
}

// validateOptions returns an error for values that would be taken for others.
func validateOptions(sources []Source, o Options) error {
	if kinds := []Attached{"", AttachedKnown, AttachedVerified, AttachedAll}; !slices.Contains(kinds, o.Attached) {
		return fmt.Errorf("plan: Options.Attached is %q: want known, verified or all", o.Attached)
	}
	for _, source := range sources {
		for _, tag := range source.Tags {
			if err := (registry.Reference{Reference: tag}).ValidateReferenceAsTag(); err != nil {
				return fmt.Errorf("plan: tag %q: %w", tag, err)
			}
		}
	}
	return nil
}

// errNoTarget is the error of a target that is nil.
var errNoTarget = errors.New("dst is nil: want the store to copy to")

// makePlan makes a plan, with a shortcut if the target has a root's closure.
func makePlan(ctx context.Context, sources []Source, dst content.ReadOnlyStorage, o Options) (*Plan, error) {
	if err := validateOptions(sources, o); err != nil {
		return nil, err
	}
	o.setDefaults()
	ctx, budget := oci.WithBudget(ctx)
	p := &Plan{options: o, nodes: map[digest.Digest]*planNode{}, foreign: map[digest.Digest]string{}, budget: budget}
	var err error
	if p.platforms, err = parsePlatforms(o.Platforms); err != nil {
		return nil, err
	}
	for _, source := range sources {
		if o.Verify != nil {
			seen := source
			seen.Store = storeWithFallback{source.Store, o.Fallback}
			if err := o.Verify(ctx, seen); err != nil {
				return nil, err
			}
		}
		r := &planRoot{Source: source, desc: bareDescriptor(source.Root)}
		if r.platforms, err = p.platformLimitOf(source); err != nil {
			return nil, err
		}
		p.roots = append(p.roots, r)
	}
	// Complete roots come first, so that what limited ones share with them is complete.
	for _, limited := range []bool{false, true} {
		for _, r := range p.roots {
			if limited != (len(r.platforms) > 0) {
				continue
			}
			if err := p.addRoot(ctx, r, dst); err != nil {
				return nil, err
			}
			for _, tag := range append([]string{r.From}, r.Tags...) {
				if err := r.artifact.Metadata().CheckTag(tag); err != nil && !o.AllowRenamedTags {
					return nil, err
				}
			}
		}
	}
	moved, err := p.checkTags(ctx, dst)
	if err == nil && o.Preserve != nil && len(p.missing) == 0 {
		var charts []*MovedTagError
		charts, err = p.checkChartTags(ctx)
		moved = append(moved, charts...)
	}
	if err == nil {
		err = p.reopenLost(ctx, dst)
	}
	if err := cmp.Or(err, p.incompleteError()); err != nil {
		return nil, err
	}
	for _, m := range moved {
		p.note("tag "+m.Tag, fmt.Sprintf("of %s moves from %s to %s", m.Target, m.Is, m.New))
	}
	for _, r := range p.roots {
		if err := p.finishRoot(ctx, r); err != nil {
			return nil, err
		}
	}
	p.noteForeign()
	if o.Accepts != nil {
		for _, d := range slices.Sorted(maps.Keys(p.nodes)) {
			if err := o.Accepts(d); err != nil {
				return nil, err
			}
		}
	}
	return p, nil
}

// addRoot adds the bundles of a root, and its images unless the target has all of it.
func (p *Plan) addRoot(ctx context.Context, r *planRoot, dst content.ReadOnlyStorage) (err error) {
	ctx, end := tracing.Start(ctx, "plan root", tracing.Digest(r.desc.Digest))
	defer func() { end(err) }()
	if p.sourceLimit, err = p.sourceLimitOf(r); err != nil {
		return err
	}
	artifact, err := p.openBundle(ctx, r.Store, r.desc)
	if err != nil {
		return err
	}
	r.desc.ArtifactType = artifact.Manifest.ArtifactType
	if err := p.addTree(ctx, p.fetcherWithFallback(r.Store), r.desc); err != nil {
		return err
	}
	r.artifact, r.opened = artifact, []*bundle.Artifact{artifact}
	if artifact.Runtime != nil {
		if r.opened, err = p.addNestedBundles(ctx, r, artifact); err != nil {
			return err
		}
	}
	if p.options.OnlyBundles {
		// Files and charts have no origin where they could stay.
		return p.addImages(ctx, r, slices.DeleteFunc(r.lockedImages(), func(n namedImage) bool { return n.cargo == "" }))
	}
	if r.complete, err = p.isComplete(ctx, r, dst); err != nil || r.complete {
		return err
	}
	return p.addImages(ctx, r, r.lockedImages())
}

// finishRoot builds the closure of a root and finds what is attached to it.
func (p *Plan) finishRoot(ctx context.Context, r *planRoot) error {
	if !p.options.OnlyBundles && !r.complete {
		if err := p.buildClosure(r); err != nil {
			return err
		}
	}
	var err error
	if p.sourceLimit, err = p.sourceLimitOf(r); err != nil {
		return err
	}
	return p.attachAll(ctx, r)
}

// bareDescriptor keeps only the media type, digest and size of a descriptor.
func bareDescriptor(d ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
}

func (p *Plan) openBundle(ctx context.Context, from content.Fetcher, desc ocispec.Descriptor) (a *bundle.Artifact, err error) {
	err = withRetries(ctx, func() error {
		a, err = bundle.Open(ctx, p.fetcherWithFallback(from), desc)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("source %s: %w", storeName(from), err)
	}
	return a, nil
}

// addNestedBundles opens the bundles of a runtime and adds them to the plan.
func (p *Plan) addNestedBundles(ctx context.Context, r *planRoot, runtime *bundle.Artifact) ([]*bundle.Artifact, error) {
	digests := runtime.Images.DistinctImages()
	opened := make([]*bundle.Artifact, len(digests))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(p.options.Concurrency)
	for i, d := range digests {
		group.Go(func() error {
			found, err := p.locateImage(ctx, r.Store, d)
			if err != nil {
				return p.recordMissing(ctx, images.FamiliarName(d.Name()), err)
			}
			b, err := p.openBundle(ctx, found.from, found.desc)
			if err != nil {
				return err
			}
			if b.Bundle == nil {
				return fmt.Errorf("%s is not a bundle, but the lock of runtime %s names it as one", d, runtime.Descriptor.Digest)
			}
			opened[i] = b
			return p.addLocated(ctx, found)
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	opened = slices.DeleteFunc(opened, func(b *bundle.Artifact) bool { return b == nil })
	for _, b := range opened {
		desc := bareDescriptor(b.Descriptor)
		desc.ArtifactType = b.Manifest.ArtifactType
		r.bundles = append(r.bundles, desc)
	}
	return opened, nil
}

func (p *Plan) note(subject, text string) {
	p.options.Progress.Emit(progress.Event{Kind: progress.Note, Subject: subject, Detail: text})
}

func (p *Plan) addNode(n *planNode) {
	p.mu.Lock()
	defer p.mu.Unlock()
	// If one manifest refers to a blob as a layer and another as a manifest, it is a manifest.
	if known := p.nodes[n.desc.Digest]; known == nil || known.data == nil && n.data != nil {
		p.nodes[n.desc.Digest] = n
	}
}

// withSize returns a descriptor with the size that the plan has for it. Without a plan it stays as it is.
func (p *Plan) withSize(desc ocispec.Descriptor) ocispec.Descriptor {
	if p != nil && p.nodes[desc.Digest] != nil {
		desc.Size = p.nodes[desc.Digest].desc.Size
	}
	return desc
}

// Len returns the number of items of the plan.
func (p *Plan) Len() int { return len(p.nodes) }

// Size returns the bytes of all items.
func (p *Plan) Size() (total int64) {
	for _, n := range p.nodes {
		total += n.desc.Size
	}
	return total
}

// SizeOf returns the bytes of items with all that they need, each item once; nothing of what is not
// in the plan.
func (p *Plan) SizeOf(items ...digest.Digest) (total int64) {
	seen := map[digest.Digest]bool{}
	for len(items) > 0 {
		n := p.nodes[items[0]]
		items = items[1:]
		if n == nil || seen[n.desc.Digest] {
			continue
		}
		seen[n.desc.Digest] = true
		total += n.desc.Size
		for _, next := range n.required {
			items = append(items, next.Digest)
		}
	}
	return total
}

// Fetch returns the content of an item from its source, without verifying it. Blobs of registries and
// archives implement [io.Seeker].
func (p *Plan) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	n, ok := p.nodes[desc.Digest]
	if !ok {
		return nil, fmt.Errorf("%s: %w", desc.Digest, errdef.ErrNotFound)
	}
	if n.data != nil {
		return newMemoryReader(n.data), nil
	}
	return n.from.Fetch(ctx, n.desc)
}
