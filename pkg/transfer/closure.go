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

// close makes the closure: an index over the root, its bundles and the images, with the
// root as its subject, so that it is found from the root and keeps all of it alive. It is
// made from the plan alone, so every copy makes the same one.
func (p *Plan) close(r *root) error {
	manifests := append([]ocispec.Descriptor{r.desc}, r.bundles...)
	for _, n := range r.named {
		manifests = append(manifests, n.desc)
	}
	seen := map[digest.Digest]bool{}
	manifests = slices.DeleteFunc(manifests, func(d ocispec.Descriptor) bool {
		twice := seen[d.Digest]
		seen[d.Digest] = true
		return twice
	})
	subject := plain(r.desc)
	data, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		ArtifactType: closureType, Subject: &subject, Manifests: manifests,
	})
	if err != nil {
		return err
	}
	r.closure = content.NewDescriptorFromBytes(ocispec.MediaTypeImageIndex, data)
	p.put(&node{desc: r.closure, data: data, next: manifests})
	return nil
}

// isComplete says whether the target has everything of a root. The source's closure tells
// what that is, once it is held against the locks: if it names just what they name, and the
// target has it, then it has all of that, since a registry takes no index before its manifests
// and no manifest before its blobs. So nothing need be asked of the images one by one.
func (p *Plan) isComplete(ctx context.Context, r *root, dst content.ReadOnlyStorage) (bool, error) {
	if dst == nil || len(r.platforms) > 0 || p.options.Preserve != nil {
		return false, nil
	}
	referrers, err := p.places.referrers(ctx, r.Store, r.desc, true)
	if err != nil {
		return false, fmt.Errorf("list referrers of %s at source %s: %w", r.desc.Digest, where(r.Store), err)
	}
	for _, desc := range referrers {
		if desc.MediaType != ocispec.MediaTypeImageIndex || desc.Size > oci.MaxManifest {
			continue
		}
		data, err := read(ctx, r.Store, desc)
		if errors.Is(err, errdef.ErrNotFound) {
			continue // the listing is behind
		}
		if err != nil {
			return false, err
		}
		m, err := parse(data)
		if err != nil || m.ArtifactType != closureType || !r.isClosedBy(m) {
			continue
		}
		there, err := dst.Exists(ctx, desc)
		if err != nil {
			return false, fmt.Errorf("target %s: %w", where(dst), err)
		}
		if there {
			r.images = len(m.Manifests) - 1 - len(r.bundles)
			r.closure = plain(desc)
			p.put(&node{desc: r.closure, data: data, next: m.Manifests})
			return true, nil
		}
	}
	return false, nil
}

// isClosedBy says whether an index names the root, its bundles and images, and nothing else.
func (r *root) isClosedBy(m manifest) bool {
	want := map[digest.Digest]bool{r.desc.Digest: true}
	for _, b := range r.bundles {
		want[b.Digest] = true
	}
	for _, n := range r.wanted() {
		want[digest.Digest(n.image.DigestStr())] = true
	}
	for _, d := range m.Manifests {
		if !want[d.Digest] {
			return false
		}
	}
	return len(m.Manifests) == len(want) && m.Subject != nil && m.Subject.Digest == r.desc.Digest
}
