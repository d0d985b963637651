package source_test

import (
	"archive/tar"
	"bytes"
	"compress/zlib"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"krtpkg.dev/krtpkg/pkg/source"
)

// Archives of the real git begin with a global header, those of GitHub are made so.
func TestArchivesThatGitMakes(t *testing.T) {
	t.Parallel()
	r := newRepository(t)
	r.write("deploy/a.yaml", "a: 1")
	r.write("deploy/"+strings.Repeat("long/", 60)+"b.yaml", "b: 1")
	link(t, "a.yaml", filepath.Join(r.dir, "deploy", "link.yaml"))
	commit := r.commit()
	for _, format := range []string{"tar", "tar.gz", "zip"} {
		cmd := exec.CommandContext(t.Context(), "git", "archive", "--format="+format, "--prefix=app-1.0/", commit)
		cmd.Dir, cmd.Env = r.dir, gitEnv()
		data, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		got, err := archived(t, data).FetchArchive(t.Context(), "a", "", source.Pick{Root: "app-1.0/deploy"})
		if err != nil {
			t.Errorf("%s: %v", format, err)
			continue
		}
		// The same as the commit itself gives, digest of the listing aside.
		want, err := local(r.dir).FetchCommit(t.Context(), gitURL, commit, source.Pick{Root: "deploy"})
		if err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(got.Files) != fmt.Sprint(want.Files) {
			t.Errorf("%s: got %v, want %v", format, paths(got), paths(want))
		}
	}
}

// What is cut off is an error, or all is there: the end of a compressed archive holds no file. A
// plain tar alone may end after any entry, as tar itself takes it.
func TestArchivesThatAreCutOff(t *testing.T) {
	t.Parallel()
	all := items("a.yaml", "d/b.yaml", "c.yaml")
	plain := tarOf(t, all...)
	for name, data := range map[string][]byte{"tar": plain, "tar.gz": gzipOf(t, plain), "tar.zst": zstdOf(t, plain), "zip": zipOf(t, all...)} {
		fetcher := archived(t, data)
		for n := len(data) - 1; n >= 0; n-- {
			if err := os.Truncate(filepath.Join(fetcher.Dir, "a"), int64(n)); err != nil {
				t.Fatal(err)
			}
			got, err := fetcher.FetchArchive(t.Context(), "a", "", source.Pick{})
			switch {
			case err != nil && !strings.HasPrefix(err.Error(), "archive a: "):
				t.Errorf("%s, %d bytes: %v", name, n, err)
			case err == nil && len(got.Files) != 3 && name != "tar":
				t.Errorf("%s, %d bytes: got %v", name, n, paths(got))
			}
		}
	}
}

// What follows the end is not looked at: the digest is of all bytes.
func TestArchivesWithMoreAtTheirEnd(t *testing.T) {
	t.Parallel()
	all := items("a.yaml")
	plain := tarOf(t, all...)
	hidden := tarOf(t, item{name: "hidden.yaml"})
	for name, data := range map[string][]byte{
		"tar": slices.Concat(plain, hidden), "tar.gz": append(gzipOf(t, plain), "garbage"...), "two tar.gz": append(gzipOf(t, plain), gzipOf(t, hidden)...),
		"tar.zst": append(zstdOf(t, plain), zstdOf(t, hidden)...), "zip": append(zipOf(t, all...), "garbage"...),
	} {
		got, err := archived(t, data).FetchArchive(t.Context(), "a", sum(string(data)), source.Pick{})
		if err != nil || !slices.Equal(paths(got), []string{"a.yaml"}) || got.SHA256 != sum(string(data)) {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
}

func TestZipsThatAreDamaged(t *testing.T) {
	t.Parallel()
	data := zipOf(t, item{name: "a.yaml", data: strings.Repeat("a", 100)}, item{name: "l.yaml", kind: tar.TypeSymlink, to: "a.yaml"})
	directory := bytes.Index(data, []byte("PK\x01\x02"))
	link := directory + 1 + bytes.Index(data[directory+1:], []byte("PK\x01\x02"))
	for _, c := range []struct {
		name string
		at   int
		to   byte
		want string
	}{
		{"checksum", directory + 16, data[directory+16] ^ 1, `entry "a.yaml": zip: checksum error`},
		{"a link's checksum", link + 16, data[link+16] ^ 1, `entry "l.yaml": zip: checksum error`},
		{"shorter than it says", directory + 24, 101, `entry "a.yaml": unexpected EOF`},
		{"a link shorter than it says", link + 24, 99, `entry "l.yaml": unexpected EOF`},
		{"a link longer than it says", link + 24, 2, `entry "l.yaml": zip: not a valid zip file`},
		{"method", directory + 10, 99, `entry "a.yaml": zip: unsupported compression algorithm`},
		{"offset", directory + 44, 0x7f, `entry "a.yaml": EOF`},
		{"size over the limit", directory + 27, 0x7f, "a.yaml: 2130706532 bytes are over the limit of 67108864"},
	} {
		damaged := bytes.Clone(data)
		damaged[c.at] = c.to
		if _, err := archived(t, damaged).FetchArchive(t.Context(), "a", "", source.Pick{}); err == nil || err.Error() != "archive a: "+c.want {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
		}
	}
}

// Names are bytes: what looks the same is not, and what is not text is not picked.
func TestNamesThatLookAlike(t *testing.T) {
	t.Parallel()
	names := []string{"A.yaml", "a.yaml", "e\u0301.yaml", "\u00e9.yaml", "\uff0e\uff0e/a.yaml", "\u2215etc\u2215x.yaml", "...", " .yaml", "con.yaml"}
	got, err := archived(t, tarOf(t, items(names...)...)).FetchArchive(t.Context(), "a", "", source.Pick{})
	if err != nil || len(got.Files) != len(names)-1 {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{"\xff.yaml", "\u202ea.yaml", "a\u2028.yaml", "a\u0085.yaml", "\x1b[2J.yaml", "a\rb.yaml", "d\t/a.yaml"} {
		_, err := archived(t, tarOf(t, item{name: bad}, item{name: "x.json"})).FetchArchive(t.Context(), "a", "", source.Pick{})
		if want := fmt.Sprintf("archive a: %q is picked, but its name is not printable", bad); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
		got, err := archived(t, tarOf(t, item{name: bad}, item{name: "x.json"})).FetchArchive(t.Context(), "a", "", source.Pick{Include: []string{"x.json"}})
		if err != nil || len(got.Files) != 1 {
			t.Errorf("%q: got %v, %v", bad, got, err)
		}
	}
}

// Now tries again as every download does.
func TestNowIsTriedAgain(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		answers []any
		asked   int
		want    string
	}{
		{[]any{503, 503, "content"}, 3, ""},
		{[]any{404, "content"}, 1, "fetch https://up.example/x: HTTP status 404 Not Found"},
		{[]any{301, "content"}, 1, "fetch https://up.example/x: HTTP status 301 Moved Permanently"},
	} {
		synctest.Test(t, func(t *testing.T) {
			server := &responses{answers: c.answers}
			got, err := (&source.Fetcher{Client: &http.Client{Transport: server}}).FetchDigest(t.Context(), "https://up.example/x")
			if c.want == "" && (err != nil || got != sum("content")) || c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want[:30])) || server.asked != c.asked {
				t.Errorf("%v: got %s, %v, asked %d times", c.answers, got, err, server.asked)
			}
		})
	}
}

// A connection that is cut in the middle: nothing of the first answer is in the second.
func TestDownloadThatIsCut(t *testing.T) {
	t.Parallel()
	data := string(gzipOf(t, tarOf(t, item{name: "x.yaml"})))
	for _, length := range []bool{true, false} {
		asked := 0
		server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if asked++; asked > 1 {
				fmt.Fprint(w, data)
				return
			}
			if length {
				w.Header().Set("Content-Length", fmt.Sprint(len(data)))
			}
			fmt.Fprint(w, "something else, of this", data[:len(data)/2])
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Error(err)
			}
			panic(http.ErrAbortHandler)
		}))
		defer server.Close()
		fetcher := source.Fetcher{Client: server.Client(), Cache: t.TempDir()}
		got, err := fetcher.FetchArchive(t.Context(), server.URL+"/a.tgz", sum(data), source.Pick{})
		if err != nil || contents(got)["x.yaml"] != "x.yaml" || asked != 2 {
			t.Errorf("got %v, %v, asked %d times", got, err, asked)
		}
	}
}

// object writes one that git would not make.
func (r *repository) object(kind, data string) string {
	r.t.Helper()
	raw := fmt.Sprintf("%s %d\x00%s", kind, len(data), data)
	id := fmt.Sprintf("%x", sha1.Sum([]byte(raw)))
	var packed bytes.Buffer
	w := zlib.NewWriter(&packed)
	_, err := w.Write([]byte(raw))
	file := filepath.Join(r.dir, ".git", "objects", id[:2], id[2:])
	if err = errors.Join(err, w.Close(), os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, packed.Bytes(), 0o644)); err != nil {
		r.t.Fatal(err)
	}
	return id
}

func treeEntry(mode, name, id string) string {
	raw, err := hex.DecodeString(id)
	if err != nil {
		panic(err)
	}
	return mode + " " + name + "\x00" + string(raw)
}

func (r *repository) commitOf(tree string) string {
	return r.object("commit", "tree "+tree+"\nauthor a <a@example.com> 1700000000 +0000\ncommitter a <a@example.com> 1700000000 +0000\n\nm\n")
}

func TestHostileGitTrees(t *testing.T) {
	t.Parallel()
	r := newRepository(t)
	blob := r.object("blob", "a: 1")
	file := func(name string) string { return treeEntry("100644", name, blob) }
	wide := r.object("tree", file("a.yaml"))
	for range 8 { // ten of ten of ten …
		var entries string
		for i := range 10 {
			entries += treeEntry("40000", fmt.Sprint(i), wide)
		}
		wide = r.object("tree", entries)
	}
	deep := r.object("tree", file("a.yaml"))
	for range 101 {
		deep = r.object("tree", treeEntry("40000", "d", deep))
	}
	long := r.object("blob", strings.Repeat("t/", 2049))
	absent := strings.Repeat("2", 40)
	for _, c := range []struct {
		name, tree string
		pick       source.Pick
		want       string
	}{
		{"dots", file(".."), source.Pick{}, `entry ".." leaves the tree`},
		{"dot", file("."), source.Pick{}, `entry "." leaves the tree`},
		{"slash", file("a/b.yaml"), source.Pick{}, `entry "a/b.yaml" leaves the tree`},
		{"path out", file("../b.yaml"), source.Pick{}, `entry "../b.yaml" leaves the tree`},
		{"no name", file(""), source.Pick{}, ``},
		{"backslash", file(`..\a.yaml`), source.Pick{}, `entry "..\\a.yaml" leaves the tree`},
		{"twice", file("a.yaml") + file("a.yaml"), source.Pick{}, `duplicate entry`},
		{"file and folder", file("a") + treeEntry("40000", "a", r.object("tree", file("a.yaml"))), source.Pick{}, `duplicate entry`},
		{"line break", file("a\n.yaml"), source.Pick{}, `"a\n.yaml" is picked, but its name is not printable`},
		{"cut off", file("a.yaml")[:20], source.Pick{}, ``},
		{"nonsense", "nonsense", source.Pick{}, ``},
		{"mode", treeEntry("777777777777", "a.yaml", blob), source.Pick{}, ``},
		{"bomb", treeEntry("40000", "d", wide), source.Pick{}, "more than 1000000 entries or 268435456 bytes of names"},
		{"deep", treeEntry("40000", "d", deep), source.Pick{}, ": over 100 folders deep"},
		{"long link", treeEntry("120000", "l", long), source.Pick{}, "l is a link of 4098 bytes"},
		{"link that is not there", treeEntry("120000", "l", absent), source.Pick{}, "object not found"},
		{"file that is not there", file("a.yaml") + treeEntry("100644", "b.yaml", absent), source.Pick{}, "object " + absent + ": object not found"},
		{"file that is not there, nor picked", file("a.yaml") + treeEntry("100644", "b", absent), source.Pick{}, "-"},
		{"folder that is not there", file("a.yaml") + treeEntry("40000", "b", absent), source.Pick{}, "object " + absent + ": object not found"},
		{"file that is a folder", treeEntry("100644", "a.yaml", r.object("tree", "")), source.Pick{}, "object not found"},
		{"folder that is a file", treeEntry("40000", "a.yaml", blob), source.Pick{}, "object not found"},
		{"executable", treeEntry("100755", "a.yaml", blob), source.Pick{}, "-"},
		{"group may write", treeEntry("100664", "a.yaml", blob), source.Pick{}, "-"},
		{".git", treeEntry("40000", ".git", r.object("tree", file("a.yaml"))), source.Pick{}, "-"},
	} {
		t.Run(c.name, func(t *testing.T) {
			commit := r.commitOf(r.object("tree", c.tree))
			began := time.Now()
			got, err := local(r.dir).FetchCommit(t.Context(), gitURL, commit, c.pick)
			switch {
			case c.want == "-" && (err != nil || len(got.Files) != 1 || string(got.Files[0].Data) != "a: 1"):
				t.Errorf("got %v, %v", got, err)
			case c.want != "-" && (err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "git "+gitURL)):
				t.Errorf("got %v, %v, want %s", got, err, c.want)
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
	for _, odd := range []string{r.object("commit", ""), r.object("commit", "tree nonsense\n"), r.object("commit", "tree "+blob+"\n\nm"), r.commitOf(absent)} {
		if got, err := local(r.dir).FetchCommit(t.Context(), gitURL, odd, source.Pick{}); err == nil {
			t.Errorf("got %v", got)
		}
	}
}

// Repositories in folders come in each form that git has, and a damaged pack is found out.
func TestGitRepositoriesInFolders(t *testing.T) {
	t.Parallel()
	r := newRepository(t)
	r.write("a.yaml", strings.Repeat("a: 1\n", 100))
	r.commit()
	r.write("a.yaml", strings.Repeat("a: 1\n", 100)+"a: 2\n")
	commit := r.commit()
	dir := t.TempDir()
	for _, args := range [][]string{
		{"clone", "-q", "--bare", ".", dir + "/bare"}, {"worktree", "add", "-q", "--detach", dir + "/worktree"},
		{"clone", "-q", "--depth=1", "file://" + r.dir, dir + "/shallow"}, {"clone", "-q", "--mirror", ".", dir + "/mirror"}, {"clone", "-q", "--bare", "--no-hardlinks", ".", dir + "/damaged"},
	} {
		r.git(args...)
	}
	for _, name := range []string{"bare", "worktree", "shallow", "mirror"} {
		got, err := local(filepath.Join(dir, name)).FetchCommit(t.Context(), gitURL, commit, source.Pick{})
		if err != nil || !strings.HasSuffix(string(got.Files[0].Data), "a: 2\n") {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
		if refs, err := local(filepath.Join(dir, name)).ListRefs(t.Context(), gitURL); err != nil || refs["HEAD"] != commit {
			t.Errorf("%s: got %v, %v", name, refs, err)
		}
	}
	r.git("--git-dir", dir+"/damaged", "repack", "-q", "-a", "-d")
	packs, err := filepath.Glob(dir + "/damaged/objects/pack/*.pack")
	if err != nil || len(packs) != 1 {
		t.Fatalf("%v, %v", packs, err)
	}
	pack, err := os.ReadFile(packs[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(packs[0], 0o600); err != nil {
		t.Fatal(err)
	}
	want, err := local(r.dir).FetchCommit(t.Context(), gitURL, commit, source.Pick{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range pack {
		damaged := bytes.Clone(pack)
		damaged[i] ^= 0x10
		if err := os.WriteFile(packs[0], damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		// The old file's part, and what the trailer sums up, are not read.
		if got, err := local(dir+"/damaged").FetchCommit(t.Context(), gitURL, commit, source.Pick{}); err == nil && got.SHA256 != want.SHA256 {
			t.Errorf("byte %d: got %v", i, got)
		}
	}
	for _, none := range []string{dir, filepath.Join(dir, "none"), packs[0]} {
		if _, err := local(none).FetchCommit(t.Context(), gitURL, commit, source.Pick{}); err == nil || !strings.Contains(err.Error(), none) {
			t.Errorf("got %v", err)
		}
	}
}

// What the network says of a URL with a token leaves that out.
func TestGitKeepsTokensToItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		asked := 0
		client := &http.Client{Transport: trip(func(*http.Request) (*http.Response, error) {
			asked++
			return nil, errors.New("no route")
		})}
		fetcher := source.Fetcher{Client: client, Mirrors: []source.Mirror{{Prefix: gitURL, Replacement: "https://user:secret@mirror.example/x"}}}
		_, err := fetcher.FetchCommit(ctx, gitURL, strings.Repeat("1", 40), source.Pick{})
		_, failed := fetcher.ListRefs(ctx, "https://user:secret@git.example/y")
		for _, err := range []error{err, failed} {
			if err == nil || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "no route") {
				t.Errorf("got %v", err)
			}
		}
		if asked != 8 {
			t.Errorf("asked %d times", asked)
		}
	})
}
