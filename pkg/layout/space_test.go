//go:build linux || darwin

package layout_test

import (
	"errors"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

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
	store, err := layout.Create(folder)
	if err == nil {
		err = store.CheckSpace(1 << 60)
	}
	if !errors.As(err, &space) {
		t.Errorf("of a layout: %v", err)
	}
}
