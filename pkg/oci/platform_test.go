package oci_test

import (
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"krtpkg.dev/krtpkg/pkg/oci"
)

// Platforms are those of containerd, however they are written.
func TestPlatforms(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text    string
		want    string // empty if it is refused
		matches []ocispec.Platform
		others  []ocispec.Platform
	}{
		{"linux/amd64", "linux/amd64", []ocispec.Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "amd64", Variant: "v3"}, {OS: "Linux", Architecture: "x86_64"}}, []ocispec.Platform{{OS: "windows", Architecture: "amd64"}, {}}},
		{"Linux/AMD64", "linux/amd64", []ocispec.Platform{{OS: "linux", Architecture: "amd64"}}, nil},
		{"linux/x86_64", "linux/amd64", []ocispec.Platform{{OS: "linux", Architecture: "amd64"}}, nil},
		{"linux/amd64/v1", "linux/amd64/v1", []ocispec.Platform{{OS: "linux", Architecture: "amd64"}}, []ocispec.Platform{{OS: "linux", Architecture: "amd64", Variant: "v3"}}},
		{"linux/aarch64", "linux/arm64", []ocispec.Platform{{OS: "linux", Architecture: "arm64", Variant: "v8"}}, nil},
		{"linux/arm64/v8", "linux/arm64/v8", []ocispec.Platform{{OS: "linux", Architecture: "arm64"}, {OS: "linux", Architecture: "arm64", Variant: "8"}}, []ocispec.Platform{{OS: "linux", Architecture: "arm64", Variant: "v9"}}},
		{"linux/arm64/v9", "linux/arm64/v9", []ocispec.Platform{{OS: "linux", Architecture: "arm64", Variant: "v9"}}, []ocispec.Platform{{OS: "linux", Architecture: "arm64"}}},
		{"linux/arm", "linux/arm", []ocispec.Platform{{OS: "linux", Architecture: "arm", Variant: "v6"}, {OS: "linux", Architecture: "arm"}}, []ocispec.Platform{{OS: "linux", Architecture: "arm64"}}},
		{"linux/arm/v7", "linux/arm/v7", []ocispec.Platform{{OS: "linux", Architecture: "arm"}, {OS: "linux", Architecture: "armhf"}}, []ocispec.Platform{{OS: "linux", Architecture: "arm", Variant: "v6"}}},
		{"linux/armhf", "linux/arm/v7", []ocispec.Platform{{OS: "linux", Architecture: "arm", Variant: "v7"}}, nil},
		{"linux/armel", "linux/arm/v6", nil, []ocispec.Platform{{OS: "linux", Architecture: "arm"}}},
		{"macos/arm64", "darwin/arm64", nil, nil},
		{"linux/amd64/", "linux/amd64", nil, nil},
		{"windows/amd64", "windows/amd64", []ocispec.Platform{{OS: "windows", Architecture: "amd64", OSVersion: "10.0.17763.1"}}, nil},
		{text: "windows/amd64:10.0.17763"}, {text: "windows(10.0.17763)/amd64"}, {text: "linux/amd64,linux/arm64"}, {text: "linux"}, {text: ""}, {text: "/"}, {text: "linux//v1"}, {text: "linux/arm/v7/x"}, {text: " linux/arm"},
	} {
		p, err := oci.ParsePlatform(c.text)
		if (err == nil) != (c.want != "") || err == nil && oci.FormatPlatform(p) != c.want {
			t.Errorf("%q is %+v, error %v, want %q", c.text, p, err, c.want)
		}
		for i, have := range append(c.matches, c.others...) {
			if got := oci.MatchesPlatform(p, have); got != (i < len(c.matches)) {
				t.Errorf("%q matches %+v: %v", c.text, have, got)
			}
		}
	}
}
