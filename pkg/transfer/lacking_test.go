package transfer

import (
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/memory"

	"krtpkg.dev/krtpkg/pkg/oci"
)

// An image that is not an index has the platform that its config names, if it names one.
func TestLackingOfSingleImages(t *testing.T) {
	t.Parallel()
	wanted, err := parsePlatforms([]string{"linux/arm64", "linux/amd64"})
	if err != nil {
		t.Fatal(err)
	}
	for config, want := range map[string]string{
		`{"os": "linux", "architecture": "amd64"}`:                  "linux/arm64",
		`{"os": "linux", "architecture": "arm64", "variant": "v8"}`: "linux/amd64",
		`{"os": "windows", "architecture": "amd64"}`:                "linux/arm64 linux/amd64",
		`{}`: "",
	} {
		store := memory.New()
		desc, err := oras.PushBytes(t.Context(), store, ocispec.MediaTypeImageConfig, []byte(config))
		if err != nil {
			t.Fatal(err)
		}
		got, err := wanted.lacking(t.Context(), store, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest}, &oci.Manifest{Config: &desc})
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%s: lacks %v, error %v; want %s", config, got, err, want)
		}
	}
}
