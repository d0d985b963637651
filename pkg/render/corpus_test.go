package render_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/internal/hack"
	"krtpkg.dev/krtpkg/pkg/bundle"
)

// tool returns a program of hack/tools.
func tool(t *testing.T, name string) string {
	t.Helper()
	program := hack.BuildForTest(t, "tools/"+name)
	return program
}

// run returns what a program prints, in an environment that holds nothing of the user's and no
// way to a network.
func run(t *testing.T, program string, args ...string) ([]byte, error) {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Dir = t.TempDir()
	cmd.Env = []string{"HOME=" + cmd.Dir, "PATH=/nowhere", "HTTPS_PROXY=http://127.0.0.1:1", "HTTP_PROXY=http://127.0.0.1:1"}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, errs.Bytes())
	}
	return out.Bytes(), nil
}

// readTree returns every file below a folder.
func readTree(t *testing.T, dir string) []bundle.File {
	t.Helper()
	var files []bundle.File
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		files = append(files, bundle.File{Path: filepath.ToSlash(rel), Data: data})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// same compares what was rendered with what a tool printed.
func same(t *testing.T, got, want []byte) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	g, w := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			t.Errorf("line %d of %d and %d:\n got %s\nwant %s", i+1, len(g), len(w), g[i], w[i])
			return
		}
	}
	t.Errorf("%d lines, want %d", len(g), len(w))
}

// folders returns those of the corpus that hold a file of one of these names.
func folders(t *testing.T, dir string, names ...string) []string {
	t.Helper()
	var found []string
	for _, f := range readTree(t, dir) {
		for _, name := range names {
			if filepath.Base(f.Path) == name {
				found = append(found, filepath.Dir(f.Path))
			}
		}
	}
	return found
}
