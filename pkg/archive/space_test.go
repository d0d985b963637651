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
	if err := archive.CheckSpace(names, []archive.Contents{fits, contents}); !errors.As(err, &space) {
		t.Errorf("of two volumes: got %v", err)
	}
	if err := archive.CheckSpace(names[:1], []archive.Contents{fits}); err != nil {
		t.Error(err)
	}
}
