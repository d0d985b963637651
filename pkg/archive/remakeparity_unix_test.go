//go:build unix

// The disk is played by writes to a locked file, which Windows refuses.

package archive_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/progress"
)

// A volume of parity that is made again is read back before it gets its name: the disk may not have what was written.
func TestRemadeParityIsReadBack(t *testing.T) {
	t.Parallel()
	const ownParity = -1 // where the header is differs with its size
	empty := func([]byte) []byte { return nil }
	half := func(whole []byte) []byte {
		half := slices.Clone(whole)
		clear(half[len(half)/2:])
		return half
	}
	for name, c := range map[string]struct {
		when   progress.Kind
		offset int64
		// damage is what was there before.
		damage func(whole []byte) []byte
	}{
		"before its own parity is made": {progress.Began, 50_000, empty}, "of its own parity": {progress.Copied, 205_000, empty}, "after that": {progress.Copied, 50_000, empty},
		"instead of half of it": {progress.Copied, 50_000, half},
		"the first header":      {progress.Began, 0, empty}, "the geometry": {progress.Began, 1_100, empty}, "the header of the set": {progress.Began, 2_560, empty},
		"the set": {progress.Began, 3_080, empty}, "the padding of the set": {progress.Began, 3_570, empty}, "the header of the parity": {progress.Began, 3_584, empty},
		"the header of its own parity": {progress.Began, ownParity, empty}, "the geometry at the end": {progress.Copied, 246_000, empty},
	} {
		names, parityNames := writeVolumes(t, t.TempDir(), 1, 200_000, 200_000)
		want, err := os.ReadFile(parityNames[0])
		if err != nil {
			t.Fatal(err)
		}
		if c.offset == ownParity {
			c.offset = int64(bytes.Index(want, []byte("krtpkg-parity/blocks")))
		}
		before := c.damage(want)
		if err := os.WriteFile(parityNames[0], before, 0o644); err != nil {
			t.Fatal(err)
		}
		spoiled := false
		_, err = archive.Repair(t.Context(), parityNames[0], archive.RepairOptions{Progress: func(e progress.Event) {
			if spoiled || e.Kind != c.when || e.Subject != "krtpkg-parity/blocks" {
				return
			}
			spoiled = true
			file, err := os.OpenFile(parityNames[0]+".partial", os.O_RDWR, 0)
			if err != nil {
				t.Error(err)
				return
			}
			defer file.Close()
			if _, err := file.WriteAt([]byte("spoiled"), c.offset); err != nil {
				t.Error(err)
			}
		}})
		if !spoiled {
			t.Fatalf("%s: nothing was spoiled", name)
		}
		if !errors.Is(err, archive.ErrDamaged) || !strings.Contains(err.Error(), "check the restored parity volume") {
			t.Errorf("%s: %v, want that what was made is damaged", name, err)
		}
		if got, err := os.ReadFile(parityNames[0]); err != nil || !bytes.Equal(got, before) {
			t.Errorf("%s: %d bytes have the name, %v", name, len(got), err)
		}
		if left, err := filepath.Glob(filepath.Join(filepath.Dir(names[0]), "*.partial")); err != nil || len(left) > 0 {
			t.Errorf("%s: left %v, %v", name, left, err)
		}
		if _, err := archive.Repair(t.Context(), parityNames[0], archive.RepairOptions{}); err != nil {
			t.Errorf("%s: again: %v", name, err)
		}
		if got, err := os.ReadFile(parityNames[0]); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: it was made again with other bytes, %v", name, err)
		}
	}
}
