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

// attach adds what is attached to the root and its bundles.
func (p *plan) attach(ctx context.Context, src oras.ReadOnlyGraphTarget) error {
	to := append([]ocispec.Descriptor{p.root}, p.bundles...)
	found := make([][]attachment, len(to))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(p.options.Concurrency)
	for i, desc := range to {
		group.Go(func() (err error) {
			if found[i], err = p.attachedTo(ctx, src, desc); err != nil {
				return fmt.Errorf("what is attached to %s: %w", desc.Digest, err)
			}
			return nil
		})
	}
	err := group.Wait()
	p.attached = slices.Concat(found...)
	return err
}

// attachedTo adds the referrers of a manifest, with theirs, and what cosign's tags name.
func (p *plan) attachedTo(ctx context.Context, src oras.ReadOnlyGraphTarget, subject ocispec.Descriptor) ([]attachment, error) {
	referrers, err := src.Predecessors(ctx, subject)
	if err != nil {
		return nil, fmt.Errorf("list referrers at source %s: %w", where(src), err)
	}
	slices.SortFunc(referrers, func(a, b ocispec.Descriptor) int { return cmp.Compare(a.Digest, b.Digest) })
	var found []attachment
	for _, desc := range referrers {
		added, err := p.addReferrer(ctx, src, desc, subject)
		if err != nil {
			return nil, err
		}
		if !added {
			continue
		}
		deeper, err := p.attachedTo(ctx, src, desc)
		if err != nil {
			return nil, err
		}
		found = append(append(found, attachment{desc: desc, subject: subject}), deeper...)
	}
	for _, suffix := range tagSuffixes {
		tag := strings.ReplaceAll(subject.Digest.String(), ":", "-") + suffix
		desc, err := src.Resolve(ctx, tag)
		if errors.Is(err, errdef.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("tag %s at source %s: %w", tag, where(src), err)
		}
		if err := p.add(ctx, src, desc); err != nil {
			return nil, err
		}
		found = append(found, attachment{desc: desc, subject: subject, tag: tag})
	}
	return found, nil
}

// addReferrer adds a manifest if it refers to a subject, and is not the closure, which every
// copy makes anew. A listing may lie, and a layout's predecessors may be indexes too.
func (p *plan) addReferrer(ctx context.Context, src oras.ReadOnlyGraphTarget, desc, subject ocispec.Descriptor) (bool, error) {
	data, err := read(ctx, src, desc)
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
	return true, p.addManifest(ctx, src, desc, data)
}
