package transfer

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
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
