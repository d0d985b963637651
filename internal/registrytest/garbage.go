package registrytest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"

	"krtpkg.dev/krtpkg/internal/hack"
)

// CollectGarbage runs the garbage collection of a Distribution kind, by its own command. Nothing may be
// written meanwhile.
func (r *Registry) CollectGarbage(ctx context.Context) error {
	if programs[r.Options.Kind] == "" {
		return fmt.Errorf("registry %v has no command for it", r.Options)
	}
	bin, err := hack.BuildProgram(ctx, programs[r.Options.Kind])
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, bin, "garbage-collect", filepath.Join(r.run, "config.yml"))
	cmd.Env = []string{"OTEL_TRACES_EXPORTER=none"}
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, output)
	}
	return nil
}

// DiskBytes returns the bytes of the files in which a Distribution kind keeps its content.
func (r *Registry) DiskBytes() (total int64, err error) {
	dir, err := r.contentDir()
	if err != nil {
		return 0, err
	}
	err = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			total += info.Size()
		}
		return err
	})
	return total, err
}
