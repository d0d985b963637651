package transfer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/oci"
)

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
			return fmt.Errorf("manifest %s: invalid descriptor: digest %q, size %d", desc.Digest, next.Digest, next.Size)
		}
		switch {
		case oci.IsManifest(next.MediaType):
			err := p.addTree(ctx, from, next)
			if isAttestation(next) && errors.Is(err, errdef.ErrNotFound) {
				if len(p.platforms) > 0 {
					p.note(next.Digest.String(), fmt.Sprintf("is an attestation in index %s that %s does not have; it is skipped", desc.Digest, storeName(from)))
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
