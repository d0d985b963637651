//go:build linux || darwin

package archive_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/layout"
)

// An archive that is larger than the disk is refused before anything is read or written, one volume or several.
func TestWriteFileWithoutSpace(t *testing.T) {
	t.Parallel()
	contents, from := small(t)
	contents.Blobs = append(contents.Blobs, ocispec.Descriptor{Digest: digest.FromString("huge"), Size: 1 << 50})
	archive.SortBlobs(contents.Blobs)
	dir := t.TempDir()
	var read atomic.Int64
	_, err := archive.WriteFile(t.Context(), filepath.Join(dir, "x.tar"), contents, counting{from, &read}, archive.Options{})
	var space *layout.SpaceError
	if !errors.As(err, &space) || space.Needed < 1<<50 || read.Load() > 0 {
		t.Errorf("%d bytes were read; got %v", read.Load(), err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("it left %v, error %v", entries, err)
	}
	fits, _ := small(t)
	names := archive.VolumeNames(filepath.Join(dir, "x.tar"), 2)
	if err := archive.CheckSpace(names, nil, []archive.Contents{fits, contents}); !errors.As(err, &space) {
		t.Errorf("of two volumes: got %v", err)
	}
	if err := archive.CheckSpace(names[:1], nil, []archive.Contents{fits}); err != nil {
		t.Error(err)
	}
}

// What a killed export left of volumes, and of those of parity, makes room for the next one.
func TestCheckSpaceOfRepeatedExport(t *testing.T) {
	t.Parallel()
	contents, _ := small(t)
	contents.Blobs = append(contents.Blobs, ocispec.Descriptor{Digest: digest.FromString("huge"), Size: 3 << 40})
	archive.SortBlobs(contents.Blobs)
	contents.Parity, contents.ParityVolumes = 10, 2
	name := filepath.Join(t.TempDir(), "x.tar")
	names, parityNames, volumes := archive.VolumeNames(name, 1), archive.ParityVolumeNames(name, 2), []archive.Contents{contents}
	sizes, err := archive.PlanParityVolumes(volumes)
	if err != nil {
		t.Fatal(err)
	}
	size, err := contents.Size()
	if err != nil {
		t.Fatal(err)
	}
	for _, left := range []struct {
		name string
		size int64
		want int64
	}{{"", 0, size + sizes[0] + sizes[1]}, {names[0], size - 100, 100 + sizes[0] + sizes[1]}, {parityNames[0], sizes[0] + 100, 100 + sizes[1]}, {parityNames[1], sizes[1], 0}} {
		if left.name != "" {
			partial := left.name + ".partial"
			if err := errors.Join(os.WriteFile(partial, nil, 0o644), os.Truncate(partial, left.size)); err != nil {
				t.Fatal(err)
			}
		}
		err := archive.CheckSpace(names, parityNames, volumes)
		var space *layout.SpaceError
		if left.want == 0 && err != nil || left.want > 0 && (!errors.As(err, &space) || space.Needed != left.want) {
			t.Errorf("with %q: got %v, want an error of %d bytes", left.name, err, left.want)
		}
	}
}
