package transfer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/oci"
)

// attachedItem is attached to a manifest of the plan: a referrer, or the manifest under one of
// cosign's tags.
type attachedItem struct {
	desc, subject ocispec.Descriptor
	// tag is cosign's tag, or empty for a referrer.
	tag string
}

// tagSuffixes are the tags by which cosign attaches to a digest without the referrers API.
var tagSuffixes = []string{".sig", ".att", ".sbom"}

// attachSubject is a manifest that others may be attached to, and its store.
type attachSubject struct {
	desc  ocispec.Descriptor
	store oras.ReadOnlyTarget
	// isOwn is set for the root's own store, whose tags are listed at once.
	isOwn bool
}

// attachAll adds everything attached to a root, its bundles and its images.
func (p *Plan) attachAll(ctx context.Context, r *planRoot) error {
	var subjects []attachSubject
	for _, desc := range append([]ocispec.Descriptor{r.desc}, r.bundles...) {
		subjects = append(subjects, attachSubject{desc, r.Store, true})
	}
	if !p.options.NoImageSignatures && !r.complete {
		subjects = append(subjects, p.imageSubjects(r)...)
	}
	found := make([][]attachedItem, len(subjects))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(p.options.Concurrency)
	for i, s := range subjects {
		group.Go(func() (err error) {
			if found[i], err = p.findAttached(ctx, s); err != nil {
				return fmt.Errorf("find artifacts attached to %s: %w", s.desc.Digest, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	known := map[string]bool{}
	for _, a := range p.attached {
		known[a.subject.Digest.String()+a.tag+a.desc.Digest.String()] = true
	}
	for _, a := range slices.Concat(found...) {
		if key := a.subject.Digest.String() + a.tag + a.desc.Digest.String(); !known[key] {
			known[key] = true
			p.attached = append(p.attached, a)
		}
	}
	return nil
}

// imageSubjects returns the images of a root and the stores where they were found.
func (p *Plan) imageSubjects(r *planRoot) (subjects []attachSubject) {
	seen := map[string]bool{}
	for _, image := range r.images {
		n := p.nodes[image.desc.Digest]
		if n == nil || seen[image.desc.Digest.String()] {
			continue
		}
		seen[image.desc.Digest.String()] = true
		from, own := n.from, false
		if o, ok := from.(*fallbackFetcher); ok {
			from, own = o.first, true
		}
		if at, ok := from.(oras.ReadOnlyTarget); ok {
			subjects = append(subjects, attachSubject{image.desc, at, own})
		}
	}
	return subjects
}

// findAttached adds the referrers of a manifest, their referrers, and the manifests under cosign's
// tags.
func (p *Plan) findAttached(ctx context.Context, s attachSubject) ([]attachedItem, error) {
	g := &attachmentSearch{Plan: p, subject: s.desc.Digest}
	found, err := g.search(ctx, s, 1)
	if err == nil {
		g.reportLeftBehind()
	}
	return found, err
}

func (g *attachmentSearch) search(ctx context.Context, s attachSubject, depth int) ([]attachedItem, error) {
	referrers, err := g.stores.listReferrers(ctx, s.store, s.desc, s.isOwn)
	if err != nil {
		return nil, fmt.Errorf("list referrers at source %s: %w", storeName(s.store), err)
	}
	if depth > maxAttachedDepth {
		g.hasDeeper = g.hasDeeper || len(referrers) > 0
		return nil, nil
	}
	referrers = slices.SortedFunc(slices.Values(referrers), g.compareReferrers)
	var found []attachedItem
	for _, desc := range referrers {
		if desc.ArtifactType == closureType {
			continue // every copy makes a new one
		}
		if desc.ArtifactType == bundle.TypeDeltas && g.leaveDeltas(desc, s.store) {
			continue
		}
		if !g.isWanted(desc) {
			g.leftBehind++
			continue
		}
		added, err := g.addReferrer(ctx, g.fetcherWithFallback(s.store), desc, s.desc)
		if err != nil {
			return nil, err
		}
		if !added {
			continue
		}
		deeper, err := g.search(ctx, attachSubject{desc, s.store, s.isOwn}, depth+1)
		if err != nil {
			return nil, err
		}
		found = append(append(found, attachedItem{desc: desc, subject: s.desc}), deeper...)
	}
	tagged, err := g.findTagged(ctx, s)
	return append(found, tagged...), err
}

// findTagged adds the manifests under cosign's tags.
func (g *attachmentSearch) findTagged(ctx context.Context, s attachSubject) (found []attachedItem, err error) {
	for _, suffix := range tagSuffixes {
		tag := strings.ReplaceAll(s.desc.Digest.String(), ":", "-") + suffix
		desc, err := g.stores.resolveAttachedTag(ctx, s.store, tag, s.isOwn)
		if errors.Is(err, errdef.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("tag %s at source %s: %w", tag, storeName(s.store), err)
		}
		if g.options.Attached == AttachedVerified && !g.isWanted(desc) {
			g.leftBehind++
			continue
		}
		from := g.fetcherWithFallback(s.store)
		data, err := readManifest(ctx, from, desc)
		if err != nil {
			return nil, err
		}
		m, err := oci.ParseManifest(data)
		if err != nil {
			return nil, fmt.Errorf("invalid manifest %s: %w", desc.Digest, err)
		}
		taken, err := g.countIfRoom(desc, m)
		if err != nil {
			return nil, err
		}
		if !taken {
			continue
		}
		if err := g.addManifest(ctx, from, desc, data); err != nil {
			return nil, err
		}
		found = append(found, attachedItem{desc: desc, subject: s.desc, tag: tag})
	}
	return found, nil
}

// addReferrer adds a manifest if it refers to subject and is not a closure, which every copy makes
// again. A listing may lie, and a layout's predecessors may be indexes too.
func (g *attachmentSearch) addReferrer(ctx context.Context, from content.Fetcher, desc, subject ocispec.Descriptor) (bool, error) {
	data, err := readManifest(ctx, from, desc)
	if err != nil {
		return false, err
	}
	m, err := oci.ParseManifest(data)
	if err != nil {
		return false, fmt.Errorf("invalid manifest %s: %w", desc.Digest, err)
	}
	if m.Subject == nil || m.Subject.Digest != subject.Digest || m.ArtifactType == closureType {
		return false, nil
	}
	if m.ArtifactType == bundle.TypeDeltas && g.leaveDeltas(desc, from) {
		return false, nil
	}
	if (g.options.Attached == "" || g.options.Attached == AttachedKnown) && !isKnown(m) {
		g.leftBehind++
		return false, nil
	}
	if taken, err := g.countIfRoom(desc, m); !taken || err != nil {
		return false, err
	}
	return true, g.addManifest(ctx, from, desc, data)
}
