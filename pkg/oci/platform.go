package oci

import (
	"fmt"
	"regexp"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
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
