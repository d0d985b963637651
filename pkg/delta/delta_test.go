package delta_test

import (
	"archive/tar"
	"bytes"
	"compress/flate"
	stdgzip "compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/pgzip"
	"github.com/opencontainers/go-digest"

	"krtpkg.dev/krtpkg/pkg/delta"
)

// file is an entry of a tar.
type file struct {
	name string
	data []byte
}

func packTar(t testing.TB, files ...file) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Size: int64(len(f.data)), Mode: 0o755, ModTime: time.Unix(1e9, 0), Typeflag: tar.TypeReg}
		if strings.HasSuffix(f.name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
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

// program returns what looks like a program: functions of random bytes that call one another by the
// distance. Those that changed are other bytes, and one has grown, so that distances change.
func program(seed uint64, functions int, changed ...int) []byte {
	var bodies [][]byte
	at := []int{0}
	for i := range functions {
		version, size := uint64(0), 200+i*37%400
		for _, c := range changed {
			if c == i {
				version, size = 1, size+24
			}
		}
		random := rand.New(rand.NewPCG(seed, uint64(i)<<8|version))
		body := make([]byte, size)
		for k := range body {
			body[k] = byte(random.IntN(64))
		}
		bodies, at = append(bodies, body), append(at, at[i]+size)
	}
	var out []byte
	for i, body := range bodies {
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		for k := 16; k+4 < 200; k += 40 {
			binary.LittleEndian.PutUint32(body[k:], uint32(at[random.IntN(functions)]-at[i]-k))
		}
		out = append(out, body...)
	}
	return out
}

func text(seed uint64, size int) []byte {
	random := rand.New(rand.NewPCG(seed, 1))
	var out []byte
	for len(out) < size {
		out = append(out, fmt.Sprintf("line %d of %d\n", random.IntN(1000), seed)...)
	}
	return out[:size]
}

// versions returns two versions of a tar with one of everything.
func versions(t testing.TB) (before, after []byte) {
	t.Helper()
	shared := text(1, 1_200_000)
	before = packTar(t,
		file{"app/", nil}, file{"app/program", program(7, 2000)}, file{"app/licence", text(2, 20_000)},
		file{"lib/libx.so.1.2.3", program(9, 500)}, file{"lib/data", shared}, file{"app/gone", text(3, 5000)}, file{"empty", nil})
	after = packTar(t,
		file{"app/", nil}, file{"app/program", program(7, 2010, 100, 900, 1700)}, file{"app/licence", text(2, 20_000)},
		file{"lib/libx.so.1.2.4", program(9, 500, 3)}, file{"lib/moved", shared}, file{"app/new", text(4, 5000)}, file{"empty", nil})
	return before, after
}

// smallVersions returns two versions of a tar with one program, for what needs no more.
func smallVersions(t testing.TB) (before, after []byte) {
	t.Helper()
	return packTar(t, file{"program", program(1, 600)}), packTar(t, file{"program", program(1, 600, 300)})
}

// encoders are the real ones, with what they are to be found as.
var encoders = []struct {
	name, want string
	make       func(w io.Writer) (io.WriteCloser, error)
}{
	{"Go's default, as docker and buildkit", "go -6", func(w io.Writer) (io.WriteCloser, error) { return stdgzip.NewWriter(w), nil }},
	{"Go at 1, as crane and ko", "go -1", func(w io.Writer) (io.WriteCloser, error) { return stdgzip.NewWriterLevel(w, 1) }},
	{"Go at 9", "go -9", func(w io.Writer) (io.WriteCloser, error) { return stdgzip.NewWriterLevel(w, 9) }},
	{"Go, Huffman alone", "go huffman", func(w io.Writer) (io.WriteCloser, error) { return stdgzip.NewWriterLevel(w, flate.HuffmanOnly) }},
	{"Go with a name and a time", "go -6", func(w io.Writer) (io.WriteCloser, error) {
		z := stdgzip.NewWriter(w)
		z.Name, z.Comment, z.Extra, z.ModTime, z.OS = "layer.tar", "made by hand", []byte("extra"), time.Unix(1e9, 0), 3
		return z, nil
	}},
	{"klauspost's default", "klauspost -5", func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil }},
	{"klauspost at 9", "klauspost -9", func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriterLevel(w, 9) }},
	{"pgzip's default, as buildah", "pgzip -5, blocks of 1024 KiB", func(w io.Writer) (io.WriteCloser, error) { return pgzip.NewWriter(w), nil }},
	{"pgzip at 9 in blocks of 128 KiB", "pgzip -9, blocks of 128 KiB", func(w io.Writer) (io.WriteCloser, error) {
		z, err := pgzip.NewWriterLevel(w, 9)
		if err == nil {
			err = z.SetConcurrency(128<<10, 4)
		}
		return z, err
	}},
	{"zstd's default, as containerd and buildkit", "zstd -2", func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) }},
	{"zstd at its fastest", "zstd -1", func(w io.Writer) (io.WriteCloser, error) {
		return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest))
	}},
	{"zstd at its best", "zstd -4", func(w io.Writer) (io.WriteCloser, error) {
		return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBestCompression))
	}},
	{"no compression", "uncompressed", func(w io.Writer) (io.WriteCloser, error) { return nopCloser{w}, nil }},
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func compress(t testing.TB, data []byte, with func(io.Writer) (io.WriteCloser, error)) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := with(&out)
	if err != nil {
		t.Fatal(err)
	}
	// In odd pieces: what an encoder gives must not depend on how it is written to.
	for rest := data; len(rest) > 0; {
		n := min(len(rest), 77_777)
		if _, err := w.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func goGzip(t testing.TB, data []byte) []byte { return compress(t, data, encoders[0].make) }

func layerOf(data []byte) delta.Layer {
	return delta.Layer{Digest: digest.FromBytes(data), Size: int64(len(data)), Open: func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data)), nil
	}}
}

// sourceOf opens base layers in memory.
func sourceOf(layers ...[]byte) delta.Source {
	return func(_ context.Context, base delta.Base) (io.ReadCloser, error) {
		for _, data := range layers {
			if digest.FromBytes(data) == base.Digest {
				return io.NopCloser(bytes.NewReader(data)), nil
			}
		}
		return nil, os.ErrNotExist
	}
}

func makeDelta(t testing.TB, layer []byte, bases ...[]byte) ([]byte, *delta.Made) {
	t.Helper()
	var list []delta.Layer
	for _, b := range bases {
		list = append(list, layerOf(b))
	}
	var out bytes.Buffer
	made, err := delta.Make(t.Context(), &out, layerOf(layer), list, delta.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if made.Size != int64(out.Len()) {
		t.Errorf("said to have %d bytes, has %d", made.Size, out.Len())
	}
	return out.Bytes(), made
}

func apply(t testing.TB, data []byte, want digest.Digest, size int64, open delta.Source) ([]byte, error) {
	t.Helper()
	dir := t.TempDir()
	d, err := delta.Open(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	body, err := d.Apply(t.Context(), want, size, open, delta.Options{Dir: dir})
	if err == nil {
		var made []byte
		made, err = io.ReadAll(body)
		if closed := body.Close(); closed != nil {
			t.Error(closed)
		}
		if err == nil {
			return made, leftOver(dir)
		}
	}
	return nil, errors.Join(err, leftOver(dir))
}

// leftOver returns an error if temporary files are left.
func leftOver(dir string) error {
	entries, err := os.ReadDir(dir)
	if err == nil && len(entries) > 0 {
		err = fmt.Errorf("%d temporary files are left", len(entries))
	}
	return err
}

// Each real encoder is found, the delta is small, the same every time, and gives the same bytes.
func TestDeltaKeepsTheDigestOfEveryEncoder(t *testing.T) {
	t.Parallel()
	before, after := versions(t)
	base := goGzip(t, before)
	for _, e := range encoders {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			layer := compress(t, after, e.make)
			data, made := makeDelta(t, layer, base)
			if made.Encoder.String() != e.want {
				t.Errorf("found as %s, want %s", made.Encoder, e.want)
			}
			if limit := len(layer) / 25; len(data) > limit {
				t.Errorf("delta of %d bytes for a layer of %d", len(data), len(layer))
			}
			again, _ := makeDelta(t, layer, base)
			if !bytes.Equal(data, again) {
				t.Error("the same layers give another delta")
			}
			got, err := apply(t, data, digest.FromBytes(layer), int64(len(layer)), sourceOf(base))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, layer) {
				t.Error("other bytes")
			}
		})
	}
}

// A base may be compressed in any way; of several bases only those that are read are named.
func TestBases(t *testing.T) {
	t.Parallel()
	before, after := versions(t)
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	packed := map[string][]byte{
		"gzip": goGzip(t, before), "zstd": encoder.EncodeAll(before, nil), "tar": before,
		"no tar": text(5, 100_000), "empty": {},
	}
	unrelated := goGzip(t, packTar(t, file{"other", text(11, 50_000)}))
	split := [][]byte{unrelated, goGzip(t, packTar(t, file{"app/program", program(7, 2000)})), {}, goGzip(t, packTar(t, file{"lib/data", text(1, 1_200_000)}))}
	layer := goGzip(t, after)
	for name, base := range packed {
		data, made := makeDelta(t, layer, unrelated, base)
		if used := len(made.Bases); name != "no tar" && name != "empty" && (used != 1 || made.Bases[0].Digest != digest.FromBytes(base)) {
			t.Errorf("%s: made from %d bases", name, used)
		}
		if got, err := apply(t, data, digest.FromBytes(layer), int64(len(layer)), sourceOf(base, unrelated)); err != nil || !bytes.Equal(got, layer) {
			t.Errorf("%s: %v", name, err)
		}
	}
	data, made := makeDelta(t, layer, split...)
	if len(made.Bases) != 2 || len(data) > len(layer)/3 {
		t.Errorf("%d bytes from %d bases", len(data), len(made.Bases))
	}
	if got, err := apply(t, data, digest.FromBytes(layer), int64(len(layer)), sourceOf(split...)); err != nil || !bytes.Equal(got, layer) {
		t.Error(err)
	}
}

// What matching may take in memory changes the size of a delta, not what it makes.
func TestDeltaInLittleMemory(t *testing.T) {
	t.Parallel()
	before := goGzip(t, packTar(t, file{"program", program(3, 6_000)}))
	layer := goGzip(t, packTar(t, file{"program", program(3, 6_000, 5, 2_000, 4_000)}))
	sizes := map[int64]int{}
	for _, memory := range []int64{1, 16 << 20, 1 << 30} {
		var out bytes.Buffer
		if _, err := delta.Make(t.Context(), &out, layerOf(layer), []delta.Layer{layerOf(before)}, delta.Options{MaxMemory: memory}); err != nil {
			t.Fatal(err)
		}
		sizes[memory] = out.Len()
		if got, err := apply(t, out.Bytes(), digest.FromBytes(layer), int64(len(layer)), sourceOf(before)); err != nil || !bytes.Equal(got, layer) {
			t.Errorf("%d bytes of memory: %v", memory, err)
		}
	}
	if sizes[1] > len(layer)/4 {
		t.Errorf("%v of %d", sizes, len(layer))
	}
}

// zstdOfLibrary returns a frame as libzstd makes it, of one raw block and without a checksum.
func zstdOfLibrary(t *testing.T) []byte {
	t.Helper()
	frame := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x20, 5, 1 | 5<<3, 0, 0, 'a', 't', 'a', 'r', '.'}
	decoder, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer decoder.Close()
	if got, err := decoder.DecodeAll(frame, nil); err != nil || string(got) != "atar." {
		t.Fatalf("%q, %v", got, err)
	}
	return frame
}

// What cannot be compressed to the same bytes again travels whole.
func TestUnknownEncoders(t *testing.T) {
	t.Parallel()
	before, after := smallVersions(t)
	base := goGzip(t, before)
	flushed := func(w io.Writer) (io.WriteCloser, error) {
		z := stdgzip.NewWriter(w)
		_, err := z.Write(after[:1000])
		return z, errors.Join(err, z.Flush())
	}
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, layer := range map[string][]byte{
		"flushed in between": compress(t, after[1000:], flushed),
		"two members":        append(goGzip(t, after[:5000]), goGzip(t, after[5000:])...),
		"something follows":  append(goGzip(t, after), 0),
		"zstd of two frames": append(encoder.EncodeAll(after[:5000], nil), encoder.EncodeAll(after[5000:], nil)...),
		"zstd of another":    zstdOfLibrary(t),
		"no trailer":         goGzip(t, after)[:100],
		"other method":       append([]byte{0x1f, 0x8b, 7}, make([]byte, 30)...),
		"header alone":       {0x1f, 0x8b, 8},
	} {
		dir := t.TempDir()
		made, err := delta.Make(t.Context(), io.Discard, layerOf(layer), []delta.Layer{layerOf(base)}, delta.Options{Dir: dir})
		if !errors.Is(err, delta.ErrEncoder) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: %v, %v", name, made, err)
		}
		if err := leftOver(dir); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The replayed encoders give the bytes that they gave when deltas were first made. Where this fails
// after an update of Go or of klauspost/compress, keep the code that gave them: deltas and layers in
// the field are made with it.
func TestEncodersGiveTheSameBytes(t *testing.T) {
	t.Parallel()
	content := append(program(7, 150), text(1, 70_000)...)
	for want, encoders := range map[string][]delta.Encoder{
		"7d7b79c2f5788ba5b6b5d5172343f120c148d49baeb8aba9941b3b86279cec15": delta.Candidates(),
		"7baecf77a591ef029b6808b681510c713f39b261a003508d552531c6371998ac": delta.ZstdCandidates(),
	} {
		all := sha256.New()
		for _, e := range encoders {
			if e.Name == "zlib" || e.Name == "gnu" {
				continue // see TestZlibVectors
			}
			var out bytes.Buffer
			if err := delta.CompressTo(t.Context(), &out, e, bytes.NewReader(content)); err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(all, "%s %x\n", e, sha256.Sum256(out.Bytes()))
		}
		if got := fmt.Sprintf("%x", all.Sum(nil)); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// A delta of version 1 that is kept as a file is read as it was then.
func TestVersion1IsRead(t *testing.T) {
	t.Parallel()
	base := packTar(t, file{"program", program(1, 60)}, file{"licence", text(1, 3000)})
	layer := packTar(t, file{"program", program(1, 60, 7, 30)}, file{"licence", text(1, 3000)}, file{"new", text(2, 500)})
	const name = "testdata/version1.krtdelta"
	if os.Getenv("KRTPKG_WRITE_DELTA") != "" {
		data, _ := makeDelta(t, layer, base)
		if err := os.WriteFile(name, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := apply(t, data, digest.FromBytes(layer), int64(len(layer)), sourceOf(base)); err != nil || !bytes.Equal(got, layer) {
		t.Error(err)
	}
}

// A layer that is not a tar, and what follows the end of one, is made from its old version too, and is never taken
// for other content of the same size.
func TestLayersThatAreNotTars(t *testing.T) {
	t.Parallel()
	behind := func(seed uint64) []byte {
		return append(packTar(t, file{"licence", text(1, 3000)}), program(seed, 30)...)
	}
	for name, pair := range map[string][2][]byte{
		"another file":            {program(1, 60), program(1, 60, 7)},
		"same size, other bytes":  {text(1, 3000), text(2, 3000)},
		"behind the end of a tar": {behind(1), behind(2)},
	} {
		data, made := makeDelta(t, pair[1], pair[0])
		got, err := apply(t, data, digest.FromBytes(pair[1]), int64(len(pair[1])), sourceOf(pair[0]))
		if err != nil || !bytes.Equal(got, pair[1]) {
			t.Errorf("%s: %v", name, err)
		}
		if name == "another file" && made.Size > int64(len(pair[1]))/5 {
			t.Errorf("%s: delta of %d bytes for %d", name, made.Size, len(pair[1]))
		}
	}
}
