package transfer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/oci"
)

// ErrPlatform reports that an image has none of the requested platforms.
var ErrPlatform = errors.New("none of the requested platforms")

// platformSet holds the requested platforms; empty means all.
type platformSet []ocispec.Platform

func parsePlatforms(list []string) (parsed platformSet, err error) {
	for _, text := range list {
		platform, err := oci.ParsePlatform(text)
		if err != nil {
			return nil, err
		}
		parsed = append(parsed, platform)
	}
	return parsed, nil
}

// texts returns the platforms in order, each once.
func (p platformSet) texts() (list []string) {
	for _, platform := range p {
		list = append(list, oci.FormatPlatform(platform))
	}
	slices.Sort(list)
	return slices.Compact(list)
}

func (p platformSet) contains(d ocispec.Descriptor) bool {
	return slices.ContainsFunc(p, func(want ocispec.Platform) bool { return oci.MatchesPlatform(want, *d.Platform) })
}

// attestedDigest is the annotation by which buildkit's attestations name the manifest of the index
// that they are about (github.com/moby/buildkit: docs/attestations/attestation-storage.md).
const attestedDigest = "vnd.docker.reference.digest"

// requiredBy returns what a manifest needs on the requested platforms.
func (p platformSet) requiredBy(desc ocispec.Descriptor, m *oci.Manifest) ([]ocispec.Descriptor, error) {
	needs := requiredBy(desc.MediaType, m)
	if len(p) == 0 || !oci.IsIndex(desc.MediaType) {
		return needs, nil
	}
	kept := map[string]bool{}
	var others []string
	var platformed bool
	for _, d := range needs {
		switch {
		case d.Platform == nil:
			kept[d.Digest.String()] = true
		case p.contains(d):
			kept[d.Digest.String()], platformed = true, true
		case d.Platform.OS != "unknown":
			others = append(others, d.Platform.OS+"/"+d.Platform.Architecture)
		}
	}
	// A node runs without a file that is for other platforms, which is noted, but not without an image.
	if !platformed && len(others) > 0 && m.ArtifactType != bundle.TypeFile {
		return nil, fmt.Errorf("index %s has %w, only %s", desc.Digest, ErrPlatform, strings.Join(others, ", "))
	}
	return slices.DeleteFunc(slices.Clone(needs), func(d ocispec.Descriptor) bool {
		return !kept[d.Digest.String()] && !kept[d.Annotations[attestedDigest]]
	}), nil
}

// lacking returns the wanted platforms that an image has nothing for, if it says which it has: an index in its
// entries, another image in its config.
func (p platformSet) lacking(ctx context.Context, from content.Fetcher, desc ocispec.Descriptor, m *oci.Manifest) (names []string, err error) {
	var has []ocispec.Platform
	for _, d := range m.Manifests {
		if d.Platform != nil {
			has = append(has, *d.Platform)
		}
	}
	if !oci.IsIndex(desc.MediaType) {
		one, known, err := oci.ReadPlatform(ctx, from, m)
		if err != nil {
			return nil, err
		}
		if known {
			has = []ocispec.Platform{one}
		}
	}
	for _, want := range p {
		if len(has) > 0 && !slices.ContainsFunc(has, func(one ocispec.Platform) bool { return oci.MatchesPlatform(want, one) }) {
			names = append(names, oci.FormatPlatform(want))
		}
	}
	return names, nil
}

// isAttestation reports whether a manifest in an index is one of buildkit's about another one there,
// which runs nowhere.
func isAttestation(d ocispec.Descriptor) bool {
	return d.Annotations[attestedDigest] != "" && d.Platform != nil && d.Platform.OS == "unknown"
}

// platformLimiter is a store that records to which platforms its roots are limited.
type platformLimiter interface {
	PlatformsOf(root digest.Digest) ([]string, error)
}

// platformLimitOf returns the platforms to which the copy of a root is limited.
func (p *Plan) platformLimitOf(source Source) ([]string, error) {
	if len(p.platforms) > 0 {
		return p.platforms.texts(), nil
	}
	store, ok := source.Store.(platformLimiter)
	if !ok {
		return nil, nil
	}
	limit, err := store.PlatformsOf(source.Root.Digest)
	if err != nil {
		return nil, fmt.Errorf("source %s: %w", storeName(source.Store), err)
	}
	return limit, nil
}

// sourceLimitOf returns the limit of a root by its source if no platforms were requested.
func (p *Plan) sourceLimitOf(r *planRoot) (platformSet, error) {
	if len(p.platforms) > 0 {
		return nil, nil
	}
	limit, err := parsePlatforms(r.platforms)
	if err != nil {
		return nil, fmt.Errorf("source %s: %w", storeName(r.Store), err)
	}
	return limit, nil
}

// presentOf returns what an index needs on the platforms of a limited source, and of the rest what
// the source has.
func (p platformSet) presentOf(ctx context.Context, from content.Fetcher, desc ocispec.Descriptor, needs []ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	if !oci.IsIndex(desc.MediaType) {
		return needs, nil
	}
	if o, ok := from.(*fallbackFetcher); ok {
		from = o.first
	}
	store, ok := from.(content.ReadOnlyStorage)
	if !ok {
		return needs, nil
	}
	var kept []ocispec.Descriptor
	for _, d := range needs {
		there := d.Platform == nil || p.contains(d)
		if !there {
			var err error
			if there, err = store.Exists(ctx, d); err != nil {
				return nil, fmt.Errorf("source %s: look for %s: %w", storeName(from), d.Digest, err)
			}
		}
		if there {
			kept = append(kept, d)
		}
	}
	return kept, nil
}
