// Package corpus finds the upstream manifests that tests work on: real products' files next to
// the checkout, in ../shared/upstream and ../shared/upstream-more, or in the list of folders that
// KRTPKG_TEST_UPSTREAM holds, the first of which has the tables. None of them are part of the project.
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

// FirstDir returns the corpus's first folder. Where it is absent the test fails: it would prove nothing.
func FirstDir(tb testing.TB) string {
	tb.Helper()
	dirs, err := ListDirs()
	if err != nil {
		tb.Fatal(err)
	}
	return dirs[0]
}

// ListDirs lists the corpus's folders.
func ListDirs() ([]string, error) {
	dirs := filepath.SplitList(os.Getenv("KRTPKG_TEST_UPSTREAM"))
	if len(dirs) == 0 {
		root, err := hack.FindRoot()
		if err != nil {
			return nil, err
		}
		shared := filepath.Join(root, "..", "shared")
		dirs = []string{filepath.Join(shared, "upstream"), filepath.Join(shared, "upstream-more")}
	}
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, "INDEX.md")); err != nil {
			return nil, fmt.Errorf("no upstream manifests in %s: name their folders with KRTPKG_TEST_UPSTREAM", dir)
		}
	}
	return dirs, nil
}

// File is a file of the corpus. Path is relative to the corpus, with slashes.
type File struct {
	Path string
	Data []byte
}

// Product returns the path of the product that the file belongs to: layer/category/product.
func (f File) Product() string {
	parts := strings.SplitN(f.Path, "/", 4)
	return strings.Join(parts[:len(parts)-1], "/")
}

// Digest returns the first 16 digits of the file's sha256, by which tables name it.
func (f File) Digest() string { return fmt.Sprintf("%x", sha256.Sum256(f.Data))[:16] }

// IsForCluster reports whether the file is manifests that a bundle may have: what imgpkg and kbld read is refused.
func (f File) IsForCluster() bool {
	return f.IsManifests() && !strings.Contains(f.Path, ".imgpkg/") && !bytes.Contains(f.Data, []byte("apiVersion: kbld.k14s.io"))
}

// IsManifests reports whether the file is manifests and nothing else: YAML or JSON, each document a
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
		if parsed.CheckResource(doc) != nil || strings.HasPrefix(manifest.GetValue(doc, "apiVersion").Value, "kustomize.config.k8s.io/") {
			return false
		}
	}
	return true
}

// ListFiles returns the products' files in the corpus's first folder, in order, without the corpus's own notes on them.
func ListFiles(tb testing.TB) []File {
	tb.Helper()
	files, err := ReadFiles()
	if err != nil {
		tb.Fatal(err)
	}
	return files
}

// ListAllFiles returns the products' files in all of the corpus's folders, in the order of the folders.
func ListAllFiles(tb testing.TB) []File {
	tb.Helper()
	dirs, err := ListDirs()
	if err != nil {
		tb.Fatal(err)
	}
	var all []File
	for _, dir := range dirs {
		files, err := readDir(dir)
		if err != nil {
			tb.Fatal(err)
		}
		all = append(all, files...)
	}
	return all
}

// ReadFiles is [ListFiles] outside of tests.
func ReadFiles() ([]File, error) {
	dirs, err := ListDirs()
	if err != nil {
		return nil, err
	}
	files, err := readDir(dirs[0])
	if err == nil && len(files) < 1000 {
		err = fmt.Errorf("only %d files in %s", len(files), dirs[0])
	}
	return files, err
}

func readDir(dir string) ([]File, error) {
	var files []File
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
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
	return files, err
}
