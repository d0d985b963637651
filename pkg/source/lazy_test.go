package source_test

import (
	"archive/tar"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/pkg/source"
)

// A lazy pick has what can be had, and says of the rest why it is not there.
func TestLazyPickLeavesOutWhatCantBeHad(t *testing.T) {
	t.Parallel()
	r := newRepository(t)
	r.write("base/a file.yaml", "a: 1")
	r.write("lfs.yaml", "version https://git-lfs.github.com/spec/v1\noid sha256:"+sum("")+"\nsize 1\n")
	r.write("gone/x.txt", "is lost")
	link(t, "nowhere", filepath.Join(r.dir, "dead.yaml"))
	link(t, "/etc/passwd", filepath.Join(r.dir, "out"))
	link(t, ".", filepath.Join(r.dir, "circle"))
	r.git("add", "-A")
	r.git("update-index", "--add", "--cacheinfo", "160000,"+strings.Repeat("1", 40)+",module")
	r.git("commit", "-q", "-m", "m")
	commit := r.git("rev-parse", "HEAD")
	lost := r.git("rev-parse", "HEAD:gone/x.txt")
	if err := os.Remove(filepath.Join(r.dir, ".git", "objects", lost[:2], lost[2:])); err != nil {
		t.Fatal(err)
	}
	fetcher := &source.Fetcher{Mirrors: []source.Mirror{{Prefix: gitURL, Replacement: r.dir}}}
	got, err := fetcher.FetchCommit(t.Context(), gitURL, commit, source.Pick{All: true, Lazy: true})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(paths(got), []string{"base/a file.yaml"}) {
		t.Errorf("got %q", paths(got))
	}
	for name, why := range map[string]string{
		"lfs.yaml": "is stored in Git LFS", "gone/x.txt": "gone/x.txt: object " + lost + ": object not found", "dead.yaml": "leads to a missing file",
		"out": "leads out of the tree", "circle": "is a link to a folder that contains it", "module": "is a submodule",
	} {
		if !strings.Contains(got.Absent[name], why) {
			t.Errorf("%s: got %q, want %q", name, got.Absent[name], why)
		}
	}
	if len(got.Absent) != 6 {
		t.Errorf("left out are %v", slices.Sorted(maps.Keys(got.Absent)))
	}
	// Any other pick ends, and names the file of an object that is missing.
	_, err = fetcher.FetchCommit(t.Context(), gitURL, commit, source.Pick{All: true, Root: "gone"})
	if err == nil || !strings.Contains(err.Error(), "gone/x.txt: object "+lost) {
		t.Errorf("got %v", err)
	}
}

// Files that are not used count against no limit of a lazy pick, and are not read.
func TestLazyPickOfLargeTrees(t *testing.T) {
	t.Parallel()
	r := newRepository(t)
	r.write("base/a.yaml", "b.yaml")
	r.write("base/b.yaml", "c.yaml")
	r.write("base/c.yaml", "")
	link(t, "nowhere", filepath.Join(r.dir, "base", "dead.yaml"))
	link(t, "nowhere", filepath.Join(r.dir, "dead.yaml"))
	var packed []item
	for i := range 20_000 {
		name := fmt.Sprintf("many/%d/%d", i/1000, i)
		packed = append(packed, item{name: name})
		r.write(name, "")
	}
	packed = append(packed, item{name: "base/a.yaml", data: "b.yaml"}, item{name: "base/b.yaml", data: "c.yaml"}, item{name: "base/c.yaml"},
		item{name: "base/dead.yaml", kind: tar.TypeSymlink, to: "nowhere"}, item{name: "dead.yaml", kind: tar.TypeSymlink, to: "nowhere"})
	commit := r.commit()
	git := &source.Fetcher{Mirrors: []source.Mirror{{Prefix: gitURL, Replacement: r.dir}}}
	var calls int
	pick := source.Pick{All: true, Lazy: true, FindUsed: func(names []string, read map[string][]byte) ([]string, error) {
		calls++
		if len(names) != 20_005 || !slices.IsSorted(names) {
			t.Errorf("%d names", len(names))
		}
		used := []string{"base/a.yaml", "base/dead.yaml"}
		for _, data := range read {
			used = append(used, "base/"+string(data))
		}
		return used, nil
	}}
	for from, fetch := range map[string]func(source.Pick) (*source.Tree, error){
		"git": func(pick source.Pick) (*source.Tree, error) {
			return git.FetchCommit(t.Context(), gitURL, commit, pick)
		},
		"archive": func(pick source.Pick) (*source.Tree, error) {
			return archived(t, tarOf(t, packed...)).FetchArchive(t.Context(), "a", "", pick)
		},
	} {
		calls = 0
		tree, err := fetch(pick)
		if err != nil {
			t.Errorf("%s: %v", from, err)
			continue
		}
		if got := paths(tree); !slices.Equal(got, []string{"base/a.yaml", "base/b.yaml", "base/c.yaml"}) || calls != 4 {
			t.Errorf("%s: got %q in %d calls", from, got, calls)
		}
		if len(tree.Absent) != 1 || !strings.Contains(tree.Absent["base/dead.yaml"], "leads to a missing file") {
			t.Errorf("%s: left out are %v", from, tree.Absent)
		}
		for want, pick := range map[string]source.Pick{
			"more than 20000 files are picked": {All: true, Lazy: true},
			"more than 20000 files are used": {All: true, Lazy: true, FindUsed: func(names []string, _ map[string][]byte) ([]string, error) {
				return names, nil
			}},
			"used files name others over 50 steps": {All: true, Lazy: true, FindUsed: func(names []string, read map[string][]byte) ([]string, error) {
				return names[:len(read)+10], nil
			}},
			"what goes wrong": {All: true, Lazy: true, FindUsed: func([]string, map[string][]byte) ([]string, error) {
				return nil, errors.New("what goes wrong")
			}},
		} {
			if _, err := fetch(pick); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want %s", from, err, want)
			}
		}
	}
}

// A link to a folder is that folder for templates: charts share others by links.
func TestLinkedFoldersOfTemplates(t *testing.T) {
	t.Parallel()
	want := []string{"Chart.yaml", "charts/common/Chart.yaml", "charts/common/templates/_lib.tpl"}
	items := map[string]string{"app/Chart.yaml": "app", "common/Chart.yaml": "common", "shared/_lib.tpl": "lib"}
	links := map[string]string{"app/charts/common": "../../common", "common/templates": "../shared"}

	r, dir := newRepository(t), t.TempDir()
	var packed []item
	for _, name := range slices.Sorted(maps.Keys(items)) {
		r.write(name, items[name])
		write(t, filepath.Join(dir, name), items[name])
		packed = append(packed, item{name: name, data: items[name]})
	}
	for _, name := range slices.Sorted(maps.Keys(links)) {
		for _, top := range []string{r.dir, dir} {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(top, name)), 0o755); err != nil {
				t.Fatal(err)
			}
			link(t, links[name], filepath.Join(top, name))
		}
		packed = append(packed, item{name: name, kind: tar.TypeSymlink, to: links[name]})
	}
	pick := source.Pick{Root: "app", All: true}
	git := &source.Fetcher{Mirrors: []source.Mirror{{Prefix: gitURL, Replacement: r.dir}}}
	trees := map[string]*source.Tree{}
	var err error
	if trees["git"], err = git.FetchCommit(t.Context(), gitURL, r.commit(), pick); err != nil {
		t.Error(err)
	}
	if trees["archive"], err = archived(t, tarOf(t, packed...)).FetchArchive(t.Context(), "a", "", pick); err != nil {
		t.Error(err)
	}
	if trees["folder"], err = (&source.Fetcher{Dir: dir}).ReadFolder("app", source.Pick{All: true}); err != nil {
		t.Error(err)
	}
	for from, tree := range trees {
		if tree != nil && (!slices.Equal(paths(tree), want) || string(tree.Files[2].Data) != "lib") {
			t.Errorf("%s: got %q", from, paths(tree))
		}
	}
	for name, to := range map[string]string{"circle": "..", "self": "."} {
		packed = append(packed, item{name: "app/" + name, kind: tar.TypeSymlink, to: to})
		_, err := archived(t, tarOf(t, packed...)).FetchArchive(t.Context(), "a", "", pick)
		if err == nil || !strings.Contains(err.Error(), "is a link to a folder that contains it") {
			t.Errorf("%s: got %v", name, err)
		}
		packed = packed[:len(packed)-1]
		at := filepath.Join(dir, "app", name)
		link(t, to, at)
		_, err = (&source.Fetcher{Dir: dir}).ReadFolder("app", source.Pick{All: true})
		if err == nil || !strings.Contains(err.Error(), "is a link to a folder that contains it") {
			t.Errorf("%s: got %v", name, err)
		}
		if err := os.Remove(at); err != nil {
			t.Fatal(err)
		}
	}
}

func write(t *testing.T, name, data string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
}
