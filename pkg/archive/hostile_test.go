package archive_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/memory"

	"krtpkg.dev/krtpkg/pkg/archive"
)

// file is an entry of a tar as someone might write it.
type file struct {
	tar.Header
	data []byte
}

func regular(name string, data []byte) file {
	return file{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data))}, data}
}

func tarOf(t testing.TB, files ...file) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range files {
		if err := w.WriteHeader(&f.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// small returns the contents of a small archive: one image of two layers, and what holds them.
func small(t testing.TB) (archive.Contents, content.Fetcher) {
	t.Helper()
	store := memory.New()
	push := func(mediaType string, data []byte) ocispec.Descriptor {
		desc := content.NewDescriptorFromBytes(mediaType, data)
		if err := store.Push(context.Background(), desc, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		return desc
	}
	config := push(ocispec.MediaTypeImageConfig, []byte("{}"))
	one, two := push(ocispec.MediaTypeImageLayerGzip, bytes.Repeat([]byte("one"), 700)), push(ocispec.MediaTypeImageLayerGzip, []byte("two"))
	data, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: config, Layers: []ocispec.Descriptor{one, two},
	})
	if err != nil {
		t.Fatal(err)
	}
	manifest := push(ocispec.MediaTypeImageManifest, data)
	blobs := []ocispec.Descriptor{config, one, two}
	archive.SortBlobs(blobs)
	return archive.Contents{
		Named: []ocispec.Descriptor{archive.NameDescriptor(manifest, "1.0.0", "example:1.0.0")}, Manifests: []ocispec.Descriptor{manifest}, Blobs: blobs,
	}, store
}

// entries returns those of the small archive, to be spoiled.
func entries(t testing.TB) []file {
	t.Helper()
	contents, from := small(t)
	var out bytes.Buffer
	if err := archive.Write(t.Context(), &out, contents, from, archive.Options{}); err != nil {
		t.Fatal(err)
	}
	return entriesOf(t, &out)
}

func entriesOf(t testing.TB, data io.Reader) []file {
	t.Helper()
	var files []file
	for r := tar.NewReader(data); ; {
		h, err := r.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file{*h, data})
	}
}

// readAll reads a stream to its end, as an import does.
func readAll(ctx context.Context, r io.Reader) error {
	_, err := archive.CheckStream(ctx, r, nil)
	return err
}

// readInPlace opens a file and reads all that is in it.
func readInPlace(ctx context.Context, name string) error {
	store, err := archive.Open(ctx, name)
	if err != nil {
		return err
	}
	defer store.Close()
	if _, err := store.ListLacking(ctx); err != nil {
		return err
	}
	for _, desc := range store.ListContents() {
		if _, err := content.FetchAll(ctx, store, desc); err != nil {
			return fmt.Errorf("%s: %w", desc.Digest, err)
		}
	}
	return nil
}

// zeros are as many as it takes.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func blobPath(text string) string {
	return "blobs/sha256/" + digest.FromString(text).Encoded()
}

// What is wrong in any way is refused, whoever reads it, with a word about what it is, and
// without taking much memory or time.
func TestHostile(t *testing.T) {
	t.Parallel()
	index := func(change func(*ocispec.Index)) func([]file) []file {
		return func(files []file) []file {
			var i ocispec.Index
			if err := json.Unmarshal(files[1].data, &i); err != nil {
				t.Fatal(err)
			}
			change(&i)
			data, err := json.Marshal(i)
			if err != nil {
				t.Fatal(err)
			}
			files[1] = regular("index.json", data)
			return files
		}
	}
	add := func(h tar.Header, data string) func([]file) []file {
		h.Size = int64(len(data))
		return func(files []file) []file { return append(files, file{h, []byte(data)}) }
	}
	last := entries(t)[5]
	for _, c := range []struct {
		name   string
		change func([]file) []file
		raw    func([]byte) []byte
		want   string
		// whom it concerns: both when empty.
		only string
	}{
		{name: "a path that leads out", change: add(tar.Header{Typeflag: tar.TypeReg, Name: "../outside"}, "x"), want: `unexpected entry "../outside"`},
		{name: "a path that leads out in the middle", change: add(tar.Header{Typeflag: tar.TypeReg, Name: "blobs/../../outside"}, "x"), want: "unexpected entry"},
		{name: "a path that goes in circles", change: add(tar.Header{Typeflag: tar.TypeReg, Name: "blobs/../index.json"}, "x"), want: "unexpected entry"},
		{name: "an absolute name", change: add(tar.Header{Typeflag: tar.TypeReg, Name: "/etc/passwd"}, "x"), want: `unexpected entry "/etc/passwd"`},
		{name: "backslashes", change: add(tar.Header{Typeflag: tar.TypeReg, Name: `blobs\x`}, "x"), want: "unexpected entry"},
		{name: "two slashes", change: add(tar.Header{Typeflag: tar.TypeReg, Name: "blobs//x"}, "x"), want: "unexpected entry"},
		{name: "a symbolic link", change: add(tar.Header{Typeflag: tar.TypeSymlink, Name: blobPath("x"), Linkname: "/etc/passwd"}, ""), want: "neither a file nor a folder"},
		{name: "a hard link", change: add(tar.Header{Typeflag: tar.TypeLink, Name: blobPath("x"), Linkname: "index.json"}, ""), want: "neither a file nor a folder"},
		{name: "a character device", change: add(tar.Header{Typeflag: tar.TypeChar, Name: "dev"}, ""), want: "neither a file nor a folder"},
		{name: "a block device", change: add(tar.Header{Typeflag: tar.TypeBlock, Name: "dev"}, ""), want: "neither a file nor a folder"},
		{name: "a pipe", change: add(tar.Header{Typeflag: tar.TypeFifo, Name: "pipe"}, ""), want: "neither a file nor a folder"},
		{name: "an entry twice", change: func(f []file) []file { return append(f, f[5]) }, want: "duplicate entry"},
		{name: "an entry twice by two names", change: func(f []file) []file { return append(f, regular("./"+f[5].Name, f[5].data)) }, want: "duplicate entry"},
		{name: "the index twice", change: func(f []file) []file { return append(f, f[1]) }, want: "duplicate entry"},
		{name: "a blob that is not its digest", change: func(f []file) []file { f[5].data = bytes.Repeat([]byte{'x'}, len(f[5].data)); return f }, want: "digest"},
		{name: "a manifest that is not its digest", change: func(f []file) []file { f[2].data = bytes.Replace(f[2].data, []byte("2"), []byte("3"), 1); return f }, want: "digest"},
		{name: "a blob that is longer than annotation", change: func(f []file) []file { f[5] = regular(f[5].Name, append(f[5].data, 'x')); return f }, want: strings.TrimPrefix(last.Name, "blobs/sha256/")},
		{name: "a blob that is shorter", change: func(f []file) []file { f[5] = regular(f[5].Name, f[5].data[1:]); return f }, want: strings.TrimPrefix(last.Name, "blobs/sha256/")},
		{name: "a blob that nothing names", change: func(f []file) []file { return append(f, regular(blobPath("stranger"), []byte("stranger"))) }, want: "is not named by a manifest", only: "stream"},
		{name: "a file among the blobs", change: add(tar.Header{Typeflag: tar.TypeReg, Name: "README"}, "hello"), want: `"README" among the blobs`, only: "stream"},
		{name: "an algorithm that nobody knows", change: add(tar.Header{Typeflag: tar.TypeReg, Name: "blobs/md5/d41d8cd98f00b204e9800998ecf8427e"}, ""), want: "blobs/md5/"},
		{name: "a digest in upper case", change: func(f []file) []file {
			return append(f, regular("blobs/sha256/"+strings.ToUpper(digest.FromString("x").Encoded()), nil))
		}, want: "invalid checksum digest format"},
		{name: "a digest that is too short", change: add(tar.Header{Typeflag: tar.TypeReg, Name: "blobs/sha256/abc"}, ""), want: "blobs/sha256/abc"},
		{name: "a folder below a blob", change: add(tar.Header{Typeflag: tar.TypeReg, Name: blobPath("x") + "/y"}, ""), want: "invalid checksum digest"},
		{name: "no layout file", change: func(f []file) []file { return f[1:] }, want: "oci-layout"},
		{name: "a layout of another version", change: func(f []file) []file { f[0] = regular("oci-layout", []byte(`{"imageLayoutVersion":"9"}`)); return f }, want: `version "9"`},
		{name: "a layout file that is not JSON", change: func(f []file) []file { f[0] = regular("oci-layout", []byte("hello")); return f }, want: "oci-layout"},
		{name: "no index", change: func(f []file) []file { return append(f[:1], f[2:]...) }, want: "index.json"},
		{name: "an index that is not JSON", change: func(f []file) []file { f[1] = regular("index.json", []byte("{")); return f }, want: "index.json"},
		{name: "an index of 100 MB", change: func(f []file) []file { f[1] = regular("index.json", bytes.Repeat([]byte{' '}, 100<<20)); return f }, want: "more than 33554432 bytes"},
		{name: "an index of wrong digests", change: index(func(i *ocispec.Index) { i.Manifests[0].Digest = "sha256:abc" }), want: `"sha256:abc"`},
		{name: "an index of a negative size", change: index(func(i *ocispec.Index) { i.Manifests[0].Size = -1 }), want: "size -1"},
		{name: "a negative number of manifests", change: index(func(i *ocispec.Index) { i.Annotations["dev.krtpkg.archive.manifests"] = "-1" }), want: `is "-1"`},
		{name: "more manifests than there are", change: index(func(i *ocispec.Index) { i.Annotations["dev.krtpkg.archive.manifests"] = "1000000000" }), want: ""},
		{name: "a volume beyond the last", change: index(func(i *ocispec.Index) {
			i.Annotations["dev.krtpkg.archive.volume"], i.Annotations["dev.krtpkg.archive.volumes"] = "9", "a b"
		}), want: "volume 9 of 2"},
		{name: "a manifest of 2 GB", change: func(f []file) []file {
			f[2].Size, f[2].data = 2<<30, nil
			return f[:3]
		}, want: ""},
		{name: "a manifest that is not JSON", change: func(f []file) []file {
			f[2] = regular(blobPath("hello"), []byte("hello"))
			return f
		}, want: digest.FromString("hello").String()},
		{name: "a manifest that names a wrong digest", change: func(f []file) []file {
			const text = `{"layers":[{"digest":"../../etc/passwd","size":1}]}`
			f[2] = regular(blobPath(text), []byte(text))
			return f
		}, want: `"../../etc/passwd"`},
		{name: "a manifest that names a negative size", change: func(f []file) []file {
			text := fmt.Sprintf(`{"layers":[{"digest":%q,"size":-5}]}`, digest.FromString("x"))
			f[2] = regular(blobPath(text), []byte(text))
			return f
		}, want: "size -5"},
		{name: "a sparse file", change: func(f []file) []file {
			f[5].Header = tar.Header{Typeflag: tar.TypeReg, Name: f[5].Name, Size: f[5].Size, PAXRecords: map[string]string{"comment": "sparse"}, Format: tar.FormatPAX}
			return f
		}, raw: func(b []byte) []byte {
			return bytes.Replace(b, []byte("18 comment=sparse\n"), []byte("18 GNU.sparse.x=1\n"), 1)
		}, want: "sparse"},
		{name: "compressed with gzip", raw: func(b []byte) []byte {
			var out bytes.Buffer
			w := gzip.NewWriter(&out)
			w.Write(b)
			w.Close()
			return out.Bytes()
		}, want: "gzip"},
		{name: "no tar", raw: func([]byte) []byte { return bytes.Repeat([]byte("hello "), 1000) }, want: "damaged"},
		{name: "an empty file", raw: func([]byte) []byte { return nil }, want: "damaged"},
		{name: "a checksum that is wrong", raw: func(b []byte) []byte { b[150] ^= 1; return b }, want: "at byte 512"},
		{name: "garbage after the end", raw: func(b []byte) []byte { return append(b, "more"...) }, want: "trailing data"},
		{name: "an archive after an archive", raw: func(b []byte) []byte { return append(b, b...) }, want: "trailing data"},
		{name: "zeros without end", raw: func(b []byte) []byte { return append(b, make([]byte, 2<<20)...) }, want: "trailing data"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			files := entries(t)
			if c.change != nil {
				files = c.change(files)
			}
			var data []byte
			if n := len(files) - 1; files[n].Size > int64(len(files[n].data)) {
				data = claiming(t, files)
			} else {
				data = tarOf(t, files...)
			}
			if c.raw != nil {
				data = c.raw(data)
			}
			refused := func(how string, err error) {
				t.Helper()
				switch {
				case c.only != "" && c.only != how:
					if err != nil {
						t.Errorf("%s: %v", how, err)
					}
				case err == nil:
					t.Errorf("%s: it is taken for good", how)
				case !strings.Contains(err.Error(), c.want):
					t.Errorf("%s: no %q in: %v", how, c.want, err)
				case errors.Is(err, archive.ErrOrder) && how == "stream", c.want == "gzip":
				case !errors.Is(err, archive.ErrDamaged) && !errors.Is(err, content.ErrMismatchedDigest):
					t.Errorf("%s: it is neither damaged nor mismatched: %v", how, err)
				}
			}
			name := filepath.Join(t.TempDir(), "x.tar")
			if err := os.WriteFile(name, data, 0o644); err != nil {
				t.Fatal(err)
			}
			refused("in place", readInPlace(t.Context(), name))
			refused("stream", readAll(t.Context(), bytes.NewReader(data)))
		})
	}
}

// claiming returns a tar whose last entry says that it is larger than it is.
func claiming(t *testing.T, files []file) []byte {
	t.Helper()
	n := len(files) - 1
	data := tarOf(t, files[:n]...)
	var out bytes.Buffer
	if err := tar.NewWriter(&out).WriteHeader(&files[n].Header); err != nil {
		t.Fatal(err)
	}
	return append(append(data[:len(data)-1024], out.Bytes()...), make([]byte, 4096)...)
}

// An archive that ends early is refused wherever it does.
func TestTruncated(t *testing.T) {
	t.Parallel()
	whole := tarOf(t, entries(t)...)
	for n := 0; n < len(whole); n += 256 {
		err := readAll(t.Context(), bytes.NewReader(whole[:n]))
		if !errors.Is(err, archive.ErrDamaged) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d of %d bytes, as a stream: %v", n, len(whole), err)
		}
		name := filepath.Join(t.TempDir(), "x.tar")
		if err := os.WriteFile(name, whole[:n], 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Open(t.Context(), name); !errors.Is(err, archive.ErrDamaged) {
			t.Errorf("%d of %d bytes, in place: %v", n, len(whole), err)
		}
	}
}

// What is small as it comes and large when it is taken apart ends soon, and takes little memory.
func TestBombs(t *testing.T) {
	files := entries(t)
	head := tarOf(t, files...)
	head = head[:len(head)-1024]
	for name, write := range map[string]func(w io.Writer) error{
		"a million entries": func(w io.Writer) error {
			if _, err := w.Write(head); err != nil {
				return err
			}
			for i := range 1_000_000 {
				if _, err := w.Write(headerOf(t, blobPath(fmt.Sprint(i)))); err != nil {
					return err
				}
			}
			return nil
		},
		"a terabyte of zeros, compressed": func(w io.Writer) error {
			z, err := zstd.NewWriter(w)
			if err != nil {
				return err
			}
			if _, err := z.Write(head); err != nil {
				return err
			}
			huge := tar.Header{Typeflag: tar.TypeReg, Name: blobPath("huge"), Size: 1 << 40}
			var h bytes.Buffer
			if err := tar.NewWriter(&h).WriteHeader(&huge); err != nil {
				return err
			}
			if _, err := z.Write(h.Bytes()); err != nil {
				return err
			}
			_, err = io.CopyN(z, zeros{}, 1<<40)
			return err
		},
		"manifests without end": func(w io.Writer) error {
			index := `{"schemaVersion":2,"manifests":[],"annotations":{"dev.krtpkg.archive.manifests":"100000"}}`
			start := tarOf(t, files[0], regular("index.json", []byte(index)))
			if _, err := w.Write(start[:len(start)-1024]); err != nil {
				return err
			}
			for i := range 1000 {
				text := fmt.Sprintf(`{"annotations":{"%d":%q}}`, i, strings.Repeat("x", 4<<20-64))
				one := tarOf(t, regular(blobPath(text), []byte(text)))
				if _, err := w.Write(one[:len(one)-1024]); err != nil {
					return err
				}
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			r, w := io.Pipe()
			go func() { w.CloseWithError(write(w)) }()
			start := time.Now()
			err := readAll(t.Context(), r)
			r.Close()
			runtime.ReadMemStats(&after)
			if !errors.Is(err, archive.ErrDamaged) {
				t.Errorf("got %v", err)
			}
			if held := int64(after.HeapSys) - int64(before.HeapSys); held > 200<<20 || time.Since(start) > 20*time.Second {
				t.Errorf("%d MiB and %s", held>>20, time.Since(start))
			}
		})
	}
}

func headerOf(t *testing.T, name string) []byte {
	var out bytes.Buffer
	if err := tar.NewWriter(&out).WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// Archives that others make are read in place: with folders, in any order, with more next to.
func TestOfOthers(t *testing.T) {
	t.Parallel()
	files := []file{{Header: tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o755}}, {Header: tar.Header{Typeflag: tar.TypeDir, Name: "./blobs/", Mode: 0o755}}}
	made := entries(t)
	for i := len(made) - 1; i >= 0; i-- {
		files = append(files, regular("./"+made[i].Name, made[i].data))
	}
	files = append(files, regular("./manifest.json", []byte("[]")))
	name := filepath.Join(t.TempDir(), "x.tar")
	if err := os.WriteFile(name, tarOf(t, files...), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := readInPlace(t.Context(), name); err != nil {
		t.Error(err)
	}
	store, err := archive.Open(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if desc, err := store.Resolve(t.Context(), "1.0.0"); err != nil || desc.MediaType != ocispec.MediaTypeImageManifest {
		t.Errorf("%v, error %v", desc, err)
	}
}

// Whatever the bytes are, nothing panics, and what is read without an error is what its digest
// says.
func FuzzArchive(f *testing.F) {
	files := entries(f)
	f.Add(tarOf(f, files...))
	f.Add(tarOf(f, files[:3]...))
	f.Add(tarOf(f, append(files[:2:2], files[3:]...)...))
	f.Fuzz(func(t *testing.T, data []byte) {
		name := filepath.Join(t.TempDir(), "x.tar")
		if err := os.WriteFile(name, data, 0o644); err != nil {
			t.Fatal(err)
		}
		inPlace, stream := readInPlace(t.Context(), name), readAll(t.Context(), bytes.NewReader(data))
		if stream == nil && inPlace != nil {
			t.Errorf("whole as a stream, and in place: %v", inPlace)
		}
	})
}
