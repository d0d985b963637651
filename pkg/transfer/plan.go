package transfer

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
)

// plan is the closure of a root: every item with where it comes from. As a
// content.ReadOnlyStorage it is the union of those places.
type plan struct {
	root, closure   ocispec.Descriptor
	bundles, images []ocispec.Descriptor

	mu    sync.Mutex
	nodes map[digest.Digest]*node
}

// node is an item of the plan.
type node struct {
	desc ocispec.Descriptor
	from content.Fetcher
	// data is a manifest's bytes; blobs stay where they are.
	data []byte
	// next is what a manifest refers to.
	next []ocispec.Descriptor
}

const (
	closureType = bundle.TypeClosure
	// maxManifest is the limit that registries have.
	maxManifest = 4 << 20
)

// newPlan finds everything that the root needs. Manifests are read, blobs are not.
func newPlan(ctx context.Context, src oras.ReadOnlyGraphTarget, root ocispec.Descriptor, o Options) (*plan, error) {
	p := &plan{root: plain(root), nodes: map[digest.Digest]*node{}}
	artifact, err := bundle.Open(ctx, src, root)
	if err != nil {
		return nil, err
	}
	p.root.ArtifactType = artifact.Manifest.ArtifactType
	if err := p.add(ctx, src, p.root); err != nil {
		return nil, err
	}
	bundles := []*bundle.Artifact{artifact}
	if artifact.Runtime != nil {
		if bundles, err = p.nested(ctx, src, artifact, o); err != nil {
			return nil, err
		}
	}
	if err := p.addImages(ctx, src, bundles, o); err != nil {
		return nil, err
	}
	return p, p.close()
}

// plain drops what a descriptor says beyond media type, digest and size.
func plain(d ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
}

// nested opens the bundles of a runtime and adds them to the plan.
func (p *plan) nested(ctx context.Context, src oras.ReadOnlyGraphTarget, runtime *bundle.Artifact, o Options) ([]*bundle.Artifact, error) {
	digests := runtime.Images.Digests()
	found := make([]*bundle.Artifact, len(digests))
	missing := make([]*Missing, len(digests))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(o.Concurrency)
	for i, d := range digests {
		group.Go(func() error {
			from, desc, err := locate(groupCtx, src, d, o.Origins)
			if err != nil {
				missing[i] = &Missing{d.Name(), err}
				return groupCtx.Err()
			}
			if found[i], err = bundle.Open(groupCtx, from, desc); err != nil {
				return err
			}
			return p.add(groupCtx, from, desc)
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if err := p.incomplete(missing); err != nil {
		return nil, err
	}
	for _, b := range found {
		desc := plain(b.Descriptor)
		desc.ArtifactType = b.Manifest.ArtifactType
		p.bundles = append(p.bundles, desc)
	}
	return found, nil
}

func (p *plan) addImages(ctx context.Context, src oras.ReadOnlyGraphTarget, bundles []*bundle.Artifact, o Options) error {
	byDigest := map[string]name.Digest{}
	for _, b := range bundles {
		for _, d := range b.Images.Digests() {
			if b.Bundle != nil {
				byDigest[d.DigestStr()] = d
			}
		}
	}
	wanted := make([]name.Digest, 0, len(byDigest))
	for _, d := range byDigest {
		wanted = append(wanted, d)
	}
	slices.SortFunc(wanted, func(a, b name.Digest) int { return cmp.Compare(a.DigestStr(), b.DigestStr()) })

	missing := make([]*Missing, len(wanted))
	p.images = make([]ocispec.Descriptor, len(wanted))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(o.Concurrency)
	for i, image := range wanted {
		group.Go(func() error {
			from, desc, err := locate(groupCtx, src, image, o.Origins)
			if err == nil {
				p.images[i] = plain(desc)
				err = p.add(groupCtx, from, desc)
			}
			if err != nil {
				missing[i] = &Missing{image.Name(), err}
			}
			return groupCtx.Err()
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return p.incomplete(missing)
}

func (p *plan) incomplete(missing []*Missing) error {
	e := &IncompleteError{Root: p.root}
	for _, m := range missing {
		if m != nil {
			e.Missing = append(e.Missing, *m)
		}
	}
	if len(e.Missing) == 0 {
		return nil
	}
	return e
}

// locate finds an image beside its bundle, or else at its origin.
func locate(ctx context.Context, src oras.ReadOnlyTarget, image name.Digest, origins images.Origins) (content.Fetcher, ocispec.Descriptor, error) {
	desc, err := src.Resolve(ctx, image.DigestStr())
	if err == nil {
		if whole, err := src.Exists(ctx, desc); err != nil || whole {
			return src, desc, err
		}
		// A layout can hold an index that was made for it without its manifests.
		return &overlay{first: src, image: image, origins: origins}, desc, nil
	}
	if !errors.Is(err, errdef.ErrNotFound) {
		return nil, desc, err
	}
	if origins == nil || strings.HasSuffix(image.RegistryStr(), ".invalid") {
		return nil, desc, fmt.Errorf("it is not beside the bundle: %w", err)
	}
	from, reference, err := origins.Origin(ctx, image)
	if err != nil {
		return nil, desc, err
	}
	desc, err = from.Resolve(ctx, reference)
	return from, desc, err
}

// add puts a manifest and everything below it into the plan.
func (p *plan) add(ctx context.Context, from content.Fetcher, desc ocispec.Descriptor) error {
	p.mu.Lock()
	_, known := p.nodes[desc.Digest]
	p.mu.Unlock()
	if known {
		return nil
	}
	if desc.Size > maxManifest {
		return fmt.Errorf("manifest %s of %d bytes is over the limit of %d", desc.Digest, desc.Size, maxManifest)
	}
	data, err := content.FetchAll(ctx, from, desc)
	if err != nil {
		return fmt.Errorf("read manifest %s: %w", desc.Digest, err)
	}
	n := &node{desc: plain(desc), from: from, data: data}
	n.next, err = content.Successors(ctx, fixed(data), desc)
	if err != nil {
		return fmt.Errorf("invalid manifest %s: %w", desc.Digest, err)
	}
	for _, next := range n.next {
		if isManifest(next.MediaType) {
			if err := p.add(ctx, from, next); err != nil {
				return err
			}
			continue
		}
		p.put(&node{desc: plain(next), from: from})
	}
	p.put(n)
	return nil
}

func (p *plan) put(n *node) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.nodes[n.desc.Digest] == nil {
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

// successors are what a manifest refers to, each with its size from the plan: a subject
// that is the root among them.
func (p *plan) successors(desc ocispec.Descriptor) []ocispec.Descriptor {
	n := p.nodes[desc.Digest]
	if n == nil {
		return nil
	}
	return n.next
}

// size is the bytes of all items.
func (p *plan) size() (total int64) {
	for _, n := range p.nodes {
		total += n.desc.Size
	}
	return total
}

// readNode is what a manifest of any kind says of itself.
func readNode(ctx context.Context, from content.Fetcher, desc ocispec.Descriptor) (ocispec.Index, error) {
	var m ocispec.Index
	if desc.Size > maxManifest {
		return m, fmt.Errorf("manifest %s of %d bytes is over the limit of %d", desc.Digest, desc.Size, maxManifest)
	}
	data, err := content.FetchAll(ctx, from, desc)
	if err != nil {
		return m, err
	}
	err = json.Unmarshal(data, &m)
	return m, err
}

func isManifest(mediaType string) bool {
	switch mediaType {
	case ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest,
		"application/vnd.docker.distribution.manifest.list.v2+json",
		"application/vnd.docker.distribution.manifest.v2+json":
		return true
	}
	return false
}
