package transfer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
)

// ErrPlatform says that an image is for other platforms than those that are wanted.
var ErrPlatform = errors.New("none of the wanted platforms")

// platforms are those that are wanted; none is all.
type platforms []v1.Platform

func parsePlatforms(list []string) (parsed platforms, err error) {
	for _, text := range list {
		platform, err := v1.ParsePlatform(text)
		if err != nil || platform.OS == "" || platform.Architecture == "" {
			return nil, fmt.Errorf("platform %q: want os/architecture[/variant], as in linux/arm64", text)
		}
		parsed = append(parsed, *platform)
	}
	return parsed, nil
}

func (p platforms) want(d ocispec.Descriptor) bool {
	return slices.ContainsFunc(p, func(want v1.Platform) bool {
		return d.Platform.OS == want.OS && d.Platform.Architecture == want.Architecture &&
			(want.Variant == "" || d.Platform.Variant == want.Variant)
	})
}

// attestedDigest is where buildkit's attestations say which manifest of the index they are
// about (github.com/moby/buildkit: docs/attestations/attestation-storage.md).
const attestedDigest = "vnd.docker.reference.digest"

// of is what a manifest needs on the wanted platforms.
func (p platforms) of(desc ocispec.Descriptor, m manifest) ([]ocispec.Descriptor, error) {
	needs := m.needs(desc.MediaType)
	if len(p) == 0 || !isIndex(desc.MediaType) {
		return needs, nil
	}
	kept := map[string]bool{}
	var others []string
	var platformed bool
	for _, d := range needs {
		switch {
		case d.Platform == nil:
			kept[d.Digest.String()] = true
		case p.want(d):
			kept[d.Digest.String()], platformed = true, true
		case d.Platform.OS != "unknown":
			others = append(others, d.Platform.OS+"/"+d.Platform.Architecture)
		}
	}
	if !platformed && len(others) > 0 {
		return nil, fmt.Errorf("index %s has %w, only %s", desc.Digest, ErrPlatform, strings.Join(others, ", "))
	}
	return slices.DeleteFunc(slices.Clone(needs), func(d ocispec.Descriptor) bool {
		return !kept[d.Digest.String()] && !kept[d.Annotations[attestedDigest]]
	}), nil
}

// limiter is a store that says of roots that only some platforms are there.
type limiter interface {
	PlatformsOf(root digest.Digest) ([]string, error)
}

// limitOf are the platforms to which the copy of a root is limited.
func (p *Plan) limitOf(source Source) ([]string, error) {
	if len(p.options.Platforms) > 0 {
		return slices.Compact(slices.Sorted(slices.Values(p.options.Platforms))), nil
	}
	store, ok := source.Store.(limiter)
	if !ok {
		return nil, nil
	}
	limit, err := store.PlatformsOf(source.Root.Digest)
	if err != nil {
		return nil, fmt.Errorf("source %s: %w", where(source.Store), err)
	}
	return limit, nil
}

// limitTo is the limit of a root by its source, where no platforms were asked for.
func (p *Plan) limitTo(r *root) (platforms, error) {
	if len(p.platforms) > 0 {
		return nil, nil
	}
	limit, err := parsePlatforms(r.platforms)
	if err != nil {
		return nil, fmt.Errorf("source %s: %w", where(r.Store), err)
	}
	return limit, nil
}

// present are what an index needs on the platforms of a source that is limited to them, and of
// the rest what is there.
func (p platforms) present(ctx context.Context, from content.Fetcher, desc ocispec.Descriptor, needs []ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	if !isIndex(desc.MediaType) {
		return needs, nil
	}
	if o, ok := from.(*overlay); ok {
		from = o.first
	}
	store, ok := from.(content.ReadOnlyStorage)
	if !ok {
		return needs, nil
	}
	var kept []ocispec.Descriptor
	for _, d := range needs {
		there := d.Platform == nil || p.want(d)
		if !there {
			var err error
			if there, err = store.Exists(ctx, d); err != nil {
				return nil, fmt.Errorf("source %s: look for %s: %w", where(from), d.Digest, err)
			}
		}
		if there {
			kept = append(kept, d)
		}
	}
	return kept, nil
}
