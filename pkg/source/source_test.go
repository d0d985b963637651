package source_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"krtpkg.dev/krtpkg/pkg/source"
)

// tree writes files, by default with their own name as content, and returns their folder.
func tree(t *testing.T, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range files {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(name), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func link(t *testing.T, target, name string) {
	t.Helper()
	if err := os.Symlink(target, name); err != nil {
		t.Fatal(err)
	}
}

func paths(tree *source.Tree) []string {
	var names []string
	for _, f := range tree.Files {
		names = append(names, f.Path)
	}
	return names
}

func TestFolderTakesManifestsThatMatch(t *testing.T) {
	t.Parallel()
	dir := tree(t, "m/b.yaml", "m/a.yml", "m/c.json", "m/README.md", "m/x.yaml.bak", "m/sub/d.yaml", "m/sub/deep/e.yaml", "m/.hidden/f.yaml", "other/g.yaml")
	for _, c := range []struct {
		name, dir        string
		include, exclude []string
		want             []string
	}{
		{"all", "m", nil, nil, []string{".hidden/f.yaml", "a.yml", "b.yaml", "c.json", "sub/d.yaml", "sub/deep/e.yaml"}},
		{"with a slash", "m/", nil, nil, []string{".hidden/f.yaml", "a.yml", "b.yaml", "c.json", "sub/d.yaml", "sub/deep/e.yaml"}},
		{"with a dot", "./m/./sub", nil, nil, []string{"d.yaml", "deep/e.yaml"}},
		{"one star stays in its folder", "m", []string{"*.yaml"}, nil, []string{"b.yaml"}},
		{"two stars cross folders", "m", []string{"**/*.yaml"}, nil, []string{".hidden/f.yaml", "b.yaml", "sub/d.yaml", "sub/deep/e.yaml"}},
		{"alternatives", "m", []string{"{a,c}.*"}, nil, []string{"a.yml", "c.json"}},
		{"two globs", "m", []string{"a.yml", "sub/*"}, nil, []string{"a.yml", "sub/d.yaml"}},
		{"but those", "m", nil, []string{"sub/**", ".*/**"}, []string{"a.yml", "b.yaml", "c.json"}},
		{"exclude wins", "m", []string{"sub/**"}, []string{"**/e.yaml"}, []string{"sub/d.yaml"}},
		{"the folder of the definition", ".", []string{"other/*"}, nil, []string{"other/g.yaml"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := (&source.Fetcher{Dir: dir}).ReadFolder(c.dir, source.Pick{Include: c.include, Exclude: c.exclude})
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(paths(got), c.want) {
				t.Errorf("got %q, want %q", paths(got), c.want)
			}
		})
	}
}

// The digest of a folder is what sha256sum's listing of it has.
func TestFolderDigestIsThatOfItsListing(t *testing.T) {
	t.Parallel()
	fetcher := source.Fetcher{Dir: tree(t, "m/b.yaml", "m/a/c.yaml")}
	got, err := fetcher.ReadFolder("m", source.Pick{})
	if err != nil {
		t.Fatal(err)
	}
	list := fmt.Sprintf("%x  a/c.yaml\n%x  b.yaml\n", sha256.Sum256([]byte("m/a/c.yaml")), sha256.Sum256([]byte("m/b.yaml")))
	if want := fmt.Sprintf("%x", sha256.Sum256([]byte(list))); got.SHA256 != want {
		t.Errorf("got %s, want %s", got.SHA256, want)
	}
}

func TestLinksInsideTheTreeAreRead(t *testing.T) {
	t.Parallel()
	dir := tree(t, "m/a.yaml", "shared/b.yaml", "README.md")
	link(t, "../shared/b.yaml", filepath.Join(dir, "m", "b.yaml"))
	link(t, "../README.md", filepath.Join(dir, "m", "README.md"))
	link(t, "nowhere", filepath.Join(dir, "m", "dangling"))
	link(t, "m", filepath.Join(dir, "linked"))
	fetcher := source.Fetcher{Dir: dir}
	for _, name := range []string{"m", "linked"} {
		got, err := fetcher.ReadFolder(name, source.Pick{})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(paths(got), []string{"a.yaml", "b.yaml"}) || string(got.Files[1].Data) != "shared/b.yaml" {
			t.Errorf("%s: %q", name, got.Files)
		}
	}
	if got, err := fetcher.ReadFile("m/b.yaml"); err != nil || string(got.Files[0].Data) != "shared/b.yaml" {
		t.Errorf("%v, %v", got, err)
	}
}

func TestFileRefuses(t *testing.T) {
	t.Parallel()
	dir := tree(t, "d/a.yaml")
	link(t, "/etc/hostname", filepath.Join(dir, "x"))
	for name, want := range map[string]string{
		"d":          "d is a folder, want a file",
		"e":          "e does not exist",
		"d/a.yaml/b": "d/a.yaml/b does not exist",
		"x":          "x is a link that leads out of the definition's folder",
	} {
		if _, err := (&source.Fetcher{Dir: dir}).ReadFile(name); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
