package source_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"krtpkg.dev/krtpkg/pkg/source"
)

// item is an entry of an archive that a test makes: a file with its name as content, unless it
// says else.
type item struct {
	name string
	kind byte // of tar; a file when 0
	to   string
	data string
}

func (i item) content() string {
	if i.kind == 0 && i.data == "" {
		return i.name
	}
	return i.data
}

func items(names ...string) []item {
	var all []item
	for _, name := range names {
		all = append(all, item{name: name})
	}
	return all
}

func tarOf(t testing.TB, all ...item) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, i := range all {
		header := &tar.Header{Name: i.name, Typeflag: i.kind, Linkname: i.to, Mode: 0o644, Size: int64(len(i.content()))}
		if i.kind == 0 {
			header.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, i.content()); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipOf(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zstdOf(t testing.TB, data []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(data, nil)
}

func zipOf(t testing.TB, all ...item) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, i := range all {
		header := &zip.FileHeader{Name: i.name, Method: zip.Deflate}
		data := i.content()
		switch i.kind {
		case tar.TypeSymlink:
			header.SetMode(fs.ModeSymlink | 0o777)
			data = i.to
		case tar.TypeFifo:
			header.SetMode(fs.ModeNamedPipe | 0o644)
		}
		file, err := w.CreateHeader(header)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(file, data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// archived makes a fetcher of the folder that holds the archive as a file named a.
func archived(t testing.TB, data []byte) *source.Fetcher {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	return &source.Fetcher{Dir: dir}
}

func contents(tree *source.Tree) map[string]string {
	all := map[string]string{}
	for _, f := range tree.Files {
		all[f.Path] = string(f.Data)
	}
	return all
}

func TestArchivesOfEachKind(t *testing.T) {
	t.Parallel()
	all := append(items("./top/z.yaml", "top/deploy/b.yml", "top/deploy/a.json", "top/README.md", "top/deploy/sub/c.yaml", "other/d.yaml"),
		item{name: "top/link.yaml", kind: tar.TypeSymlink, to: "../other/d.yaml"},
		item{name: "top/outside", kind: tar.TypeSymlink, to: "../../outside"})
	plain := tarOf(t, append([]item{{name: "top/", kind: tar.TypeDir}, {name: "./", kind: tar.TypeDir}, {name: "top", kind: tar.TypeDir}}, all...)...)
	for name, data := range map[string][]byte{
		"tar": plain, "tar.gz": gzipOf(t, plain), "tar.zst": zstdOf(t, plain), "zip": zipOf(t, all...),
	} {
		for _, c := range []struct {
			pick source.Pick
			want []string
		}{
			{source.Pick{}, []string{"other/d.yaml", "top/deploy/a.json", "top/deploy/b.yml", "top/deploy/sub/c.yaml", "top/link.yaml", "top/z.yaml"}},
			{source.Pick{Root: "top"}, []string{"deploy/a.json", "deploy/b.yml", "deploy/sub/c.yaml", "link.yaml", "z.yaml"}},
			{source.Pick{Root: "./top/deploy/"}, []string{"a.json", "b.yml", "sub/c.yaml"}},
			{source.Pick{Root: "top", Include: []string{"*.yaml"}, Exclude: []string{"link*"}}, []string{"z.yaml"}},
			{source.Pick{Root: "top", All: true, Exclude: []string{"deploy/**", "outside"}}, []string{"README.md", "link.yaml", "z.yaml"}},
		} {
			got, err := archived(t, data).FetchArchive(t.Context(), "a", sum(string(data)), c.pick)
			if err != nil {
				t.Errorf("%s %v: %v", name, c.pick, err)
				continue
			}
			if !slices.Equal(paths(got), c.want) || got.SHA256 != sum(string(data)) {
				t.Errorf("%s %v: got %q, %s", name, c.pick, paths(got), got.SHA256)
			}
			if link, ok := contents(got)["link.yaml"]; ok && link != "other/d.yaml" {
				t.Errorf("%s: the link is %q", name, link)
			}
		}
	}
}

func TestLinksInArchives(t *testing.T) {
	t.Parallel()
	data := tarOf(t,
		item{name: "d/first.yaml", kind: tar.TypeSymlink, to: "late"},
		item{name: "d/chain.yaml", kind: tar.TypeSymlink, to: "./../d/first.yaml"},
		item{name: "d/late", data: "late: true"},
		item{name: "d/hard.yaml", kind: tar.TypeLink, to: "d/late"},
		item{name: "current", kind: tar.TypeSymlink, to: "versions/v1"},
		item{name: "versions/v1/x", data: "x: 1"},
		item{name: "d/over.yaml", kind: tar.TypeSymlink, to: "../current/x"},
		item{name: "d/back.yaml", kind: tar.TypeSymlink, to: "../current/../v1/x"},
		item{name: "d/broken.txt", kind: tar.TypeSymlink, to: "nowhere"})
	got, err := archived(t, data).FetchArchive(t.Context(), "a", "", source.Pick{Root: "d"})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"first.yaml": "late: true", "chain.yaml": "late: true", "hard.yaml": "late: true", "over.yaml": "x: 1", "back.yaml": "x: 1"}
	if fmt.Sprint(contents(got)) != fmt.Sprint(want) {
		t.Errorf("got %v", contents(got))
	}
	// The root may be behind a link; one to a folder that is picked is an error.
	if got, err := archived(t, data).FetchArchive(t.Context(), "a", "", source.Pick{Root: "current", All: true}); err != nil || contents(got)["x"] != "x: 1" {
		t.Errorf("got %v, %v", got, err)
	}
	_, err = archived(t, data).FetchArchive(t.Context(), "a", "", source.Pick{})
	if err == nil || err.Error() != "archive a: current is a link to a folder: add that folder as a separate source, or exclude the link" {
		t.Errorf("got %v", err)
	}
	for _, pick := range []source.Pick{{Exclude: []string{"current"}}, {Include: []string{"d/*.yaml"}}, {Include: []string{"versions/v1/x", "*/*.yaml"}, Exclude: []string{"current/**"}}} {
		if got, err := archived(t, data).FetchArchive(t.Context(), "a", "", pick); err != nil || len(got.Files) != 5 {
			t.Errorf("%v: got %v, %v", pick, got, err)
		}
	}
}

func TestArchiveOverTheNetwork(t *testing.T) {
	t.Parallel()
	data := string(gzipOf(t, tarOf(t, item{name: "x.yaml"})))
	broken := io.MultiReader(strings.NewReader(data[:20]), failing{io.ErrUnexpectedEOF})
	server := &responses{answers: []any{broken, data, "tampered", "tampered"}}
	fetcher := source.Fetcher{Client: &http.Client{Transport: server}, Cache: t.TempDir()}
	for range 2 { // the second time from the cache
		got, err := fetcher.FetchArchive(t.Context(), "https://up.example/a.tgz", sum(data), source.Pick{})
		if err != nil || got.SHA256 != sum(data) || server.asked != 2 {
			t.Errorf("got %v, %v, asked %d times", got, err, server.asked)
		}
	}
	// What there is now is not in the cache.
	if got, err := fetcher.FetchDigest(t.Context(), "https://up.example/a.tgz"); err != nil || got != sum("tampered") {
		t.Errorf("got %s, %v", got, err)
	}
	fetcher.Cache = ""
	_, err := fetcher.FetchArchive(t.Context(), "https://user:secret@up.example/a.tgz", sum(data), source.Pick{})
	var wrong *source.DigestError
	if !errors.As(err, &wrong) || *wrong != (source.DigestError{Source: "https://up.example/a.tgz", Got: sum("tampered"), Want: sum(data)}) {
		t.Errorf("got %v", err)
	}
}

func TestArchiveLocations(t *testing.T) {
	t.Parallel()
	dir := tree(t, "a", "m/x.yaml")
	link(t, "/etc/hostname", filepath.Join(dir, "out"))
	fetcher := source.Fetcher{Dir: dir, Client: &http.Client{Transport: &responses{answers: []any{404}}}}
	for location, want := range map[string]string{
		"m":                            "m is not a regular file",
		"out":                          "out is a link that leads out of the definition's folder",
		"../a":                         "../a is a link that leads out of the definition's folder",
		"none":                         "none does not exist",
		"http://up.example/a":          "fetch http://up.example/a: only https is allowed",
		"file://" + dir + "/a":         "fetch file://" + dir + "/a: only https is allowed",
		"https://token@up.example/a":   "fetch https://up.example/a: HTTP status 404 Not Found",
		"https://u:secret@up.exampl%e": `fetch https://up.exampl%e: parse "https://up.exampl%e": invalid URL escape "%e"`,
	} {
		if _, err := fetcher.FetchArchive(t.Context(), location, "", source.Pick{}); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", location, err, want)
		}
	}
	// Neither is the token in what the network says.
	fetcher.Client.Transport = &responses{answers: []any{errors.New("no route")}}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := fetcher.FetchArchive(ctx, "https://token:x@up.example/a", "", source.Pick{}); err == nil || strings.Contains(err.Error(), "token") {
		t.Errorf("got %v", err)
	}
}

func TestUnpackingEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := archived(t, tarOf(t, item{name: "x.yaml"})).FetchArchive(ctx, "a", "", source.Pick{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
