package transfer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/oci"
)

// buildClosure builds the closure: an index of the root, its bundles and the images, with the root
// as its subject, so that it is found from the root and keeps everything alive. It depends on the
// plan alone, so every copy builds the same one.
func (p *Plan) buildClosure(r *planRoot) error {
	manifests := append([]ocispec.Descriptor{r.desc}, r.bundles...)
	for _, n := range r.images {
		manifests = append(manifests, n.desc)
	}
	seen := map[digest.Digest]bool{}
	manifests = slices.DeleteFunc(manifests, func(d ocispec.Descriptor) bool {
		twice := seen[d.Digest]
		seen[d.Digest] = true
		return twice
	})
	subject := bareDescriptor(r.desc)
	data, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		ArtifactType: closureType, Subject: &subject, Manifests: manifests,
	})
	if err != nil {
		return err
	}
	r.closure = content.NewDescriptorFromBytes(ocispec.MediaTypeImageIndex, data)
	p.addNode(&planNode{desc: r.closure, data: data, required: manifests})
	return nil
}

// isComplete reports whether the target has everything of a root. It compares the source's closure
// with the locks: if the closure names exactly what they name, and the target has the closure, then
// the target has everything, since a registry accepts no index before its manifests and no manifest
// before its blobs. This saves a request for each image.
func (p *Plan) isComplete(ctx context.Context, r *planRoot, dst content.ReadOnlyStorage) (bool, error) {
	if dst == nil || p.options.CheckTarget || len(r.platforms) > 0 || p.options.Preserve != nil {
		return false, nil
	}
	referrers, err := p.stores.listReferrers(ctx, r.Store, r.desc, true)
	if err != nil {
		return false, fmt.Errorf("list referrers of %s at source %s: %w", r.desc.Digest, storeName(r.Store), err)
	}
	for _, desc := range referrers {
		if desc.MediaType != ocispec.MediaTypeImageIndex || desc.Size > oci.MaxManifest {
			continue
		}
		data, err := readManifest(ctx, r.Store, desc)
		if errors.Is(err, errdef.ErrNotFound) {
			continue // the listing is stale
		}
		if err != nil {
			return false, err
		}
		m, err := oci.ParseManifest(data)
		if err != nil || m.ArtifactType != closureType || !r.isClosedBy(m) {
			continue
		}
		there, err := dst.Exists(ctx, desc)
		if err != nil {
			return false, fmt.Errorf("target %s: %w", storeName(dst), err)
		}
		if there {
			r.imageCount = len(m.Manifests) - 1 - len(r.bundles) - r.countCargo()
			r.closure = bareDescriptor(desc)
			p.addNode(&planNode{desc: r.closure, data: data, required: m.Manifests})
			return true, nil
		}
	}
	return false, nil
}

// reopenLost doubts the closures of roots that the target lacks: it has lost more than the closures
// tell, so it is asked for everything.
func (p *Plan) reopenLost(ctx context.Context, dst content.ReadOnlyStorage) error {
	for _, r := range p.roots {
		if !r.complete || r.tagged {
			continue
		}
		there, err := dst.Exists(ctx, r.desc)
		if err != nil {
			return fmt.Errorf("target %s: %w", storeName(dst), err)
		}
		if !there {
			p.note(r.release().String(), fmt.Sprintf("was lost by %s: every item is checked", storeName(dst)))
			p.options.CheckTarget = true
		}
	}
	if !p.options.CheckTarget {
		return nil
	}
	for _, r := range p.roots {
		if !r.complete {
			continue
		}
		r.complete, r.imageCount = false, 0
		delete(p.nodes, r.closure.Digest)
		var err error
		if p.sourceLimit, err = p.sourceLimitOf(r); err != nil {
			return err
		}
		if err := p.addImages(ctx, r, r.lockedImages()); err != nil {
			return err
		}
	}
	return nil
}

// isClosedBy reports whether an index names exactly the root, its bundles and its images.
func (r *planRoot) isClosedBy(m *oci.Manifest) bool {
	want := map[digest.Digest]bool{r.desc.Digest: true}
	for _, b := range r.bundles {
		want[b.Digest] = true
	}
	for _, n := range r.lockedImages() {
		want[digest.Digest(n.image.DigestStr())] = true
	}
	for _, d := range m.Manifests {
		if !want[d.Digest] {
			return false
		}
	}
	return len(m.Manifests) == len(want) && m.Subject != nil && m.Subject.Digest == r.desc.Digest
}
