package archive_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/pkg/archive"
)

// counting counts what is fetched; its content seeks.
type counting struct {
	content.Fetcher
	n *atomic.Int64
}

func (c counting) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	data, err := content.FetchAll(ctx, c.Fetcher, desc)
	return &countingReader{bytes.NewReader(data), c.n}, err
}

type countingReader struct {
	*bytes.Reader
	n *atomic.Int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n.Add(int64(n))
	return n, err
}

func (c *countingReader) WriteTo(io.Writer) (int64, error) { panic("read it") }
func (c *countingReader) Close() error                     { return nil }

func mustWrite(t *testing.T, c archive.Contents, from content.Fetcher) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := archive.Write(t.Context(), &out, c, from, archive.Options{}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// The size is known before, and nothing of the machine is in it.
func TestWrite(t *testing.T) {
	t.Parallel()
	contents, from := small(t)
	data := mustWrite(t, contents, from)
	if size, err := contents.Size(); err != nil || size != int64(len(data)) {
		t.Errorf("%d bytes, want %d; error %v", size, len(data), err)
	}
	var names []string
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Mode != 0o644 || h.ModTime.Unix() != 0 || h.Uid+h.Gid != 0 || h.Uname+h.Gname != "" || h.Typeflag != tar.TypeReg {
			t.Errorf("%+v", h)
		}
		names = append(names, h.Name)
	}
	if got := strings.Join(names[:2], " "); got != "oci-layout index.json" || len(names) != 6 || names[3] > names[4] || names[4] > names[5] {
		t.Errorf("entries are %v", names)
	}
	var first, second bytes.Buffer
	for _, out := range []*bytes.Buffer{&first, &second} {
		if err := archive.Write(t.Context(), out, contents, from, archive.Options{Compress: true}); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) || first.Len() >= len(data) {
		t.Error("compressed it is not the same twice, or no smaller")
	}
	huge := archive.Contents{Blobs: []ocispec.Descriptor{{Digest: contents.Blobs[0].Digest, Size: 9 << 30}}}
	if size, err := huge.Size(); err != nil || size <= 9<<30 || size%512 != 0 {
		t.Errorf("of 9 GiB: %d, error %v", size, err)
	}
}

// A file that broke off anywhere is gone on with: what is there and right is not fetched again,
// and what is wrong is replaced.
func TestWriteFileGoesOn(t *testing.T) {
	t.Parallel()
	contents, from := small(t)
	whole := mustWrite(t, contents, from)
	write := func(partial []byte) (fetched int64) {
		t.Helper()
		name := filepath.Join(t.TempDir(), "x.tar")
		if err := os.WriteFile(name+".partial", partial, 0o644); err != nil {
			t.Fatal(err)
		}
		var n atomic.Int64
		written, err := archive.WriteFile(t.Context(), name, contents, counting{from, &n}, archive.Options{})
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(name)
		if err != nil || !bytes.Equal(data, whole) || written.Size != int64(len(whole)) {
			t.Errorf("after %d bytes: %d bytes, error %v", len(partial), len(data), err)
		}
		if _, err := os.Stat(name + ".partial"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the partial file is there: %v", err)
		}
		return n.Load()
	}
	all := write(nil)
	for n := 0; n <= len(whole); n += 37 {
		if fetched := write(whole[:n]); fetched > all || fetched > int64(len(whole)-n) {
			t.Errorf("after %d of %d bytes %d were fetched", n, len(whole), fetched)
		}
		wrong := bytes.Clone(whole)
		wrong[min(n, len(whole)-1)] ^= 1
		write(wrong)
	}
	write(append(bytes.Clone(whole), "more"...))
	write(bytes.Repeat([]byte("something else "), 1000))
}

// A file of that name stays what it is until the new one is whole, and when it is that already.
func TestWriteFileReplacesAtTheEnd(t *testing.T) {
	t.Parallel()
	contents, from := small(t)
	before := func() (name string) {
		t.Helper()
		name = filepath.Join(t.TempDir(), "x.tar")
		if err := os.WriteFile(name, []byte("before"), 0o644); err != nil {
			t.Fatal(err)
		}
		return name
	}
	for reason, change := range map[string]func([]byte) []byte{
		"mismatched digest": func(b []byte) []byte { b[0] ^= 1; return b },
		"unexpected EOF":    func(b []byte) []byte { return b[1:] },
		"trailing data":     func(b []byte) []byte { return append(b, 'x') },
	} {
		name := before() // each its own: of a whole blob with more after it, what is right is kept
		_, err := archive.WriteFile(t.Context(), name, contents, spoiled{from, contents.Blobs[1], change}, archive.Options{})
		if err == nil || !strings.Contains(err.Error(), reason) || !strings.Contains(err.Error(), contents.Blobs[1].Digest.String()) {
			t.Errorf("want %q of the blob, got %v", reason, err)
		}
		if data, err := os.ReadFile(name); err != nil || string(data) != "before" {
			t.Errorf("now it is %d bytes, error %v", len(data), err)
		}
	}
	name := before()
	if _, err := archive.WriteFile(t.Context(), name, contents, from, archive.Options{}); err != nil {
		t.Fatal(err)
	}
	var n atomic.Int64
	written, err := archive.WriteFile(t.Context(), name, contents, counting{from, &n}, archive.Options{})
	if err != nil || n.Load() != 0 || written.Kept != written.Size {
		t.Errorf("%+v, %d bytes fetched, error %v", written, n.Load(), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := archive.Write(ctx, io.Discard, contents, from, archive.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

type spoiled struct {
	content.Fetcher
	blob   ocispec.Descriptor
	change func([]byte) []byte
}

func (s spoiled) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	data, err := content.FetchAll(ctx, s.Fetcher, desc)
	if desc.Digest == s.blob.Digest {
		data = s.change(data)
	}
	return io.NopCloser(bytes.NewReader(data)), err
}

// flipping changes a byte of one blob, as often as it says.
type flipping struct {
	content.Fetcher
	of    ocispec.Descriptor
	times *atomic.Int64
}

func (f flipping) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if desc.Digest != f.of.Digest || f.times.Add(-1) < 0 {
		return f.Fetcher.Fetch(ctx, desc)
	}
	data, err := content.FetchAll(ctx, f.Fetcher, desc)
	if err == nil {
		data[0] ^= 1
	}
	return io.NopCloser(bytes.NewReader(data)), err
}

// A byte that changes once on the way is read again; the second time it ends the export.
func TestWriteFileReadsAgain(t *testing.T) {
	t.Parallel()
	contents, from := small(t)
	want := mustWrite(t, contents, from)
	for times, works := range map[int64]bool{1: true, 2: false} {
		for _, name := range []string{"a.tar", "a.tar.zst"} {
			file := filepath.Join(t.TempDir(), name)
			left := &atomic.Int64{}
			left.Store(times)
			o := archive.Options{Compress: strings.HasSuffix(name, ".zst")}
			_, err := archive.WriteFile(t.Context(), file, contents, flipping{from, contents.Blobs[len(contents.Blobs)-1], left}, o)
			if works != (err == nil) || err != nil && !errors.Is(err, content.ErrMismatchedDigest) {
				t.Errorf("%s, %d times: %v", name, times, err)
			}
			data, err := os.ReadFile(file)
			switch {
			case !works && !errors.Is(err, fs.ErrNotExist):
				t.Errorf("%s: it has its name, error %v", name, err)
			case works && !o.Compress && !bytes.Equal(data, want):
				t.Errorf("%s: other bytes, error %v", name, err)
			case works && o.Compress:
				if _, err := archive.CheckStream(t.Context(), bytes.NewReader(data), nil); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
	}
}

// flippingAt changes a byte of one blob, when it is fetched for that many times.
type flippingAt struct {
	content.Fetcher
	of      ocispec.Descriptor
	at      int64
	fetched atomic.Int64
}

func (f *flippingAt) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if desc.Digest != f.of.Digest || f.fetched.Add(1) != f.at {
		return f.Fetcher.Fetch(ctx, desc)
	}
	once := &atomic.Int64{}
	once.Store(1)
	return flipping{f.Fetcher, f.of, once}.Fetch(ctx, desc)
}

// A byte of each blob may change once.
func TestWriteFileReadsEachAgain(t *testing.T) {
	t.Parallel()
	contents, from := small(t)
	if len(contents.Blobs) < 3 {
		t.Fatalf("only %d blobs", len(contents.Blobs))
	}
	want := mustWrite(t, contents, from)
	var wrong content.Fetcher = from
	for i, blob := range contents.Blobs[:3] {
		wrong = &flippingAt{Fetcher: wrong, of: blob, at: int64(i + 1)}
	}
	file := filepath.Join(t.TempDir(), "a.tar")
	if _, err := archive.WriteFile(t.Context(), file, contents, wrong, archive.Options{}); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(file); err != nil || !bytes.Equal(data, want) {
		t.Errorf("other bytes, error %v", err)
	}
}

// Volumes hold everything between them, none is larger than asked for, and what cannot go on
// one is an error that says how large it would have to be.
func TestSplit(t *testing.T) {
	t.Parallel()
	contents, _ := small(t)
	whole, err := contents.Size()
	if err != nil {
		t.Fatal(err)
	}
	for limit := int64(0); limit < whole+2048; limit += 256 {
		volumes, err := contents.Split(limit)
		var small *archive.VolumeSizeError
		if errors.As(err, &small) {
			if small.Need <= limit {
				t.Errorf("%d: %v", limit, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		blobs := 0
		for _, v := range volumes {
			if size, err := v.Size(); err != nil || size > limit {
				t.Errorf("%d: a volume of %d, error %v", limit, size, err)
			}
			blobs += len(v.Blobs)
		}
		if blobs != len(contents.Blobs) {
			t.Errorf("%d: %d blobs", limit, blobs)
		}
	}
}

// barrierFetcher holds the first fetches until as many are under way.
type barrierFetcher struct {
	content.Fetcher
	fetches atomic.Int64
	atOnce  int64
	reached chan struct{}
}

func (b *barrierFetcher) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	n := b.fetches.Add(1)
	if n == b.atOnce {
		close(b.reached)
	}
	if n < b.atOnce {
		select {
		case <-b.reached:
		case <-ctx.Done():
			return nil, fmt.Errorf("%d are fetched at once: %w", b.fetches.Load(), ctx.Err())
		}
	}
	return b.Fetcher.Fetch(ctx, desc)
}

// writeCounter counts how often it is written to.
type writeCounter struct {
	bytes.Buffer
	writes int
}

func (w *writeCounter) Write(p []byte) (int, error) {
	w.writes++
	return w.Buffer.Write(p)
}

// What is gathered and what is not stay in order, whatever follows what.
func TestWriteSizes(t *testing.T) {
	t.Parallel()
	var sizes []int
	for _, size := range []int{1, 511, 512, 20_000, 32 << 10, 35_000, 50_000, 64<<10 - 1, 64 << 10, 100_000, 256 << 10, 600_000} {
		sizes = append(sizes, size, size+3, size+7)
	}
	contents, from := layers(t, sizes...)
	data := mustWrite(t, contents, from)
	if size, err := contents.Size(); err != nil || size != int64(len(data)) {
		t.Errorf("%d bytes, want %d; error %v", len(data), size, err)
	}
	if found, err := archive.CheckStream(t.Context(), bytes.NewReader(data), nil); err != nil || found.Blobs < len(sizes) {
		t.Errorf("%+v, %v", found, err)
	}
}

// Many small blobs are read at once, as many as is asked for, and written together.
func TestWriteManySmallBlobs(t *testing.T) {
	t.Parallel()
	const blobs, atOnce = 320, 32
	contents, store := small(t)
	want := mustWrite(t, contents, store)
	for i := range blobs {
		data := fmt.Appendf(nil, "blob %d", i)
		desc := content.NewDescriptorFromBytes("application/octet-stream", data)
		if err := store.(content.Pusher).Push(t.Context(), desc, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		contents.Blobs = append(contents.Blobs, desc)
	}
	archive.SortBlobs(contents.Blobs)
	from := &barrierFetcher{Fetcher: store, atOnce: atOnce, reached: make(chan struct{})}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var out writeCounter
	if err := archive.Write(ctx, &out, contents, from, archive.Options{Concurrency: atOnce}); err != nil {
		t.Fatal(err)
	}
	if out.Len() < len(want)+blobs*1024 || out.writes > out.Len()/(32<<10)+2 {
		t.Errorf("%d bytes were written at %d times", out.Len(), out.writes)
	}
	if !bytes.Equal(out.Bytes(), mustWrite(t, contents, store)) {
		t.Error("the bytes depend on how many are read at once")
	}
}

// An error writes nothing more to a stream, whose reader may have stalled, and no number of fetches is too small.
func TestWriteStopsAtError(t *testing.T) {
	t.Parallel()
	contents, from := small(t)
	var out bytes.Buffer
	if err := archive.Write(t.Context(), &out, contents, from, archive.Options{Concurrency: -1}); err != nil || out.Len() == 0 {
		t.Errorf("%d bytes, error %v", out.Len(), err)
	}
	contents.Blobs = append(contents.Blobs, ocispec.Descriptor{Digest: digest.FromString("lost"), Size: 10})
	archive.SortBlobs(contents.Blobs)
	out.Reset()
	if err := archive.Write(t.Context(), &out, contents, from, archive.Options{}); err == nil || out.Len() > 0 {
		t.Errorf("%d bytes were written after the error %v", out.Len(), err)
	}
}
