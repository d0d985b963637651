package oci

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
)

// platformText is os/architecture[/variant]. Versions of an OS cannot be chosen.
var platformText = regexp.MustCompile(`^[A-Za-z0-9_-]+/[A-Za-z0-9_-]+(/[A-Za-z0-9_.-]+)?/?$`)

// ParsePlatform reads os/architecture[/variant] as docker and containerd do: capitals and the names that uname has,
// as linux/x86_64, are those of images.
func ParsePlatform(text string) (ocispec.Platform, error) {
	if !platformText.MatchString(text) {
		return ocispec.Platform{}, fmt.Errorf("platform %q: want os/architecture[/variant], as in linux/arm64", text)
	}
	parts := strings.Split(strings.TrimSuffix(text, "/"), "/")
	p := ocispec.Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) > 2 {
		p.Variant = parts[2]
	}
	return canonicalPlatform(p), nil
}

// dockerConfig is the media type of the config of docker's images.
const dockerConfig = "application/vnd.docker.container.image.v1+json"

// ReadPlatform returns the platform of an image that is not an index, which its config names; false for what names
// none, such as an artifact.
func ReadPlatform(ctx context.Context, from content.Fetcher, m *Manifest) (ocispec.Platform, bool, error) {
	if m.Config == nil || m.Config.MediaType != ocispec.MediaTypeImageConfig && m.Config.MediaType != dockerConfig {
		return ocispec.Platform{}, false, nil
	}
	if m.Config.Size > MaxManifest {
		return ocispec.Platform{}, false, fmt.Errorf("config %s has %d bytes, the limit is %d", m.Config.Digest, m.Config.Size, MaxManifest)
	}
	data, err := content.FetchAll(ctx, from, *m.Config)
	if err != nil {
		return ocispec.Platform{}, false, fmt.Errorf("read config %s: %w", m.Config.Digest, err)
	}
	var config ocispec.Platform
	if err := UnmarshalJSON(data, &config); err != nil {
		return ocispec.Platform{}, false, fmt.Errorf("invalid config %s: %w", m.Config.Digest, err)
	}
	return config, config.OS != "" && config.Architecture != "", nil
}

// FormatPlatform returns a platform as os/architecture[/variant].
func FormatPlatform(p ocispec.Platform) string {
	if p.Variant == "" {
		return p.OS + "/" + p.Architecture
	}
	return p.OS + "/" + p.Architecture + "/" + p.Variant
}

// MatchesPlatform reports whether a platform of an image is the one that [ParsePlatform] gave; one without a variant is
// each of its variants.
func MatchesPlatform(want, have ocispec.Platform) bool {
	have = canonicalPlatform(have)
	return have.OS == want.OS && have.Architecture == want.Architecture &&
		(want.Variant == "" || fullVariant(have) == fullVariant(want))
}

// architectures are other names of architectures, some of which are of one variant
// (github.com/containerd/platforms, database.go).
var architectures = map[string]ocispec.Platform{
	"i386": {Architecture: "386"}, "x86_64": {Architecture: "amd64"}, "x86-64": {Architecture: "amd64"},
	"aarch64": {Architecture: "arm64"}, "armhf": {Architecture: "arm", Variant: "v7"}, "armel": {Architecture: "arm", Variant: "v6"},
}

func canonicalPlatform(p ocispec.Platform) ocispec.Platform {
	p.OS, p.Architecture, p.Variant = strings.ToLower(p.OS), strings.ToLower(p.Architecture), strings.ToLower(p.Variant)
	if p.OS == "macos" {
		p.OS = "darwin"
	}
	if other, is := architectures[p.Architecture]; is {
		p.Architecture = other.Architecture
		if other.Variant != "" {
			p.Variant = other.Variant
		}
	}
	return p
}

// fullVariant returns the variant of a platform, also the one that images leave out.
func fullVariant(p ocispec.Platform) string {
	variant := strings.TrimPrefix(p.Variant, "v")
	if variant == "" {
		variant = map[string]string{"arm": "7", "arm64": "8", "amd64": "1"}[p.Architecture]
	}
	return variant
}
