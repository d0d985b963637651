package assemble_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"krtpkg.dev/krtpkg/internal/hack"
	"krtpkg.dev/krtpkg/internal/peaktest"
	"krtpkg.dev/krtpkg/pkg/assemble"
)

// A file is a stream: its size does not matter to the memory of a build.
func TestBuildOfLargeFileInLittleMemory(t *testing.T) {
	hack.SkipIfShort(t) // it writes half a gigabyte
	above, err := peaktest.Run(t, func(dir string) {
		writeTree(t, dir, "bundle.yaml", cargoHead+"  files: [{path: large.iso}]\n")
		if err := errors.Join(os.WriteFile(filepath.Join(dir, "large.iso"), nil, 0o644), os.Truncate(filepath.Join(dir, "large.iso"), 512<<20)); err != nil {
			t.Fatal(err)
		}
	}, func(dir string) error {
		_, err := assemble.Build(t.Context(), dir, cargoOptions(t, filepath.Join(dir, "dist"), nil))
		return err
	})
	if err != nil || above > 64<<20 {
		t.Errorf("%d MiB above the start: %v", above>>20, err)
	}
}
