// Package corpus finds the upstream manifests that tests work on: real products' files beside
// the checkout, in ../shared/upstream, or where KRTPKG_TEST_UPSTREAM says. None of them are part
// of the project.
package corpus

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/internal/hack"
	"krtpkg.dev/krtpkg/pkg/manifest"
)

// Dir is the corpus's folder. Where there is none the test fails: it would prove nothing.
func Dir(tb testing.TB) string {
	tb.Helper()
	dir, err := Locate()
	if err != nil {
		tb.Fatal(err)
	}
	return dir
}

// Locate is [Dir] outside of tests.
func Locate() (string, error) {
	dir := os.Getenv("KRTPKG_TEST_UPSTREAM")
	if dir == "" {
		root, err := hack.Root()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(root, "..", "shared", "upstream")
	}
	if _, err := os.Stat(filepath.Join(dir, "INDEX.md")); err != nil {
		return "", fmt.Errorf("there are no upstream manifests in %s: name their folder with KRTPKG_TEST_UPSTREAM", dir)
	}
	return dir, nil
}

// File is a file of the corpus. Path is relative to the corpus, with slashes.
type File struct {
	Path string
	Data []byte
}

// Product is the path of the product that the file belongs to: layer/category/product.
func (f File) Product() string {
	parts := strings.SplitN(f.Path, "/", 4)
	return strings.Join(parts[:len(parts)-1], "/")
}

// Digest is the first 16 digits of the file's sha256, by which tables name it.
func (f File) Digest() string { return fmt.Sprintf("%x", sha256.Sum256(f.Data))[:16] }

// IsManifests says whether the file is manifests and nothing else: YAML or JSON, each document a
// resource for a cluster, no template.
func (f File) IsManifests() bool {
	isText := slices.Contains([]string{".yaml", ".yml", ".json", ".manifest", ".base", ".golden"}, path.Ext(f.Path))
	if !isText || strings.Contains(f.Path, "/templates/") || bytes.Contains(f.Data, []byte("#@")) {
		return false
	}
	parsed, err := manifest.Parse(f.Path, f.Data)
	if err != nil || len(parsed.Documents) == 0 {
		return false
	}
	for _, doc := range parsed.Documents {
		if parsed.CheckResource(doc) != nil || strings.HasPrefix(manifest.Get(doc, "apiVersion").Value, "kustomize.config.k8s.io/") {
			return false
		}
	}
	return true
}

// Files are the products' files, in order, without the corpus's own notes on them.
func Files(tb testing.TB) []File {
	tb.Helper()
	files, err := Read()
	if err != nil {
		tb.Fatal(err)
	}
	return files
}

// Read is [Files] outside of tests.
func Read() ([]File, error) {
	dir, err := Locate()
	if err != nil {
		return nil, err
	}
	var files []File
	err = filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if strings.Count(rel, "/") < 3 || entry.Name() == "source.yaml" && strings.Count(rel, "/") == 3 || entry.Name() == "LICENSE" {
			return nil
		}
		data, err := os.ReadFile(name)
		files = append(files, File{rel, data})
		return err
	})
	if err == nil && len(files) < 1000 {
		err = fmt.Errorf("only %d files in %s", len(files), dir)
	}
	return files, err
}
