//go:build unix

package assemble_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"krtpkg.dev/krtpkg/pkg/assemble"
)

// A stranger's folder keeps nobody waiting: devices and pipes in it are no definitions, locks or
// manifests.
func TestFoldersOfStrangers(t *testing.T) {
	t.Parallel()
	const definition = "apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: web, version: 1.0.0}\nspec:\n  layer: 6\n  sources: [{dir: m}]\n"
	for _, c := range []struct {
		name    string
		prepare func(dir string) error
		want    string
	}{
		{"bundle.yaml is /dev/zero", func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "bundle.yaml")), os.Symlink("/dev/zero", filepath.Join(dir, "bundle.yaml")))
		}, "has no definition"},
		{"bundle.yaml is a pipe", func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "bundle.yaml")), syscall.Mkfifo(filepath.Join(dir, "bundle.yaml"), 0o644))
		}, "has no definition"},
		{"bundle.yaml has no end", func(dir string) error { return os.Truncate(filepath.Join(dir, "bundle.yaml"), 1<<40) }, "more than 67108864 bytes"},
		{"the lock is /dev/zero", func(dir string) error { return os.Symlink("/dev/zero", filepath.Join(dir, "bundle.lock.yaml")) }, "bundle.lock.yaml is not a regular file"},
		{"the lock is a pipe", func(dir string) error { return syscall.Mkfifo(filepath.Join(dir, "bundle.lock.yaml"), 0o644) }, "bundle.lock.yaml is not a regular file"},
		{"a manifest is a pipe", func(dir string) error { return syscall.Mkfifo(filepath.Join(dir, "m", "a.yaml"), 0o644) }, "m/a.yaml"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := errors.Join(os.Mkdir(filepath.Join(dir, "m"), 0o755), os.WriteFile(filepath.Join(dir, "bundle.yaml"), []byte(definition), 0o644), c.prepare(dir)); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() {
				_, err := assemble.Build(context.Background(), dir, options())
				done <- err
			}()
			select {
			case err := <-done:
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("no %q in: %v", c.want, err)
				}
			case <-time.After(20 * time.Second):
				t.Error("it does not end")
			}
		})
	}
}
