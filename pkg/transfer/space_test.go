//go:build linux || darwin

package transfer_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/layout"
	"krtpkg.dev/krtpkg/pkg/transfer"
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

// recordingDisk records the blobs that space was asked for.
type recordingDisk struct {
	*layout.Store
	asked [][]ocispec.Descriptor
}

func (d *recordingDisk) CheckSpace(blobs []ocispec.Descriptor) error {
	d.asked = append(d.asked, blobs)
	return d.Store.CheckSpace(blobs)
}

// A stream of deltas needs space for the layers that they make, and again for none: no target keeps deltas.
func TestSpaceForStreamOfDeltas(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	roots := w.releases(2)
	complete := newLayout(t)
	var plans []*transfer.Plan
	for _, root := range roots {
		w.mustCopy(root, complete)
		plans = append(plans, planOf(t, complete, root, transfer.Options{}))
	}
	deltas, contents := deltaArchive(t, plans[1], plans[0], transfer.DeltaOptions{})
	name := writeDeltas(t, plans[1], deltas, contents)[0]
	dst := &recordingDisk{Store: newLayout(t)}
	w.mustCopy(roots[0], dst)
	for _, again := range []bool{false, true} {
		dst.asked = nil
		stream, err := archive.OpenStream(t.Context(), io.MultiReader(openFile(t, name)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := transfer.ImportStream(t.Context(), stream, dst, transfer.Options{MoveTags: true, TemporaryDir: t.TempDir()}); err != nil {
			t.Fatal(err)
		}
		stream.Close()
		layers := 0
		for _, desc := range dst.asked[0] {
			// The manifest of the deltas has the empty object too.
			if there, err := dst.Exists(t.Context(), desc); err != nil || !there && desc.Digest != ocispec.DescriptorEmptyJSON.Digest {
				t.Errorf("again %v: space was asked for %s, which the target does not keep; error %v", again, desc.Digest, err)
			}
			for _, layer := range deltas.Layers {
				if layer.Layer == desc.Digest && layer.Size == desc.Size {
					layers++
				}
			}
		}
		if want := map[bool]int{false: len(deltas.Layers)}[again]; layers != want {
			t.Errorf("again %v: space was asked for %d layers, want %d", again, layers, want)
		}
	}
}
