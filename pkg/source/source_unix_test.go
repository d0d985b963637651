//go:build unix

package source_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"krtpkg.dev/krtpkg/pkg/source"
)

func TestLocalSourcesRefuse(t *testing.T) {
	t.Parallel()
	outside := tree(t, "secret.yaml", "folder/a.yaml")
	for _, c := range []struct {
		name    string
		prepare func(t *testing.T, dir string)
		exclude []string
		want    string
	}{
		{"file link out of the tree", func(t *testing.T, dir string) {
			link(t, filepath.Join(outside, "secret.yaml"), filepath.Join(dir, "m", "x.yaml"))
		}, nil, "m/x.yaml is a link that leads out of the definition's folder"},
		{"relative link out of the tree", func(t *testing.T, dir string) {
			link(t, "../../"+filepath.Base(outside)+"/secret.yaml", filepath.Join(dir, "m", "x.yaml"))
		}, nil, "m/x.yaml is a link that leads out of the definition's folder"},
		{"folder link out of the tree", func(t *testing.T, dir string) {
			link(t, filepath.Join(outside, "folder"), filepath.Join(dir, "m", "more"))
		}, nil, "m/more is a link that leads out of the definition's folder"},
		{"folder link inside the tree", func(t *testing.T, dir string) { link(t, "../n", filepath.Join(dir, "m", "more")) },
			nil, "m/more is a link to a folder: add that folder as a separate source, or exclude the link"},
		{"folder link that is excluded", func(t *testing.T, dir string) { link(t, "../n", filepath.Join(dir, "m", "more")) },
			[]string{"more"}, ""},
		{"folder link whose content is excluded", func(t *testing.T, dir string) { link(t, "../n", filepath.Join(dir, "m", "more")) },
			[]string{"more/**"}, ""},
		{"link that leads nowhere", func(t *testing.T, dir string) { link(t, "nowhere", filepath.Join(dir, "m", "x.yaml")) },
			nil, "m/x.yaml does not exist"},
		{"link to itself", func(t *testing.T, dir string) { link(t, "x.yaml", filepath.Join(dir, "m", "x.yaml")) },
			nil, "m/x.yaml: too many levels of symbolic links"},
		{"pipe", func(t *testing.T, dir string) {
			if err := syscall.Mkfifo(filepath.Join(dir, "m", "x.yaml"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, nil, "m/x.yaml is not a regular file"},
		{"folder with a file's name", func(t *testing.T, dir string) {
			if err := os.Mkdir(filepath.Join(dir, "m", "x.yaml"), 0o755); err != nil {
				t.Fatal(err)
			}
		}, nil, ""},
		{"file that is too long", func(t *testing.T, dir string) {
			if err := errors.Join(os.WriteFile(filepath.Join(dir, "m", "x.yaml"), nil, 0o644), os.Truncate(filepath.Join(dir, "m", "x.yaml"), 64<<20+1)); err != nil {
				t.Fatal(err)
			}
		}, nil, "m/x.yaml: 67108865 bytes are over the limit of 67108864"},
		{"line break in a name", func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, "m", "x\n.yaml"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}, nil, `folder m: "x\n.yaml" is picked, but its name is not printable`},
		{"bad glob", func(*testing.T, string) {}, []string{"[a"}, `folder m: invalid glob "[a"`},
		{"nothing left", func(*testing.T, string) {}, []string{"**"}, "folder m: no YAML or JSON file is included"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := tree(t, "m/a.yaml", "n/b.yaml")
			c.prepare(t, dir)
			got, err := (&source.Fetcher{Dir: dir}).ReadFolder("m", source.Pick{Include: nil, Exclude: c.exclude})
			switch {
			case c.want == "" && (err != nil || !slices.Equal(paths(got), []string{"a.yaml"})):
				t.Errorf("got %v, %v", got, err)
			case c.want != "" && (err == nil || err.Error() != c.want):
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}
