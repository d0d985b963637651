package transfer_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

// A layer may be absent if its media type says that it is not distributed and its descriptor says
// where it is instead. The plan of a copy and the check of an archive agree on that.
func TestWhichLayersMayBeAbsent(t *testing.T) {
	t.Parallel()
	at := []string{"https://example.com/windows"}
	for _, c := range []struct {
		name, mediaType string
		urls            []string
		mayBe           bool
	}{
		{"Docker's foreign layer", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", at, true},
		{"Docker's foreign layer, not compressed", "application/vnd.docker.image.rootfs.foreign.diff.tar", at, true},
		{"OCI's foreign layer", "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", at, true},
		{"a foreign layer at no URL", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", nil, false},
		{"an ordinary layer with a URL", ocispec.MediaTypeImageLayerGzip, at, false},
		{"an ordinary layer", ocispec.MediaTypeImageLayerGzip, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			layer := ocispec.Descriptor{MediaType: c.mediaType, Digest: digestOf("windows"), Size: 7, URLs: c.urls}
			config := put(t, w.origin, ocispec.MediaTypeImageConfig, []byte("{}"))
			image := put(t, w.origin, ocispec.MediaTypeImageManifest, ocispec.Manifest{
				Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
				Config: config, Layers: []ocispec.Descriptor{layer},
			})
			root := w.bundle("a", image)
			_, err := transfer.Copy(t.Context(), []transfer.Source{{Store: w.dist, Root: root}}, newLayout(t), transfer.Options{Origins: w})
			if c.mayBe && err != nil || !c.mayBe && !errors.Is(err, errdef.ErrNotFound) {
				t.Errorf("copy: %v", err)
			}
			var data bytes.Buffer
			contents := archive.Contents{Named: []ocispec.Descriptor{archive.NameDescriptor(image, "1.0.0", "")}, Manifests: []ocispec.Descriptor{image}, Blobs: []ocispec.Descriptor{config}}
			if err := archive.Write(t.Context(), &data, contents, w.origin, archive.Options{}); err != nil {
				t.Fatal(err)
			}
			checked, err := archive.CheckStream(t.Context(), &data, nil)
			var lacking *archive.IncompleteError
			if c.mayBe && (err != nil || checked.Foreign != 1 || checked.Absent != 0) || !c.mayBe && !errors.As(err, &lacking) {
				t.Errorf("check: %+v, %v", checked, err)
			}
		})
	}
}
