package layout_test

import (
	"encoding/json"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"krtpkg.dev/krtpkg/pkg/layout"
)

// Each item is named by the image, the bundle or the tag that it belongs to.
func TestDescribeItems(t *testing.T) {
	manifests := map[digest.Digest][]byte{}
	put := func(value any) ocispec.Descriptor {
		data, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		desc := ocispec.Descriptor{Digest: digest.FromBytes(data)}
		manifests[desc.Digest] = data
		return desc
	}
	blob := func(text string) ocispec.Descriptor { return ocispec.Descriptor{Digest: digest.FromString(text)} }
	config := blob("config")
	image := put(ocispec.Manifest{Config: config, Layers: []ocispec.Descriptor{blob("layer")}})
	image.Platform = &ocispec.Platform{OS: "linux", Architecture: "arm64"}
	index := put(ocispec.Index{Manifests: []ocispec.Descriptor{image}})
	index.Annotations = map[string]string{"io.containerd.image.name": "ghcr.io/example/web:1.0", ocispec.AnnotationRefName: "web"}
	bundle := put(ocispec.Manifest{Layers: []ocispec.Descriptor{blob("files")}, Annotations: map[string]string{
		ocispec.AnnotationTitle: "web", ocispec.AnnotationVersion: "1.0.0",
	}})
	signature := put(ocispec.Manifest{Layers: []ocispec.Descriptor{blob("signature")}})
	signature.Annotations = map[string]string{ocispec.AnnotationRefName: "sha256-0.sig"}
	review := put(ocispec.Manifest{Layers: []ocispec.Descriptor{blob("review")}, Subject: &bundle})
	comment := put(ocispec.Manifest{Layers: []ocispec.Descriptor{blob("comment")}, Subject: &review})
	// One that contains itself is not followed for ever.
	loop := ocispec.Descriptor{Digest: digest.FromString("loop")}
	manifests[loop.Digest] = []byte(`{"manifests": [{"digest": "` + loop.Digest.String() + `"}], "annotations": {"` + ocispec.AnnotationTitle + `": "loop"}}`)

	got := layout.DescribeItems([]ocispec.Descriptor{signature, index}, manifests)
	for item, want := range map[digest.Digest]string{
		blob("layer").Digest: "layer of ghcr.io/example/web:1.0 for linux/arm64", config.Digest: "config of ghcr.io/example/web:1.0 for linux/arm64",
		index.Digest: "manifest of ghcr.io/example/web:1.0", blob("files").Digest: "layer of web 1.0.0", bundle.Digest: "manifest of web 1.0.0",
		review.Digest: "manifest of a referrer of web 1.0.0", blob("comment").Digest: "layer of a referrer of a referrer of web 1.0.0",
		comment.Digest: "manifest of a referrer of a referrer of web 1.0.0", blob("signature").Digest: "layer of sha256-0.sig", loop.Digest: "manifest of loop", blob("nothing").Digest: "",
	} {
		if got[item] != want {
			t.Errorf("got %q, want %q", got[item], want)
		}
	}
}
