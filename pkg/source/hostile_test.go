package source_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/pkg/source"
)

// rawTar makes an archive of headers alone, which may promise any size.
func rawTar(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, h := range headers {
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if err := tar.NewWriter(&b).WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func TestHostileArchives(t *testing.T) {
	t.Parallel()
	valid := tarOf(t, items("x.yaml", "d/y.yaml", "e/z.txt")...)
	encrypted := zipOf(t, item{name: "x.yaml"})
	for _, at := range []int{6, bytes.Index(encrypted, []byte("PK\x01\x02")) + 8} {
		encrypted[at] |= 1
	}
	lying := zipOf(t, item{name: "x.yaml", data: strings.Repeat("long", 1000)})
	binary.LittleEndian.PutUint32(lying[bytes.Index(lying, []byte("PK\x01\x02"))+24:], 5)
	many := make([]item, 20_001)
	links := make([]item, 20_002)
	links[0] = item{name: "a.yaml"}
	for i := range many {
		many[i] = item{name: fmt.Sprintf("%d.yaml", i), kind: tar.TypeReg}
		links[i+1] = item{name: fmt.Sprintf("%d.yaml", i), kind: tar.TypeSymlink, to: "a.yaml"}
	}
	zeros := make([]byte, 60<<20)
	large := bytes.Repeat(zstdOf(t, zeros), 10)
	var several, again []byte
	for i := range 9 {
		several = append(append(several, zstdOf(t, rawTar(t, tar.Header{Name: fmt.Sprint(i, ".yaml"), Size: 60 << 20}))...), zstdOf(t, zeros)...)
		again = append(again, rawTar(t, tar.Header{Name: fmt.Sprint(i, ".yaml"), Typeflag: tar.TypeSymlink, Linkname: "9"})...)
	}
	end := zstdOf(t, make([]byte, 1024))
	fileOf := func(name string) item { return item{name: name, kind: tar.TypeReg} }
	linkTo := func(name, to string) item { return item{name: name, kind: tar.TypeSymlink, to: to} }
	for _, c := range []struct {
		name string
		data []byte
		pick source.Pick
		want string
	}{
		{"absolute name", tarOf(t, fileOf("/etc/x.yaml")), source.Pick{}, `entry "/etc/x.yaml" leaves the tree`},
		{"dots", tarOf(t, fileOf("../x.yaml")), source.Pick{}, `entry "../x.yaml" leaves the tree`},
		{"dots inside", tarOf(t, fileOf("a/../x.yaml")), source.Pick{}, `entry "a/../x.yaml" leaves the tree`},
		{"dots in a zip", zipOf(t, fileOf("a/../../x.yaml")), source.Pick{}, `entry "a/../../x.yaml" leaves the tree`},
		{"backslash", tarOf(t, fileOf(`..\x.yaml`)), source.Pick{}, `entry "..\\x.yaml" leaves the tree`},
		{"backslash in a zip", zipOf(t, fileOf(`..\x.yaml`)), source.Pick{}, `entry "..\\x.yaml" leaves the tree`},
		{"NUL", zipOf(t, fileOf("x\x00.yaml")), source.Pick{}, `entry "x\x00.yaml" leaves the tree`},
		{"no name", zipOf(t, fileOf("")), source.Pick{}, `entry "" leaves the tree`},
		{"the top is a file", tarOf(t, fileOf(".")), source.Pick{All: true}, `entry "." has no name`},
		{"long name", tarOf(t, fileOf(strings.Repeat("n/", 3000)+"x.yaml")), source.Pick{}, `entry "n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/"… has a name of over 4096 bytes`},
		{"line break in a name", tarOf(t, fileOf("a\n.yaml")), source.Pick{}, `"a\n.yaml" is picked, but its name is not printable`},
		{"twice", tarOf(t, fileOf("x.yaml"), fileOf("./x.yaml")), source.Pick{}, `duplicate entry "./x.yaml"`},
		{"twice in a zip", zipOf(t, fileOf("x.yaml"), fileOf("x.yaml")), source.Pick{}, `duplicate entry "x.yaml"`},
		{"link and file", tarOf(t, linkTo("x.yaml", "y"), fileOf("x.yaml")), source.Pick{}, `duplicate entry "x.yaml"`},
		{"file and folder", tarOf(t, fileOf("x.yaml"), fileOf("x.yaml/y.yaml")), source.Pick{}, `entry "x.yaml/y.yaml" is below x.yaml, which is not a folder`},
		{"below a link", tarOf(t, linkTo("x", "/etc"), fileOf("x/y.yaml")), source.Pick{}, `entry "x/y.yaml" is below x, which is not a folder`},
		{"link out", tarOf(t, linkTo("x.yaml", "../y")), source.Pick{}, "x.yaml is a link that leads out of the tree"},
		{"absolute link", tarOf(t, linkTo("x.yaml", "/etc/passwd")), source.Pick{}, "x.yaml is a link that leads out of the tree"},
		{"absolute link in a zip", zipOf(t, linkTo("x.yaml", "/etc/passwd")), source.Pick{}, "x.yaml is a link that leads out of the tree"},
		{"out and back", tarOf(t, linkTo("d/x.yaml", "../../tree/y"), fileOf("y")), source.Pick{}, "d/x.yaml is a link that leads out of the tree"},
		{"link over a link that leads out", tarOf(t, linkTo("out", ".."), linkTo("x.yaml", "out/y")), source.Pick{}, "x.yaml is a link that leads out of the tree"},
		{"hard link out", tarOf(t, item{name: "x.yaml", kind: tar.TypeLink, to: "../y"}), source.Pick{}, "x.yaml is a link that leads out of the tree"},
		{"absolute hard link", tarOf(t, item{name: "x.yaml", kind: tar.TypeLink, to: "/etc/passwd"}), source.Pick{}, "x.yaml is a link that leads out of the tree"},
		{"link to itself", tarOf(t, linkTo("x.yaml", "x.yaml")), source.Pick{}, "x.yaml is a link that leads through more than 8 links"},
		{"link to nothing", tarOf(t, linkTo("x.yaml", "y")), source.Pick{}, "x.yaml is a link that leads to a missing file"},
		{"pipe", tarOf(t, item{name: "x.yaml", kind: tar.TypeFifo}), source.Pick{}, `entry "x.yaml" is not a regular file`},
		{"pipe in a zip", zipOf(t, item{name: "x.yaml", kind: tar.TypeFifo}), source.Pick{}, `entry "x.yaml" is not a regular file`},
		{"device", tarOf(t, item{name: "x.yaml", kind: tar.TypeChar}), source.Pick{}, `entry "x.yaml" is not a regular file`},
		{"link to a device", tarOf(t, item{name: "dev", kind: tar.TypeBlock}, linkTo("x.yaml", "dev")), source.Pick{}, `entry "x.yaml" is not a regular file`},
		{"device that is not picked", tarOf(t, item{name: "dev", kind: tar.TypeChar}, fileOf("x.yaml")), source.Pick{}, ""},
		{"link out that is not picked", tarOf(t, linkTo("x", "/"), fileOf("x.yaml")), source.Pick{}, ""},
		{"large file", slices.Concat(zstdOf(t, rawTar(t, tar.Header{Name: "x.yaml", Size: 600 << 20})), large, end), source.Pick{}, "x.yaml: 629145600 bytes are over the limit of 67108864"},
		{"large file that is not picked", slices.Concat(zstdOf(t, rawTar(t, tar.Header{Name: "x", Size: 600 << 20})), large, zstdOf(t, tarOf(t, fileOf("x.yaml")))), source.Pick{}, ""},
		{"large files", slices.Concat(several, end), source.Pick{}, "picked files are over the limit of 536870912 bytes"},
		{"large file over and over", slices.Concat(zstdOf(t, again), zstdOf(t, rawTar(t, tar.Header{Name: "9", Size: 60 << 20})), zstdOf(t, zeros), end), source.Pick{}, "picked files are over the limit of 536870912 bytes"},
		{"many files", gzipOf(t, tarOf(t, many...)), source.Pick{}, "more than 20000 files are picked"},
		{"many links", zstdOf(t, tarOf(t, links...)), source.Pick{Exclude: []string{"a.yaml"}}, "more than 20000 links are picked"},
		{"encrypted", encrypted, source.Pick{}, `entry "x.yaml": is encrypted, which is not supported`},
		{"longer than it says", lying, source.Pick{}, `entry "x.yaml": zip: not a valid zip file`},
		{"broken off", valid[:1100], source.Pick{}, "damaged archive: unexpected EOF"},
		{"broken gzip", gzipOf(t, valid)[:40], source.Pick{}, "damaged archive: unexpected EOF"},
		{"broken zip", zipOf(t, fileOf("x.yaml"))[:40], source.Pick{}, "damaged archive: zip: not a valid zip file"},
		{"empty file", nil, source.Pick{}, "not a tar or zip archive"},
		{"something else", []byte(strings.Repeat("apiVersion: v1\n", 100)), source.Pick{}, "not a tar or zip archive"},
		{"something else, packed", gzipOf(t, bytes.Repeat([]byte("apiVersion: v1\n"), 100)), source.Pick{}, "not a tar or zip archive"},
		{"bad glob", valid, source.Pick{Include: []string{"[a"}}, `invalid glob "[a"`},
		{"nothing that is included", valid, source.Pick{Root: "e"}, "no YAML or JSON file is included"},
		{"nothing at all", valid, source.Pick{All: true, Exclude: []string{"**"}}, "no file is included"},
		{"no such root", valid, source.Pick{Root: "deploy/x"}, "folder deploy/x not found: folders at the top are d, e"},
		{"no such root below", valid, source.Pick{Root: "d/x"}, "folder d/x not found: no folder in d"},
		{"root that is a file", valid, source.Pick{Root: "d/y.yaml"}, "d/y.yaml is not a folder"},
		{"root outside", valid, source.Pick{Root: "d/../../x"}, "d/../../x leads out of the tree"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := archived(t, c.data).FetchArchive(t.Context(), "a", "", c.pick)
			switch {
			case c.want == "" && (err != nil || len(got.Files) != 1):
				t.Errorf("got %v, %v", got, err)
			case c.want != "" && (err == nil || err.Error() != "archive a: "+c.want):
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

// A bomb ends where its limit is: neither the disk nor the memory sees what it holds.
func TestBombs(t *testing.T) {
	t.Parallel()
	zeros := make([]byte, 64<<20)
	head := rawTar(t, tar.Header{Name: "skipped", Size: 8 << 30})
	// Each name makes two thousand folders.
	deep := make([]item, 600)
	for i := range deep {
		deep[i] = item{name: fmt.Sprint(i, strings.Repeat("/d", 1999)), kind: tar.TypeReg}
	}
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"stream", append(zstdOf(t, head), bytes.Repeat(zstdOf(t, zeros), 70)...), "the archive unpacks to more than 4294967296 bytes"},
		{"entries", tarOf(t, deep...), "more than 1000000 entries or 268435456 bytes of names"},
		{"sparse", sparse(t), "x.yaml: 1099511627776 bytes are over the limit of 67108864"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := archived(t, c.data).FetchArchive(t.Context(), "a", "", source.Pick{})
			if err == nil || err.Error() != "archive a: "+c.want {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

// sparse returns a file of a tebibyte that takes up no room, as GNU tar has it.
func sparse(t *testing.T) []byte {
	header := rawTar(t, tar.Header{Name: "x.yaml"})[:512]
	header[156] = 'S'
	copy(header[257:], "ustar  \x00")
	binary.BigEndian.PutUint64(header[483+4:], 1<<40)
	header[483] = 0x80
	clear(header[386:482])
	copy(header[148:156], "        ")
	var sum int
	for _, b := range header {
		sum += int(b)
	}
	copy(header[148:], fmt.Sprintf("%06o\x00 ", sum))
	return append(header, make([]byte, 1024)...)
}

// The list of a zip's files is held in memory, so that its length is limited.
func TestZipWithALongList(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for i := range 600 {
		if _, err := w.CreateHeader(&zip.FileHeader{Name: fmt.Sprint(i), Comment: strings.Repeat("c", 1<<16-1)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := archived(t, b.Bytes()).FetchArchive(t.Context(), "a", "", source.Pick{All: true})
	if err == nil || !strings.Contains(err.Error(), "the list of files is over the limit of 33554432 bytes") {
		t.Errorf("got %v", err)
	}
}

// Whatever an archive holds, what comes of it stays below its folder and within the limits.
func FuzzArchive(f *testing.F) {
	all := []item{{name: "d/x.yaml"}, {name: "l.yaml", kind: tar.TypeSymlink, to: "d/x.yaml"}, {name: "../y.yaml"}}
	plain := tarOf(f, all...)
	for _, seed := range [][]byte{plain, gzipOf(f, plain), zstdOf(f, plain), zipOf(f, all...), zipOf(f, all[:2]...), plain[:600], tarOf(f, all[:2]...)} {
		f.Add(seed, "", true)
		f.Add(seed, "d", false)
	}
	f.Fuzz(func(t *testing.T, data []byte, root string, everything bool) {
		got, err := archived(t, data).FetchArchive(t.Context(), "a", "", source.Pick{Root: root, All: everything})
		if err != nil {
			if !strings.HasPrefix(err.Error(), "archive a: ") && !errors.Is(err, io.EOF) {
				t.Errorf("an error without the archive's name: %v", err)
			}
			return
		}
		size, seen := 0, map[string]bool{}
		for _, file := range got.Files {
			if !filepath.IsLocal(file.Path) || file.Path == "." || strings.ContainsAny(file.Path, "\\\x00\n") || seen[file.Path] {
				t.Errorf("path %q", file.Path)
			}
			seen[file.Path] = true
			size += len(file.Data)
		}
		for path := range seen {
			for dir := filepath.Dir(path); dir != "."; dir = filepath.Dir(dir) {
				if seen[dir] {
					t.Errorf("%q is below the file %q", path, dir)
				}
			}
		}
		if len(got.Files) == 0 || len(got.Files) > 20_000 || size > 512<<20 {
			t.Errorf("%d files of %d bytes", len(got.Files), size)
		}
	})
}
