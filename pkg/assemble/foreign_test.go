package assemble_test

import (
	"bytes"
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/memory"

	"krtpkg.dev/krtpkg/pkg/assemble"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/progress"
)

// oneImage is a registry of one image, whatever it is called.
type oneImage struct {
	*memory.Store
	image ocispec.Descriptor
}

func (o oneImage) Origin(_ context.Context, ref name.Reference) (oras.ReadOnlyTarget, string, error) {
	return o, ref.Identifier(), nil
}

func (o oneImage) Resolve(context.Context, string) (ocispec.Descriptor, error) { return o.image, nil }

// resolving makes it a resolver of images.
type resolving struct{ oneImage }

func (r resolving) Resolve(context.Context, name.Reference) (ocispec.Descriptor, error) {
	return r.image, nil
}

func (o oneImage) put(t *testing.T, mediaType string, value any) ocispec.Descriptor {
	t.Helper()
	data, isBlob := value.([]byte)
	if !isBlob {
		var err error
		if data, err = json.Marshal(value); err != nil {
			t.Fatal(err)
		}
	}
	desc := content.NewDescriptorFromBytes(mediaType, data)
	if err := o.Push(t.Context(), desc, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	return desc
}

// Foreign layers are noted when their image is locked, not only when it is copied.
func TestForeignLayersAreNoted(t *testing.T) {
	t.Parallel()
	const foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
	absent := ocispec.Descriptor{MediaType: foreign, Digest: digest.FromString("absent"), Size: 6, URLs: []string{"https://up.example/absent"}}
	lost := ocispec.Descriptor{MediaType: foreign, Digest: digest.FromString("lost"), Size: 4, URLs: []string{"https://up.example/lost", "https://down.example/lost"}}
	const leaves = "registry.example/web:1 has 2 foreign layers that are not in its registry: a copy leaves them out, and nodes fetch them from https://up.example/absent, https://up.example/lost"
	for _, c := range []struct {
		name, platform string
		image          func(put func(mediaType string, value any) ocispec.Descriptor) ocispec.Descriptor
		want           string
	}{
		{"an image", "", func(put func(string, any) ocispec.Descriptor) ocispec.Descriptor {
			return put(ocispec.MediaTypeImageManifest, ocispec.Manifest{Layers: []ocispec.Descriptor{absent, lost, put(ocispec.MediaTypeImageLayer, []byte("1"))}})
		}, leaves},
		{"in an index, one layer twice", "", func(put func(string, any) ocispec.Descriptor) ocispec.Descriptor {
			linux := put(ocispec.MediaTypeImageManifest, ocispec.Manifest{Layers: []ocispec.Descriptor{put(ocispec.MediaTypeImageLayer, []byte("1"))}})
			first := put(ocispec.MediaTypeImageManifest, ocispec.Manifest{Layers: []ocispec.Descriptor{absent}})
			second := put(ocispec.MediaTypeImageManifest, ocispec.Manifest{Layers: []ocispec.Descriptor{absent, lost}})
			linux.Platform, first.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}, &ocispec.Platform{OS: "windows", Architecture: "amd64"}
			return put(ocispec.MediaTypeImageIndex, ocispec.Index{Manifests: []ocispec.Descriptor{linux, first, second}})
		}, leaves},
		{"locked to other platforms", "linux/amd64", func(put func(string, any) ocispec.Descriptor) ocispec.Descriptor {
			linux := put(ocispec.MediaTypeImageManifest, ocispec.Manifest{Layers: []ocispec.Descriptor{put(ocispec.MediaTypeImageLayer, []byte("1"))}})
			windows := put(ocispec.MediaTypeImageManifest, ocispec.Manifest{Layers: []ocispec.Descriptor{absent}})
			linux.Platform, windows.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}, &ocispec.Platform{OS: "windows", Architecture: "amd64"}
			return put(ocispec.MediaTypeImageIndex, ocispec.Index{Manifests: []ocispec.Descriptor{linux, windows}})
		}, ""},
		{"locked to two platforms of three", "linux/arm64,windows/amd64", func(put func(string, any) ocispec.Descriptor) ocispec.Descriptor {
			var index ocispec.Index
			for _, architecture := range []string{"amd64", "arm64"} {
				linux := put(ocispec.MediaTypeImageManifest, ocispec.Manifest{Layers: []ocispec.Descriptor{put(ocispec.MediaTypeImageLayer, []byte(architecture))}})
				linux.Platform = &ocispec.Platform{OS: "linux", Architecture: architecture}
				index.Manifests = append(index.Manifests, linux)
			}
			windows := put(ocispec.MediaTypeImageManifest, ocispec.Manifest{Layers: []ocispec.Descriptor{absent, lost}})
			windows.Platform = &ocispec.Platform{OS: "windows", Architecture: "amd64"}
			index.Manifests = append(index.Manifests, windows)
			return put(ocispec.MediaTypeImageIndex, index)
		}, leaves},
		{"a layer that is there", "", func(put func(string, any) ocispec.Descriptor) ocispec.Descriptor {
			layer := put(foreign, []byte("1"))
			layer.URLs = []string{"https://up.example/1"}
			return put(ocispec.MediaTypeImageManifest, ocispec.Manifest{Layers: []ocispec.Descriptor{layer}})
		}, "registry.example/web:1 has 1 foreign layer, which a copy takes along: check that its license allows that"},
		{"a layer at no URL", "", func(put func(string, any) ocispec.Descriptor) ocispec.Descriptor {
			return put(ocispec.MediaTypeImageManifest, ocispec.Manifest{Layers: []ocispec.Descriptor{{MediaType: foreign, Digest: absent.Digest, Size: 6}}})
		}, ""},
		{"a manifest that is missing", "", func(put func(string, any) ocispec.Descriptor) ocispec.Descriptor {
			return put(ocispec.MediaTypeImageIndex, ocispec.Index{Manifests: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageManifest, Digest: absent.Digest, Size: 6}}})
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			place(t, filepath.Join(dir, "bundle.yaml"), []byte("apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: b, version: 1.0.0}\nspec: {layer: 6, sources: [{file: pod.yaml}]}\n"))
			place(t, filepath.Join(dir, "pod.yaml"), []byte("apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: web}\nspec: {containers: [{name: web, image: 'registry.example/web:1'}]}\n"))
			from := oneImage{Store: memory.New()}
			from.image = c.image(func(mediaType string, value any) ocispec.Descriptor { return from.put(t, mediaType, value) })
			var notes []string
			o := options()
			o.Origins = from
			o.Progress = func(e progress.Event) {
				if e.Kind == progress.Note {
					notes = append(notes, strings.TrimSpace(e.Subject+" "+e.Detail))
				}
			}
			var platforms []string
			if c.platform != "" {
				platforms = strings.Split(c.platform, ",")
			}
			var err error
			if o.Images, err = images.ForPlatforms(resolving{from}, from, o.Store, platforms, nil); err != nil {
				t.Fatal(err)
			}
			if _, err := assemble.Build(t.Context(), dir, o); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(notes, "\n"); got != c.want {
				t.Errorf("notes:\n%s\nwant:\n%s", got, c.want)
			}
		})
	}
}
