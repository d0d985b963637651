package images_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/memory"

	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/progress"
)

// origin holds one image for every reference.
type origin struct {
	*memory.Store
	image ocispec.Descriptor
}

func (o origin) Origin(context.Context, name.Reference) (oras.ReadOnlyTarget, string, error) {
	return o, "latest", nil
}

func (o origin) Resolve(context.Context, string) (ocispec.Descriptor, error) { return o.image, nil }

// newOrigin makes an index over platforms written os/arch[/variant]; "" is a manifest without one.
func newOrigin(t *testing.T, platforms ...string) (origin, ocispec.Index) {
	t.Helper()
	o := origin{Store: memory.New()}
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Annotations: map[string]string{"kept": "yes"}}
	index.SchemaVersion = 2
	for i, text := range platforms {
		desc := o.push(t, ocispec.MediaTypeImageManifest, map[string]any{"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageManifest, "n": i})
		if text != "" {
			part := append(strings.Split(text, "/"), "")
			desc.Platform = &ocispec.Platform{OS: part[0], Architecture: part[1], Variant: part[2]}
		}
		index.Manifests = append(index.Manifests, desc)
	}
	o.image = o.push(t, index.MediaType, index)
	return o, index
}

func (o origin) push(t *testing.T, mediaType string, value any) ocispec.Descriptor {
	t.Helper()
	data, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	desc := content.NewDescriptorFromBytes(mediaType, data)
	if err := o.Push(t.Context(), desc, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	return desc
}

func TestPlatformsChooseFromAnIndex(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, index, platforms string
		kept                   []int // of the index; nil is an error
		noted                  bool
		lacking, err           string
	}{
		{name: "one of two", index: "linux/amd64 linux/arm64", platforms: "linux/arm64", kept: []int{1}, noted: true},
		{name: "all", index: "linux/amd64 linux/arm64", platforms: "linux/arm64 linux/amd64", kept: []int{0, 1}},
		{name: "two of three, in the order of the index", index: "linux/s390x linux/amd64 linux/arm64", platforms: "linux/arm64 linux/amd64", kept: []int{1, 2}, noted: true},
		{name: "every variant", index: "linux/arm/v6 linux/arm/v7 linux/amd64", platforms: "linux/arm", kept: []int{0, 1}, noted: true},
		{name: "one variant", index: "linux/arm/v6 linux/arm/v7", platforms: "linux/arm/v7", kept: []int{1}, noted: true},
		{name: "one that is missing of two", index: "linux/amd64 linux/arm64", platforms: "linux/amd64 windows/amd64", kept: []int{0}, noted: true, lacking: "windows/amd64"},
		{name: "two that are missing of four, the whole index", index: "linux/amd64 linux/arm64", platforms: "linux/s390x linux/amd64 linux/arm/v7 linux/arm64", kept: []int{0, 1}, lacking: "linux/s390x, linux/arm/v7"},
		{name: "none", index: "linux/amd64 linux/arm64", platforms: "windows/amd64", err: "no image for windows/amd64 (available: linux/amd64, linux/arm64)"},
		{name: "attestation beside it", index: "linux/amd64 unknown/unknown", platforms: "linux/amd64", kept: []int{0}, noted: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			from, index := newOrigin(t, strings.Fields(c.index)...)
			store := memory.New()
			var notes []string
			platforms := strings.Fields(c.platforms)
			r, err := images.ForPlatforms(nil, from, store, platforms, func(e progress.Event) {
				notes = append(notes, fmt.Sprint(e.Subject, " ", e.Detail))
			})
			if err != nil {
				t.Fatal(err)
			}
			ref, err := name.ParseReference("ghcr.io/a/b:1")
			if err != nil {
				t.Fatal(err)
			}
			got, err := r.Resolve(t.Context(), ref)
			if c.err != "" {
				if err == nil || err.Error() != c.err {
					t.Errorf("got %v, want %s", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			text := strings.Join(notes, "\n")
			if strings.Contains(text, "locked to") != c.noted || c.noted && !strings.Contains(notes[0], got.Digest.String()) {
				t.Errorf("notes: %q", notes)
			}
			if c.lacking == "" && strings.Contains(text, "no image for") || c.lacking != "" && (!strings.Contains(text, "b:1 has no image for "+c.lacking+": ") || strings.Contains(text, "locked to "+platforms[0]+", ")) {
				t.Errorf("notes: %q, want that %s is not there", notes, c.lacking)
			}
			if len(c.kept) == 1 {
				if want := index.Manifests[c.kept[0]]; got.Digest != want.Digest {
					t.Errorf("got %v, want %v", got, want)
				}
				return
			}
			checkIndex(t, from, store, got, index, c.kept)
		})
	}
}

// An image that is not an index has one platform, which its config names.
func TestPlatformsOfSingleImages(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ config, platforms, want string }{
		{`{"os": "linux", "architecture": "amd64"}`, "linux/arm64", "ghcr.io/a/b:1 has no image for linux/arm64 (available: linux/amd64): nodes of other platforms cannot run it"},
		{`{"os": "linux", "architecture": "amd64"}`, "linux/arm64 linux/amd64", "ghcr.io/a/b:1 has no image for linux/arm64 (available: linux/amd64): nodes of other platforms cannot run it"},
		{`{"os": "linux", "architecture": "arm64", "variant": "v8"}`, "linux/arm64", ""},
		{`{}`, "linux/arm64", ""},
	} {
		store := memory.New()
		config, err := oras.PushBytes(t.Context(), store, ocispec.MediaTypeImageConfig, []byte(c.config))
		if err != nil {
			t.Fatal(err)
		}
		image, err := oras.PackManifest(t.Context(), store, oras.PackManifestVersion1_1, "", oras.PackManifestOptions{ConfigDescriptor: &config})
		if err != nil {
			t.Fatal(err)
		}
		notes := ""
		r, err := images.ForPlatforms(nil, origin{store, image}, memory.New(), strings.Fields(c.platforms), func(e progress.Event) {
			notes += fmt.Sprint(e.Subject, " ", e.Detail)
		})
		if err != nil {
			t.Fatal(err)
		}
		got, err := r.Resolve(t.Context(), name.MustParseReference("ghcr.io/a/b:1"))
		if err != nil || got.Digest != image.Digest || notes != c.want {
			t.Errorf("%s for %s: %v, error %v, noted %q, want %q", c.config, c.platforms, got.Digest, err, notes, c.want)
		}
	}
}

// checkIndex looks into an index: the same but for the manifests that are left out. It lies
// in the store when it was made here.
func checkIndex(t *testing.T, from origin, store *memory.Store, got ocispec.Descriptor, whole ocispec.Index, kept []int) {
	t.Helper()
	var fetcher content.Fetcher = store
	if got.Digest == from.image.Digest {
		fetcher = from
	}
	data, err := content.FetchAll(t.Context(), fetcher, got)
	if err != nil {
		t.Fatal(err)
	}
	var smaller ocispec.Index
	if err := json.Unmarshal(data, &smaller); err != nil {
		t.Fatal(err)
	}
	if smaller.Annotations["kept"] != "yes" || smaller.MediaType != whole.MediaType || got.MediaType != whole.MediaType {
		t.Errorf("got %s", data)
	}
	if len(smaller.Manifests) != len(kept) {
		t.Fatalf("got %d manifests, want %d", len(smaller.Manifests), len(kept))
	}
	for i, at := range kept {
		if smaller.Manifests[i].Digest != whole.Manifests[at].Digest {
			t.Errorf("manifest %d is %v", i, smaller.Manifests[i])
		}
	}
}

// An image of one platform has nothing to choose from.
func TestPlatformsLeaveSingleImages(t *testing.T) {
	t.Parallel()
	from, index := newOrigin(t, "linux/amd64")
	config := content.NewDescriptorFromBytes(ocispec.MediaTypeImageConfig, []byte("{}"))
	for about, image := range map[string]ocispec.Descriptor{
		"an image": index.Manifests[0],
		"one of which the registry has no config": from.push(t, ocispec.MediaTypeImageManifest, ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: config}),
		"one that is not found":                   content.NewDescriptorFromBytes(ocispec.MediaTypeImageManifest, []byte("gone")),
	} {
		r, err := images.ForPlatforms(nil, origin{from.Store, image}, memory.New(), []string{"linux/arm64"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := r.Resolve(t.Context(), name.MustParseReference("ghcr.io/a/b:1"))
		if err != nil || got.Digest != image.Digest {
			t.Errorf("%s: got %v, %v", about, got, err)
		}
	}
}

func TestPlatformsAreParsed(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"linux", "", "linux/", "/amd64", "a/b/c/d"} {
		if _, err := images.ForPlatforms(nil, nil, nil, []string{text}, nil); err == nil || !strings.Contains(err.Error(), "want os/architecture[/variant]") {
			t.Errorf("%q: %v", text, err)
		}
	}
	plain := &registry{}
	if r, err := images.ForPlatforms(plain, nil, nil, nil, nil); err != nil || r != images.Resolver(plain) {
		t.Errorf("without platforms: %v, %v", r, err)
	}
}
