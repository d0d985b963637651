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

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/progress"
)

// Plan is the closure of some roots and what is attached to it: every item with where it
// comes from.
type Plan struct {
	roots    []*root
	attached []attachment

	options   Options
	platforms platforms
	// limit are the platforms to which the source says that the root is limited that is being
	// added: manifests for others are taken if they are there.
	limit  platforms
	places places

	// budget is what memory the manifests and the bundles of the plan may take.
	budget *oci.Budget

	mu      sync.Mutex
	nodes   map[digest.Digest]*node
	missing []Missing
}

// root is what one bundle or runtime needs.
type root struct {
	Source
	desc     ocispec.Descriptor
	bundles  []ocispec.Descriptor
	artifact *bundle.Artifact
	// opened are the root, if it is a bundle, or its bundles.
	opened []*bundle.Artifact
	// closure names all of it; it is empty where images are left out.
	closure ocispec.Descriptor
	// images is how many there are, named each with what it is called.
	images int
	named  []named
	// platforms are those to which the copy is limited, asked for or since the source is; none
	// for all.
	platforms []string
	// complete says that the target has the closure, and so everything in it. Nothing was
	// read of the images then.
	complete bool
}

// named is a workload image, or what the lock calls it by.
type named struct {
	desc      ocispec.Descriptor
	image     name.Digest
	reference string
}

// node is an item of the plan.
type node struct {
	desc ocispec.Descriptor
	from content.Fetcher
	// data is a manifest's bytes; blobs stay where they are.
	data []byte
	// next is what a manifest needs: all that it refers to but its subject.
	next []ocispec.Descriptor
}

// perNode is about what an item of the plan takes in memory.
const perNode = 512

const closureType = bundle.TypeClosure

// NewPlan finds everything that roots need. Manifests are read, and of blobs only the layers
// of bundles. Errors: [*IncompleteError], and [*bundle.TagError].
func NewPlan(ctx context.Context, sources []Source, o Options) (*Plan, error) {
	return plan(ctx, sources, nil, o)
}

// plan makes a plan that takes a shortcut where the target has a root's closure.
func plan(ctx context.Context, sources []Source, dst content.ReadOnlyStorage, o Options) (*Plan, error) {
	o.defaults()
	ctx, budget := oci.Begin(ctx)
	p := &Plan{options: o, nodes: map[digest.Digest]*node{}, budget: budget}
	var err error
	if p.platforms, err = parsePlatforms(o.Platforms); err != nil {
		return nil, err
	}
	for _, source := range sources {
		if o.Verify != nil {
			seen := source
			seen.Store = both{source.Store, o.Beside}
			if err := o.Verify(ctx, seen); err != nil {
				return nil, err
			}
		}
		r := &root{Source: source, desc: plain(source.Root)}
		if r.platforms, err = p.limitOf(source); err != nil {
			return nil, err
		}
		p.roots = append(p.roots, r)
	}
	// Those that have to be whole come first: what a limited one shares with them is whole then.
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
	if err := p.incomplete(); err != nil {
		return nil, err
	}
	for _, r := range p.roots {
		if err := p.finish(ctx, r); err != nil {
			return nil, err
		}
	}
	if o.Accepts != nil {
		for _, d := range slices.Sorted(maps.Keys(p.nodes)) {
			if err := o.Accepts(d); err != nil {
				return nil, err
			}
		}
	}
	return p, nil
}

// addRoot adds the bundles of a root, and the images unless the target has all.
func (p *Plan) addRoot(ctx context.Context, r *root, dst content.ReadOnlyStorage) (err error) {
	if p.limit, err = p.limitTo(r); err != nil {
		return err
	}
	artifact, err := p.openBundle(ctx, r.Store, r.desc)
	if err != nil {
		return err
	}
	r.desc.ArtifactType = artifact.Manifest.ArtifactType
	if err := p.add(ctx, p.beside(r.Store), r.desc); err != nil {
		return err
	}
	r.artifact, r.opened = artifact, []*bundle.Artifact{artifact}
	if artifact.Runtime != nil {
		if r.opened, err = p.nested(ctx, r, artifact); err != nil {
			return err
		}
	}
	if p.options.OnlyBundles {
		return nil
	}
	if r.complete, err = p.isComplete(ctx, r, dst); err != nil || r.complete {
		return err
	}
	return p.addImages(ctx, r)
}

// finish makes the closure of a root and finds what is attached to it.
func (p *Plan) finish(ctx context.Context, r *root) error {
	if !p.options.OnlyBundles && !r.complete {
		if err := p.close(r); err != nil {
			return err
		}
	}
	var err error
	if p.limit, err = p.limitTo(r); err != nil {
		return err
	}
	return p.attach(ctx, r)
}

// plain drops what a descriptor says beyond media type, digest and size.
func plain(d ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
}

func (p *Plan) openBundle(ctx context.Context, from content.Fetcher, desc ocispec.Descriptor) (a *bundle.Artifact, err error) {
	err = retried(ctx, func() error {
		a, err = bundle.Open(ctx, p.beside(from), desc)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("source %s: %w", where(from), err)
	}
	return a, nil
}

// nested opens the bundles of a runtime and adds them to the plan.
func (p *Plan) nested(ctx context.Context, r *root, runtime *bundle.Artifact) ([]*bundle.Artifact, error) {
	digests := runtime.Images.Digests()
	opened := make([]*bundle.Artifact, len(digests))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(p.options.Concurrency)
	for i, d := range digests {
		group.Go(func() error {
			from, desc, err := p.locate(ctx, r.Store, d)
			if err != nil {
				return p.miss(ctx, d, err)
			}
			b, err := p.openBundle(ctx, from, desc)
			if err != nil {
				return err
			}
			if b.Bundle == nil {
				return fmt.Errorf("%s is no bundle, and the lock of runtime %s names it as one", d, runtime.Descriptor.Digest)
			}
			opened[i] = b
			return p.add(ctx, from, desc)
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	opened = slices.DeleteFunc(opened, func(b *bundle.Artifact) bool { return b == nil })
	for _, b := range opened {
		desc := plain(b.Descriptor)
		desc.ArtifactType = b.Manifest.ArtifactType
		r.bundles = append(r.bundles, desc)
	}
	return opened, nil
}

// wanted are the images in the locks of a root's bundles, by digest, and by each name.
func (r *root) wanted() []named {
	var all []named
	for _, b := range r.opened {
		for _, locked := range b.Images {
			all = append(all, named{image: locked.Image, reference: locked.Reference})
		}
	}
	slices.SortFunc(all, func(a, b named) int {
		return cmp.Or(cmp.Compare(a.image.DigestStr(), b.image.DigestStr()), cmp.Compare(a.reference, b.reference), cmp.Compare(a.image.Name(), b.image.Name()))
	})
	return all
}

func (p *Plan) addImages(ctx context.Context, r *root) error {
	r.named = r.wanted()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(p.options.Concurrency)
	for i := range r.named {
		// Of several names the first counts: it is the same image.
		if i > 0 && r.named[i].image.DigestStr() == r.named[i-1].image.DigestStr() {
			continue
		}
		r.images++
		group.Go(func() error {
			from, desc, err := p.locate(ctx, r.Store, r.named[i].image)
			if err == nil {
				r.named[i].desc = plain(desc)
				err = p.add(ctx, from, desc)
			}
			if errors.Is(err, ErrPlatform) {
				return fmt.Errorf("image %s: %w", r.named[i].reference, err)
			}
			if err != nil {
				return p.miss(ctx, r.named[i].image, err)
			}
			return nil
		})
	}
	err := group.Wait()
	for i := range r.named {
		if r.named[i].desc.Digest == "" && i > 0 {
			r.named[i].desc = r.named[i-1].desc
		}
	}
	return err
}

// miss notes that an image can't be had: the search goes on, so that the error names all.
func (p *Plan) miss(ctx context.Context, image name.Digest, reason error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.missing = append(p.missing, Missing{image.Name(), reason})
	return nil
}

func (p *Plan) incomplete() error {
	if len(p.missing) == 0 {
		return nil
	}
	slices.SortFunc(p.missing, func(a, b Missing) int { return cmp.Compare(a.Image, b.Image) })
	return &IncompleteError{Root: p.roots[0].desc, Missing: p.missing}
}

// locate finds an image beside its bundle, or else at its origin.
func (p *Plan) locate(ctx context.Context, src oras.ReadOnlyTarget, image name.Digest) (content.Fetcher, ocispec.Descriptor, error) {
	origins := p.options.Origins
	if strings.HasSuffix(image.RegistryStr(), ".invalid") {
		origins = nil // the image has no place of its own
	}
	desc, err := src.Resolve(ctx, image.DigestStr())
	if err == nil && desc.Digest.String() != image.DigestStr() {
		return nil, desc, fmt.Errorf("source %s gives %s for it: %w", where(src), desc.Digest, content.ErrMismatchedDigest)
	}
	if err == nil {
		return &overlay{first: src, beside: p.options.Beside, image: image, origins: origins}, desc, nil
	}
	if !errors.Is(err, errdef.ErrNotFound) {
		return nil, desc, fmt.Errorf("source %s: %w", where(src), err)
	}
	if origins == nil {
		return nil, desc, fmt.Errorf("it is not beside the bundle: %w", err)
	}
	from, reference, err := origins.Origin(ctx, image)
	if err != nil {
		return nil, desc, err
	}
	if desc, err = from.Resolve(ctx, reference); err != nil {
		return nil, desc, fmt.Errorf("it is not beside the bundle, and %s: %w", where(from), err)
	}
	if desc.Digest.String() != image.DigestStr() {
		return nil, desc, fmt.Errorf("%s gives %s for it: %w", where(from), desc.Digest, content.ErrMismatchedDigest)
	}
	return from, desc, nil
}

// add puts a manifest and everything that it needs into the plan.
func (p *Plan) add(ctx context.Context, from content.Fetcher, desc ocispec.Descriptor) error {
	p.mu.Lock()
	n := p.nodes[desc.Digest]
	p.mu.Unlock()
	if n != nil && n.data != nil {
		return nil
	}
	data, err := read(ctx, from, desc)
	if err != nil {
		return err
	}
	return p.addManifest(ctx, from, desc, data)
}

// addManifest adds a manifest that has been read. It is put last: what is in the plan is
// there with everything below it.
func (p *Plan) addManifest(ctx context.Context, from content.Fetcher, desc ocispec.Descriptor, data []byte) error {
	if !isManifest(desc.MediaType) {
		return fmt.Errorf("manifest %s has media type %q, which is none of an image or an index", desc.Digest, desc.MediaType)
	}
	m, err := parse(data)
	if err != nil {
		return fmt.Errorf("invalid manifest %s: %w", desc.Digest, err)
	}
	needs, err := p.platforms.of(desc, m)
	if err == nil && len(p.limit) > 0 {
		needs, err = p.limit.present(ctx, from, desc, needs)
	}
	if err != nil {
		return err
	}
	if err := p.budget.Take(int64(len(data)) + int64(len(needs))*perNode); err != nil {
		return fmt.Errorf("manifest %s: %w", desc.Digest, err)
	}
	n := &node{desc: plain(desc), from: from, data: data}
	for _, next := range needs {
		if err := next.Digest.Validate(); err != nil || next.Size < 0 {
			return fmt.Errorf("invalid manifest %s: it refers to %q of %d bytes", desc.Digest, next.Digest, next.Size)
		}
		switch {
		case isManifest(next.MediaType):
			if err := p.add(ctx, from, next); err != nil {
				return err
			}
		case isForeign(next.MediaType):
			there, err := p.addForeign(ctx, from, next)
			if err != nil {
				return err
			}
			if !there {
				continue
			}
		default:
			p.put(&node{desc: plain(next), from: from})
		}
		n.next = append(n.next, plain(next))
	}
	p.put(n)
	return nil
}

// addForeign adds a foreign layer if it is there, and notes if it is not: it is to be had
// from its URLs alone then.
func (p *Plan) addForeign(ctx context.Context, from content.Fetcher, desc ocispec.Descriptor) (bool, error) {
	blob, err := from.Fetch(ctx, desc)
	if errors.Is(err, errdef.ErrNotFound) {
		p.options.Progress.Emit(progress.Event{
			Kind: progress.Note, Subject: desc.Digest.String(),
			Detail: fmt.Sprintf("is a foreign layer that %s does not have, and is left at %s", where(from), strings.Join(desc.URLs, ", ")),
		})
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read %s from source %s: %w", desc.Digest, where(from), err)
	}
	desc.MediaType = "application/octet-stream" // by the other type oras-go leaves it out
	p.put(&node{desc: plain(desc), from: from})
	return true, blob.Close()
}

func (p *Plan) put(n *node) {
	p.mu.Lock()
	defer p.mu.Unlock()
	// Where one manifest calls a layer what is a manifest to another, the latter is right.
	if known := p.nodes[n.desc.Digest]; known == nil || known.data == nil && n.data != nil {
		p.nodes[n.desc.Digest] = n
	}
}

// Size is the bytes of all items.
func (p *Plan) Size() (total int64) {
	for _, n := range p.nodes {
		total += n.desc.Size
	}
	return total
}

// SizeOf is the bytes of items with all that they need, each item once; nothing of what is not
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
		for _, next := range n.next {
			items = append(items, next.Digest)
		}
	}
	return total
}

// Fetch gives what is in the plan, from wherever it is, unchecked; blobs of registries and
// archives seek.
func (p *Plan) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	n, ok := p.nodes[desc.Digest]
	if !ok {
		return nil, fmt.Errorf("%s: %w", desc.Digest, errdef.ErrNotFound)
	}
	if n.data != nil {
		return nopCloser(n.data), nil
	}
	return n.from.Fetch(ctx, n.desc)
}
