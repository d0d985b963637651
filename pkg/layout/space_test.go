//go:build linux || darwin

package layout_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"krtpkg.dev/krtpkg/pkg/layout"
)

func TestCheckSpace(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "not", "made", "yet")
	if err := layout.CheckSpace(folder, 1); err != nil {
		t.Error(err)
	}
	err := layout.CheckSpace(folder, 1<<60)
	var space *layout.SpaceError
	if !errors.As(err, &space) || !errors.Is(err, syscall.ENOSPC) || space.Free <= 0 || space.Free >= space.Needed {
		t.Fatalf("got %v", err)
	}
	if !strings.HasPrefix(err.Error(), "1.0 EiB needed, ") || !strings.HasSuffix(err.Error(), " free in "+folder+": no space left on device") {
		t.Errorf("it says %q", err)
	}
}

// What a layout has of blobs, whole or from an interrupted push, needs no space: a copy that filled the disk goes on.
func TestLayoutCheckSpace(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "target")
	store, err := layout.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	const huge = 15 << 40 // as much as a file may have
	blobs := []ocispec.Descriptor{{Digest: digest.FromString("huge"), Size: huge}, {Digest: digest.FromString("whole"), Size: huge}}
	// writeSparse writes a file that takes no space.
	writeSparse := func(name string, size int64) {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, nil, 0o644), os.Truncate(name, size)); err != nil {
			t.Fatal(err)
		}
	}
	var space *layout.SpaceError
	if err := store.CheckSpace(blobs); !errors.As(err, &space) || space.Needed != 2*huge {
		t.Errorf("of an empty layout: %v", err)
	}
	if err := store.CheckSpace([]ocispec.Descriptor{{Digest: blobs[0].Digest, Size: 1 << 62}, {Digest: blobs[1].Digest, Size: 1 << 62}}); !errors.As(err, &space) || space.Needed <= 0 {
		t.Errorf("of more than a number holds: %v", err)
	}
	writeSparse("blobs/sha256/"+blobs[1].Digest.Encoded(), huge)
	if err := store.CheckSpace(blobs); !errors.As(err, &space) || space.Needed != huge {
		t.Errorf("with one of two blobs: %v", err)
	}
	for _, partial := range []int64{huge - 100, huge, huge + 100} {
		writeSparse("ingest/"+blobs[0].Digest.Encoded()+".partial", partial)
		if err := store.CheckSpace(blobs); err != nil {
			t.Errorf("with %d bytes of the other one: %v", partial, err)
		}
	}
}
