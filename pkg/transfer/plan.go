package transfer

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/progress"
)

// plan is the closure of a root and what is attached to it: every item with where it comes
// from. As a content.ReadOnlyStorage it is the union of those places.
type plan struct {
	root, closure   ocispec.Descriptor
	bundles, images []ocispec.Descriptor
	attached        []attachment

	options Options

	mu      sync.Mutex
	nodes   map[digest.Digest]*node
	missing []Missing
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

const (
	closureType = bundle.TypeClosure
	// maxManifest is the limit that registries have.
	maxManifest = 4 << 20
)

// newPlan finds everything that the root needs. Manifests are read, and of blobs only the
// layers of bundles.
func newPlan(ctx context.Context, src oras.ReadOnlyGraphTarget, root ocispec.Descriptor, o Options) (*plan, error) {
	p := &plan{root: plain(root), options: o, nodes: map[digest.Digest]*node{}}
	artifact, err := openBundle(ctx, src, root)
	if err != nil {
		return nil, err
	}
	p.root.ArtifactType = artifact.Manifest.ArtifactType
	if err := p.add(ctx, src, p.root); err != nil {
		return nil, err
	}
	bundles := []*bundle.Artifact{artifact}
	if artifact.Runtime != nil {
		if bundles, err = p.nested(ctx, src, artifact); err != nil {
			return nil, err
		}
	}
	if err := p.addImages(ctx, src, bundles); err != nil {
		return nil, err
	}
	if err := p.incomplete(); err != nil {
		return nil, err
	}
	if err := p.close(); err != nil {
		return nil, err
	}
	return p, p.attach(ctx, src)
}

// plain drops what a descriptor says beyond media type, digest and size.
func plain(d ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
}

func openBundle(ctx context.Context, from content.Fetcher, desc ocispec.Descriptor) (a *bundle.Artifact, err error) {
	err = retried(ctx, func() error {
		a, err = bundle.Open(ctx, from, desc)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("source %s: %w", where(from), err)
	}
	return a, nil
}

// nested opens the bundles of a runtime and adds them to the plan.
func (p *plan) nested(ctx context.Context, src oras.ReadOnlyGraphTarget, runtime *bundle.Artifact) ([]*bundle.Artifact, error) {
	digests := runtime.Images.Digests()
	opened := make([]*bundle.Artifact, len(digests))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(p.options.Concurrency)
	for i, d := range digests {
		group.Go(func() error {
			from, desc, err := locate(ctx, src, d, p.options.Origins)
			if err != nil {
				return p.miss(ctx, d, err)
			}
			b, err := openBundle(ctx, from, desc)
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
		p.bundles = append(p.bundles, desc)
	}
	return opened, nil
}

func (p *plan) addImages(ctx context.Context, src oras.ReadOnlyGraphTarget, bundles []*bundle.Artifact) error {
	byDigest := map[string]name.Digest{}
	for _, b := range bundles {
		for _, d := range b.Images.Digests() {
			byDigest[d.DigestStr()] = d
		}
	}
	wanted := make([]name.Digest, 0, len(byDigest))
	for _, d := range byDigest {
		wanted = append(wanted, d)
	}
	slices.SortFunc(wanted, func(a, b name.Digest) int { return cmp.Compare(a.DigestStr(), b.DigestStr()) })

	p.images = make([]ocispec.Descriptor, len(wanted))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(p.options.Concurrency)
	for i, image := range wanted {
		group.Go(func() error {
			from, desc, err := locate(ctx, src, image, p.options.Origins)
			if err == nil {
				p.images[i] = plain(desc)
				err = p.add(ctx, from, desc)
			}
			if err != nil {
				return p.miss(ctx, image, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// miss notes that an image can't be had: the search goes on, so that the error names all.
func (p *plan) miss(ctx context.Context, image name.Digest, reason error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.missing = append(p.missing, Missing{image.Name(), reason})
	return nil
}

func (p *plan) incomplete() error {
	if len(p.missing) == 0 {
		return nil
	}
	slices.SortFunc(p.missing, func(a, b Missing) int { return cmp.Compare(a.Image, b.Image) })
	return &IncompleteError{Root: p.root, Missing: p.missing}
}

// locate finds an image beside its bundle, or else at its origin.
func locate(ctx context.Context, src oras.ReadOnlyTarget, image name.Digest, origins images.Origins) (content.Fetcher, ocispec.Descriptor, error) {
	if strings.HasSuffix(image.RegistryStr(), ".invalid") {
		origins = nil // the image has no place of its own
	}
	desc, err := src.Resolve(ctx, image.DigestStr())
	if err == nil {
		return &overlay{first: src, image: image, origins: origins}, desc, nil
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
func (p *plan) add(ctx context.Context, from content.Fetcher, desc ocispec.Descriptor) error {
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
func (p *plan) addManifest(ctx context.Context, from content.Fetcher, desc ocispec.Descriptor, data []byte) error {
	if !isManifest(desc.MediaType) {
		return fmt.Errorf("manifest %s has media type %q, which is none of an image or an index", desc.Digest, desc.MediaType)
	}
	m, err := parse(data)
	if err != nil {
		return fmt.Errorf("invalid manifest %s: %w", desc.Digest, err)
	}
	n := &node{desc: plain(desc), from: from, data: data}
	for _, next := range m.needs(desc.MediaType) {
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
func (p *plan) addForeign(ctx context.Context, from content.Fetcher, desc ocispec.Descriptor) (bool, error) {
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

func (p *plan) put(n *node) {
	p.mu.Lock()
	defer p.mu.Unlock()
	// Where one manifest calls a layer what is a manifest to another, the latter is right.
	if known := p.nodes[n.desc.Digest]; known == nil || known.data == nil && n.data != nil {
		p.nodes[n.desc.Digest] = n
	}
}

// close makes the closure: an index over the root, its bundles and the images, with the
// root as its subject, so that it is found from the root and keeps all of it alive. It is
// made from the plan alone, so every copy makes the same one.
func (p *plan) close() error {
	manifests := append([]ocispec.Descriptor{p.root}, p.bundles...)
	seen := map[digest.Digest]bool{}
	manifests = slices.DeleteFunc(append(manifests, p.images...), func(d ocispec.Descriptor) bool {
		twice := seen[d.Digest]
		seen[d.Digest] = true
		return twice
	})
	subject := plain(p.root)
	data, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		ArtifactType: closureType, Subject: &subject, Manifests: manifests,
	})
	if err != nil {
		return err
	}
	p.closure = content.NewDescriptorFromBytes(ocispec.MediaTypeImageIndex, data)
	p.put(&node{desc: p.closure, data: data, next: manifests})
	return nil
}

// successors are what a manifest needs, as the plan describes them: two images may call one
// blob by different media types, and it is one item all the same.
func (p *plan) successors(desc ocispec.Descriptor) []ocispec.Descriptor {
	n := p.nodes[desc.Digest]
	if n == nil {
		return nil
	}
	next := make([]ocispec.Descriptor, len(n.next))
	for i, d := range n.next {
		next[i] = p.nodes[d.Digest].desc
	}
	return next
}

// size is the bytes of all items.
func (p *plan) size() (total int64) {
	for _, n := range p.nodes {
		total += n.desc.Size
	}
	return total
}

// Fetch makes the plan a source of everything in it, wherever each item is.
func (p *plan) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	n, ok := p.nodes[desc.Digest]
	if !ok {
		return nil, fmt.Errorf("%s: %w", desc.Digest, errdef.ErrNotFound)
	}
	if n.data != nil {
		return io.NopCloser(bytes.NewReader(n.data)), nil
	}
	return n.source(ctx), nil
}

// Exists says whether an item is in the plan.
func (p *plan) Exists(_ context.Context, desc ocispec.Descriptor) (bool, error) {
	_, ok := p.nodes[desc.Digest]
	return ok, nil
}
