//go:build unix

package source

import (
	"os"
	"testing"
)

// A temporary file has no name, so that a process that is killed leaves nothing behind.
func TestTemporaryHasNoName(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	file, err := createTemporary()
	if err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%v, error %v", left, err)
	}
	if err := closeTemporary(file); err != nil {
		t.Error(err)
	}
}
