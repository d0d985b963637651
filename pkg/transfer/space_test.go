//go:build linux || darwin

package transfer_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"krtpkg.dev/krtpkg/pkg/layout"
)

// A copy to a disk that is too small is refused before anything is written.
func TestCopyWithoutSpace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	image := put(t, w.origin, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: put(t, w.origin, ocispec.MediaTypeImageConfig, []byte("{}")),
		Layers: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digestOf("huge"), Size: 1 << 50}},
	})
	dir := filepath.Join(t.TempDir(), "target")
	dst, err := layout.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.copy(w.bundle("a", image), dst)
	var space *layout.SpaceError
	if !errors.As(err, &space) || space.Needed < 1<<50 {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "blobs")); err == nil {
		t.Error("something was written")
	}
}
