//go:build unix

package archive_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"krtpkg.dev/krtpkg/pkg/archive"
)

// What a stranger has put next to an archive is not written to, nor waited for.
func TestWriteFileIntoFoldersOfStrangers(t *testing.T) {
	t.Parallel()
	contents, from := small(t)
	for _, c := range []struct {
		name  string
		plant func(at, victim string) error
		want  string
	}{
		{"link", func(at, victim string) error { return os.Symlink(victim, at+".partial") }, "x.tar.partial is not a regular file"},
		{"link to nowhere", func(at, victim string) error { return os.Symlink(victim+"-new", at+".partial") }, "x.tar.partial is not a regular file"},
		{"pipe", func(at, _ string) error { return syscall.Mkfifo(at+".partial", 0o600) }, "x.tar.partial is not a regular file"},
		{"folder", func(at, _ string) error { return os.Mkdir(at+".partial", 0o700) }, "x.tar.partial is not a regular file"},
		{"pipe for the archive", func(at, _ string) error { return syscall.Mkfifo(at, 0o600) }, "x.tar is not a file"},
	} {
		dir := t.TempDir()
		at, victim := filepath.Join(dir, "x.tar"), filepath.Join(dir, "victim")
		if err := errors.Join(os.WriteFile(victim, []byte("precious"), 0o600), c.plant(at, victim)); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() {
			_, err := archive.WriteFile(t.Context(), at, contents, from, archive.Options{})
			ended <- err
		}()
		select {
		case err := <-ended:
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: got %v, want %s", c.name, err, c.want)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s: it is waited for", c.name)
		}
		data, err := os.ReadFile(victim)
		if _, made := os.Lstat(victim + "-new"); err != nil || string(data) != "precious" || made == nil {
			t.Errorf("%s: the victim is %.20q, %v; another file: %v", c.name, data, err, made)
		}
	}
}
