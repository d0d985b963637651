package transfer

import (
	"cmp"
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
)

// attachment is what is attached to a manifest of the plan: a referrer, or what one of
// cosign's tags names.
type attachment struct {
	desc, subject ocispec.Descriptor
	// tag is cosign's, or empty for a referrer.
	tag string
}

// tagSuffixes are the tags by which cosign attaches to a digest without the referrers API.
var tagSuffixes = []string{".sig", ".att", ".sbom"}

// subject is what things may be attached to, and the place where they are.
type subject struct {
	desc ocispec.Descriptor
	at   oras.ReadOnlyTarget
	// own says that the place is the root's: its tags are listed as a whole.
	own bool
}

// attach adds what is attached to a root, its bundles, and its images.
func (p *Plan) attach(ctx context.Context, r *root) error {
	var subjects []subject
	for _, desc := range append([]ocispec.Descriptor{r.desc}, r.bundles...) {
		subjects = append(subjects, subject{desc, r.Store, true})
	}
	if !p.options.NoImageSignatures && !r.complete {
		subjects = append(subjects, p.imageSubjects(r)...)
	}
	found := make([][]attachment, len(subjects))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(p.options.Concurrency)
	for i, s := range subjects {
		group.Go(func() (err error) {
			if found[i], err = p.attachedTo(ctx, s); err != nil {
				return fmt.Errorf("what is attached to %s: %w", s.desc.Digest, err)
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

// imageSubjects are the images of a root, where they were found.
func (p *Plan) imageSubjects(r *root) (subjects []subject) {
	seen := map[string]bool{}
	for _, image := range r.named {
		n := p.nodes[image.desc.Digest]
		if n == nil || seen[image.desc.Digest.String()] {
			continue
		}
		seen[image.desc.Digest.String()] = true
		from, own := n.from, false
		if o, ok := from.(*overlay); ok {
			from, own = o.first, true
		}
		if at, ok := from.(oras.ReadOnlyTarget); ok {
			subjects = append(subjects, subject{image.desc, at, own})
		}
	}
	return subjects
}

// attachedTo adds the referrers of a manifest, with theirs, and what cosign's tags name.
func (p *Plan) attachedTo(ctx context.Context, s subject) ([]attachment, error) {
	g := &gathering{Plan: p, subject: s.desc.Digest}
	found, err := g.gather(ctx, s, 1)
	if err == nil {
		g.say()
	}
	return found, err
}

func (g *gathering) gather(ctx context.Context, s subject, depth int) ([]attachment, error) {
	referrers, err := g.places.referrers(ctx, s.at, s.desc, s.own)
	if err != nil {
		return nil, fmt.Errorf("list referrers at source %s: %w", where(s.at), err)
	}
	if depth > maxAttachedDepth {
		g.deeper = g.deeper || len(referrers) > 0
		return nil, nil
	}
	referrers = slices.SortedFunc(slices.Values(referrers), func(a, b ocispec.Descriptor) int { return cmp.Compare(a.Digest, b.Digest) })
	var found []attachment
	for _, desc := range referrers {
		if desc.ArtifactType == closureType {
			continue // every copy makes it anew
		}
		if !g.wants(desc) {
			g.left++
			continue
		}
		added, err := g.addReferrer(ctx, g.beside(s.at), desc, s.desc)
		if err != nil {
			return nil, err
		}
		if !added {
			continue
		}
		deeper, err := g.gather(ctx, subject{desc, s.at, s.own}, depth+1)
		if err != nil {
			return nil, err
		}
		found = append(append(found, attachment{desc: desc, subject: s.desc}), deeper...)
	}
	tagged, err := g.tagged(ctx, s)
	return append(found, tagged...), err
}

// tagged adds what cosign's tags name.
func (g *gathering) tagged(ctx context.Context, s subject) (found []attachment, err error) {
	for _, suffix := range tagSuffixes {
		tag := strings.ReplaceAll(s.desc.Digest.String(), ":", "-") + suffix
		desc, err := g.places.attachedTag(ctx, s.at, tag, s.own)
		if errors.Is(err, errdef.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("tag %s at source %s: %w", tag, where(s.at), err)
		}
		if g.options.Attached == AttachedVerified && !g.wants(desc) {
			g.left++
			continue
		}
		from := g.beside(s.at)
		data, err := read(ctx, from, desc)
		if err != nil {
			return nil, err
		}
		m, err := parse(data)
		if err != nil {
			return nil, fmt.Errorf("invalid manifest %s: %w", desc.Digest, err)
		}
		if err := g.take(desc, m); err != nil {
			return nil, err
		}
		if err := g.addManifest(ctx, from, desc, data); err != nil {
			return nil, err
		}
		found = append(found, attachment{desc: desc, subject: s.desc, tag: tag})
	}
	return found, nil
}

// addReferrer adds a manifest if it refers to a subject, and is not a closure, which every
// copy makes anew. A listing may lie, and a layout's predecessors may be indexes too.
func (g *gathering) addReferrer(ctx context.Context, from content.Fetcher, desc, subject ocispec.Descriptor) (bool, error) {
	data, err := read(ctx, from, desc)
	if err != nil {
		return false, err
	}
	m, err := parse(data)
	if err != nil {
		return false, fmt.Errorf("invalid manifest %s: %w", desc.Digest, err)
	}
	if m.Subject == nil || m.Subject.Digest != subject.Digest || m.ArtifactType == closureType {
		return false, nil
	}
	if (g.options.Attached == "" || g.options.Attached == AttachedKnown) && !m.isKnown() {
		g.left++
		return false, nil
	}
	if err := g.take(desc, m); err != nil {
		return false, err
	}
	return true, g.addManifest(ctx, from, desc, data)
}
