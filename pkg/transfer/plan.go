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
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2"
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
}

// namedImage is a workload image and a name that the lock has for it.
type namedImage struct {
	desc      ocispec.Descriptor
	image     name.Digest
	reference string
	// cargo is what errors call a file or a chart; "" for an image.
	cargo string
	// chart is set of a chart.
	chart *bundle.CargoChart
}

// label returns what errors call the image.
func (n namedImage) label() string {
	if n.cargo != "" {
		return n.cargo
	}
	return images.FamiliarName(n.image.Name())
}

func (n namedImage) locked() images.Locked {
	return images.Locked{Image: n.image, Reference: n.reference}
}

// planNode is an item of the plan.
type planNode struct {
	desc ocispec.Descriptor
	from content.Fetcher
	// data is the content of a manifest; nil for a blob.
	data []byte
	// required lists what a manifest refers to, apart from its subject.
	required []ocispec.Descriptor
}

// memoryPerNode is roughly the memory that an item of the plan takes.
const memoryPerNode = 512

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

// lockedImages returns the images in the locks of a root's bundles, by digest and by each name, with their files and
// charts.
func (r *planRoot) lockedImages() []namedImage {
	var all []namedImage
	for _, b := range r.opened {
		for _, locked := range b.Images {
			all = append(all, namedImage{image: locked.Image, reference: locked.Reference})
		}
		carried := b.CargoByArtifact()
		for _, locked := range b.Cargo {
			item := carried[locked.Image.DigestStr()]
			all = append(all, namedImage{image: locked.Image, reference: locked.Reference, cargo: item.String(), chart: item.Chart})
		}
	}
	slices.SortFunc(all, func(a, b namedImage) int {
		return cmp.Or(cmp.Compare(a.image.DigestStr(), b.image.DigestStr()), cmp.Compare(a.reference, b.reference), cmp.Compare(a.image.Name(), b.image.Name()))
	})
	return all
}

// countCargo returns how many artifacts the files and charts of a root's bundles are.
func (r *planRoot) countCargo() int {
	seen := map[string]bool{}
	for _, b := range r.opened {
		for _, locked := range b.Cargo {
			seen[locked.Image.DigestStr()] = true
		}
	}
	return len(seen)
}

// addImages adds images to a root.
func (p *Plan) addImages(ctx context.Context, r *planRoot, locked []namedImage) error {
	r.images = locked
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(p.options.Concurrency)
	for i := range r.images {
		// Several names of one digest are the same image.
		if i > 0 && r.images[i].image.DigestStr() == r.images[i-1].image.DigestStr() {
			continue
		}
		if r.images[i].cargo == "" {
			r.imageCount++
		}
		group.Go(func() error {
			found, err := p.locateImage(ctx, r.Store, r.images[i].image)
			if err == nil {
				r.images[i].desc = bareDescriptor(found.desc)
				err = p.addLocated(ctx, found)
			}
			if err == nil {
				err = p.noteLacking(ctx, found.from, r.images[i])
			}
			if errors.Is(err, ErrPlatform) {
				return fmt.Errorf("%s: %w", cmp.Or(r.images[i].cargo, "image "+r.images[i].reference), err)
			}
			if err != nil {
				return p.recordMissing(ctx, r.images[i].label(), err)
			}
			return nil
		})
	}
	err := group.Wait()
	for i := range r.images {
		if r.images[i].desc.Digest == "" && i > 0 {
			r.images[i].desc = r.images[i-1].desc
		}
	}
	return cmp.Or(err, p.checkCharts(r))
}

// checkCharts holds the manifests of charts to the definitions of their bundles.
func (p *Plan) checkCharts(r *planRoot) error {
	for _, image := range r.images {
		n := p.nodes[image.desc.Digest]
		if image.chart == nil || n == nil || n.data == nil {
			continue // or missing
		}
		m, err := oci.ParseManifest(n.data)
		if err == nil {
			err = image.chart.CheckManifest(m)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// recordMissing records a missing image. The search goes on, so that the error names all of them.
func (p *Plan) recordMissing(ctx context.Context, image string, reason error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.missing = append(p.missing, Missing{image, reason})
	return nil
}

func (p *Plan) incompleteError() error {
	if len(p.missing) == 0 {
		return nil
	}
	slices.SortStableFunc(p.missing, func(a, b Missing) int { return cmp.Compare(a.Image, b.Image) })
	// Several roots, such as a runtime and its bundles, have the same images.
	p.missing = slices.CompactFunc(p.missing, func(a, b Missing) bool { return a.Image == b.Image && a.Reason.Error() == b.Reason.Error() })
	return &IncompleteError{Root: p.roots[0].desc, Missing: p.missing}
}

// locatedImage is an image and where it is.
type locatedImage struct {
	desc ocispec.Descriptor
	from content.Fetcher
	// data is the manifest if it was read with the same request; nil if not.
	data []byte
}

// locateImage finds an image in its bundle's store, or else at its origin.
func (p *Plan) locateImage(ctx context.Context, src oras.ReadOnlyTarget, image name.Digest) (locatedImage, error) {
	origins := p.options.Origins
	if strings.HasSuffix(image.RegistryStr(), ".invalid") {
		origins = nil // a bundle without a repository
	}
	desc, data, err := resolveImage(ctx, src, image.DigestStr())
	if err == nil && desc.Digest.String() != image.DigestStr() {
		return locatedImage{}, fmt.Errorf("source %s returns %s: %w", storeName(src), desc.Digest, content.ErrMismatchedDigest)
	}
	if err == nil {
		return locatedImage{desc, &fallbackFetcher{first: src, fallback: p.options.Fallback, image: image, origins: origins}, data}, nil
	}
	if !errors.Is(err, errdef.ErrNotFound) {
		return locatedImage{}, fmt.Errorf("source %s: %w", storeName(src), err)
	}
	if origins == nil {
		return locatedImage{}, fmt.Errorf("not found next to the bundle: %w", err)
	}
	from, reference, err := origins.Origin(ctx, image)
	if err != nil {
		return locatedImage{}, err
	}
	if desc, data, err = resolveImage(ctx, from, reference); err != nil {
		return locatedImage{}, fmt.Errorf("not found next to the bundle, and %s: %w", storeName(from), err)
	}
	if desc.Digest.String() != image.DigestStr() {
		return locatedImage{}, fmt.Errorf("%s returns %s: %w", storeName(from), desc.Digest, content.ErrMismatchedDigest)
	}
	return locatedImage{desc, from, data}, nil
}

// resolveImage resolves a reference, and reads its manifest with the same request if the store is a registry.
func resolveImage(ctx context.Context, from oras.ReadOnlyTarget, reference string) (desc ocispec.Descriptor, data []byte, err error) {
	if registry, ok := from.(registry.ReferenceFetcher); ok {
		err = withRetries(ctx, func() (err error) {
			var body io.ReadCloser
			if desc, body, err = registry.FetchReference(ctx, reference); err != nil {
				return err
			}
			defer body.Close()
			data, err = content.ReadAll(body, desc)
			return err
		})
		if !errors.Is(err, content.ErrMismatchedDigest) && !errors.Is(err, errdef.ErrSizeExceedsLimit) {
			return desc, data, err
		}
	}
	// Who reads what is damaged says what that is.
	desc, err = from.Resolve(ctx, reference)
	return desc, nil, err
}

// addLocated adds an image and everything that it needs to the plan.
func (p *Plan) addLocated(ctx context.Context, image locatedImage) error {
	if image.data == nil || p.knowsManifest(image.desc.Digest) {
		return p.addTree(ctx, image.from, image.desc)
	}
	return p.addManifest(ctx, image.from, image.desc, image.data)
}

// knowsManifest reports whether the plan has a manifest, and with it everything below.
func (p *Plan) knowsManifest(d digest.Digest) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.nodes[d]
	return n != nil && n.data != nil
}

// addTree adds a manifest and everything that it needs to the plan.
func (p *Plan) addTree(ctx context.Context, from content.Fetcher, desc ocispec.Descriptor) error {
	if p.knowsManifest(desc.Digest) {
		return nil
	}
	data, err := readManifest(ctx, from, desc)
	if err != nil {
		return err
	}
	return p.addManifest(ctx, from, desc, data)
}

// addManifest adds a manifest that was read. It comes last, so that everything below a manifest of
// the plan is in the plan.
func (p *Plan) addManifest(ctx context.Context, from content.Fetcher, desc ocispec.Descriptor, data []byte) error {
	if !oci.IsManifest(desc.MediaType) {
		return fmt.Errorf("manifest %s has media type %q, want an image or an index", desc.Digest, desc.MediaType)
	}
	m, err := oci.ParseManifest(data)
	if err != nil {
		return fmt.Errorf("invalid manifest %s: %w", desc.Digest, err)
	}
	needs, err := p.platforms.requiredBy(desc, m)
	if err == nil && len(p.sourceLimit) > 0 {
		needs, err = p.sourceLimit.presentOf(ctx, from, desc, needs)
	}
	if err != nil {
		return err
	}
	if err := p.budget.Take(int64(len(data)) + int64(len(needs))*memoryPerNode); err != nil {
		return fmt.Errorf("manifest %s: %w", desc.Digest, err)
	}
	n := &planNode{desc: bareDescriptor(desc), from: from, data: data}
	for _, next := range needs {
		if err := next.Digest.Validate(); err != nil || next.Size < 0 {
			return fmt.Errorf("invalid manifest %s: it refers to %q of %d bytes", desc.Digest, next.Digest, next.Size)
		}
		switch {
		case oci.IsManifest(next.MediaType):
			err := p.addTree(ctx, from, next)
			if isAttestation(next) && errors.Is(err, errdef.ErrNotFound) {
				if len(p.platforms) > 0 {
					p.note(next.Digest.String(), fmt.Sprintf("is an attestation in index %s that %s does not have, and is left out", desc.Digest, storeName(from)))
					continue
				}
				err = fmt.Errorf("an attestation in index %s, which --platform leaves out: %w", desc.Digest, err)
			}
			if err != nil {
				return err
			}
		case oci.IsForeign(next):
			there, err := p.addForeign(ctx, from, next)
			if err != nil {
				return err
			}
			if !there {
				continue
			}
		default:
			p.addNode(&planNode{desc: bareDescriptor(next), from: from})
		}
		n.required = append(n.required, bareDescriptor(next))
	}
	p.addNode(n)
	return nil
}

// addForeign adds a foreign layer if the source has it. If not, it stays at its URLs.
func (p *Plan) addForeign(ctx context.Context, from content.Fetcher, desc ocispec.Descriptor) (bool, error) {
	blob, err := from.Fetch(ctx, desc)
	if errors.Is(err, errdef.ErrNotFound) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.foreign[desc.Digest] = fmt.Sprintf("is a foreign layer that %s does not have, and is left at %s", storeName(from), strings.Join(desc.URLs, ", "))
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read %s from source %s: %w", desc.Digest, storeName(from), err)
	}
	desc.MediaType = "application/octet-stream" // oras-go skips the foreign type
	p.addNode(&planNode{desc: bareDescriptor(desc), from: from})
	return true, blob.Close()
}

// noteForeign notes each foreign layer once that is at its URLs alone, however many images have it.
func (p *Plan) noteForeign() {
	for _, d := range slices.Sorted(maps.Keys(p.foreign)) {
		// Another source may have it, or another image as an ordinary layer.
		if p.nodes[d] != nil {
			delete(p.foreign, d)
			continue
		}
		p.note(d.String(), p.foreign[d])
	}
}

// Foreign returns how many foreign layers are not in the plan: they are at their URLs alone.
func (p *Plan) Foreign() int { return len(p.foreign) }

// noteLacking notes of which wanted platforms an image has nothing.
func (p *Plan) noteLacking(ctx context.Context, from content.Fetcher, image namedImage) error {
	p.mu.Lock()
	n := p.nodes[image.desc.Digest]
	p.mu.Unlock()
	if len(p.platforms) == 0 || n == nil {
		return nil
	}
	m, err := oci.ParseManifest(n.data)
	if err != nil {
		return err
	}
	lacking, err := p.platforms.lacking(ctx, from, n.desc, m)
	if len(lacking) > 0 {
		so := "nodes of that kind cannot run it"
		if image.cargo != "" {
			so = "it is left out for nodes of that kind"
		}
		p.note(cmp.Or(image.cargo, image.reference), fmt.Sprintf("is not there for %s: %s", strings.Join(lacking, ", "), so))
	}
	return err
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
