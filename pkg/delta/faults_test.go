package delta_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"krtpkg.dev/krtpkg/pkg/delta"
)

// pack writes a delta of a header and of what follows it.
func pack(t testing.TB, version byte, header any, rest ...[]byte) []byte {
	t.Helper()
	data, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	out := append([]byte("krtdelta"), version)
	out = append(binary.AppendUvarint(out, uint64(len(data))), data...)
	return append(out, bytes.Join(rest, nil)...)
}

// part returns a part of three sections.
func part(t testing.TB, control, additions, extra []byte) []byte {
	t.Helper()
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	var sizes, packed []byte
	for _, section := range [][]byte{control, additions, extra} {
		var data []byte
		if len(section) > 0 {
			data = encoder.EncodeAll(section, nil)
		}
		sizes = binary.AppendUvarint(binary.AppendUvarint(sizes, uint64(len(section))), uint64(len(data)))
		packed = append(packed, data...)
	}
	return append(sizes, packed...)
}

func control(kind, size uint64, ahead ...int64) []byte {
	out := binary.AppendUvarint(nil, size<<2|kind)
	for _, a := range ahead {
		out = binary.AppendVarint(out, a)
	}
	return out
}

// headerFor describes a layer without compression, from one base.
func headerFor(layer []byte, tarSize int64, base []byte) delta.Header {
	return delta.Header{
		Layer:   delta.Base{Digest: digest.FromBytes(layer), Size: int64(len(layer)), TarSize: tarSize},
		Encoder: delta.Encoder{Name: "none"},
		Bases:   []delta.Base{{Digest: digest.FromBytes(base), Size: int64(len(base)), TarSize: int64(len(base))}},
	}
}

// Whatever is wrong with a delta is an error that says so, and no byte too many is made.
func TestFaults(t *testing.T) {
	t.Parallel()
	base, layer := []byte("a base of forty bytes, which is no tar.."), []byte("a layer of 24 bytes long")
	good := func(change func(*delta.Header)) delta.Header {
		h := headerFor(layer, int64(len(layer)), base)
		if change != nil {
			change(&h)
		}
		return h
	}
	whole, end := part(t, control(0, 24), nil, layer), []byte{0}
	bomb := bytes.Repeat([]byte{0}, 8<<20)
	for name, c := range map[string]struct {
		data []byte
		want error
		text string
	}{
		"empty":                  {nil, delta.ErrDamaged, ""},
		"not a delta":            {[]byte("PK\x03\x04 and so on"), delta.ErrDamaged, "begin"},
		"later format":           {pack(t, 2, good(nil), whole, end), nil, "format 2: update krtpkg"},
		"later encoder":          {pack(t, 1, good(func(h *delta.Header) { h.Encoder.Name = "brotli" }), whole, end), nil, `encoder "brotli": update krtpkg`},
		"later operation":        {pack(t, 1, good(nil), part(t, control(3, 24, 0), nil, nil), end), delta.ErrDamaged, "operation"},
		"odd level":              {pack(t, 1, good(func(h *delta.Header) { h.Encoder = delta.Encoder{Name: "go", Level: 99} }), whole, end), delta.ErrDamaged, "level"},
		"huge blocks":            {pack(t, 1, good(func(h *delta.Header) { h.Encoder = delta.Encoder{Name: "pgzip", Block: 1 << 40} }), whole, end), delta.ErrDamaged, "blocks"},
		"header is not JSON":     {pack(t, 1, "text", whole, end), delta.ErrDamaged, "header"},
		"huge header":            {append([]byte("krtdelta\x01"), binary.AppendUvarint(nil, 1<<40)...), delta.ErrDamaged, "header"},
		"too many bases":         {pack(t, 1, good(func(h *delta.Header) { h.Bases = make([]delta.Base, 17) }), whole, end), delta.ErrDamaged, "bases"},
		"base without a digest":  {pack(t, 1, good(func(h *delta.Header) { h.Bases[0].Digest = "sha256:no" }), whole, end), delta.ErrDamaged, "sha256:no"},
		"base of negative size":  {pack(t, 1, good(func(h *delta.Header) { h.Bases[0].Size = -1 }), whole, end), delta.ErrDamaged, ""},
		"tar beyond any deflate": {pack(t, 1, good(func(h *delta.Header) { h.Layer.TarSize = 1 << 40 }), whole, end), delta.ErrDamaged, "as a tar"},
		"tar far larger":         {pack(t, 1, good(func(h *delta.Header) { h.Layer.Size, h.Layer.TarSize = 1<<30, 33<<30 }), whole, end), delta.ErrWork, "for a layer of"},
		"far larger base":        {pack(t, 1, good(func(h *delta.Header) { h.Bases[0].Size, h.Bases[0].TarSize = 1<<29, 1<<29 }), whole, end), delta.ErrWork, "for a layer of 24"},
		"base far larger as tar": {pack(t, 1, good(func(h *delta.Header) { h.Bases[0].Size, h.Bases[0].TarSize = 1<<21, 1<<31 }), whole, end), delta.ErrWork, "for a layer of 24"},
		"large bases": {pack(t, 1, good(func(h *delta.Header) {
			h.Bases = slices.Repeat([]delta.Base{{Digest: h.Bases[0].Digest, Size: 17 << 20, TarSize: 68 << 20}}, 16)
		}), whole, end), delta.ErrWork, "for a layer of 24"},
		"for another layer":      {pack(t, 1, good(func(h *delta.Header) { h.Layer.Digest = digest.FromBytes(base) }), whole, end), delta.ErrMismatch, ""},
		"gives other bytes":      {pack(t, 1, good(nil), part(t, control(1, 24, 0), nil, nil), end), delta.ErrMismatch, ""},
		"no end":                 {pack(t, 1, good(nil), whole), delta.ErrDamaged, ""},
		"no parts":               {pack(t, 1, good(nil), end), delta.ErrDamaged, "24 bytes of the tar are missing"},
		"something follows":      {pack(t, 1, good(nil), whole, end, end), delta.ErrDamaged, "after the end"},
		"part cut short":         {pack(t, 1, good(nil), whole[:len(whole)-1]), delta.ErrDamaged, ""},
		"huge section":           {pack(t, 1, good(nil), binary.AppendUvarint(nil, 1<<50), []byte{1}), delta.ErrDamaged, "section"},
		"section of other size":  {pack(t, 1, good(nil), append([]byte{whole[0] + 1}, whole[1:]...), end), delta.ErrDamaged, ""},
		"more than its section":  {pack(t, 1, good(nil), part(t, control(0, 24), nil, layer[1:]), end), delta.ErrDamaged, "section"},
		"less than its section":  {pack(t, 1, good(nil), part(t, control(0, 23), nil, layer), end), delta.ErrDamaged, "no operation"},
		"before the base":        {pack(t, 1, good(nil), part(t, control(1, 24, -1), nil, nil), end), delta.ErrDamaged, "bases"},
		"after the base":         {pack(t, 1, good(nil), part(t, control(1, 24, 17), nil, nil), end), delta.ErrDamaged, "bases"},
		"far after the base":     {pack(t, 1, good(nil), part(t, control(1, 24, 1<<63-1), nil, nil), end), delta.ErrDamaged, "bases"},
		"empty operation":        {pack(t, 1, good(nil), part(t, control(1, 0, 0), nil, nil), end), delta.ErrDamaged, "operation"},
		"bomb in a section":      {pack(t, 1, good(nil), part(t, control(0, 24), nil, bomb), end), delta.ErrDamaged, "no operation"},
		"bomb of copies":         {pack(t, 1, good(nil), part(t, bytes.Repeat(control(1, 40, -40), 100_000), nil, nil), end), delta.ErrDamaged, "with 24 of the tar left"},
		"tar larger than it is":  {pack(t, 1, good(func(h *delta.Header) { h.Layer.TarSize = 25_000 }), part(t, control(0, 25_000), nil, bomb[:25_000]), end), delta.ErrMismatch, "more bytes"},
		"base tar of other size": {pack(t, 1, good(func(h *delta.Header) { h.Bases[0].TarSize++ }), whole, end), delta.ErrDamaged, "as a tar"},
		"base tar smaller":       {pack(t, 1, good(func(h *delta.Header) { h.Bases[0].TarSize-- }), whole, end), delta.ErrDamaged, "more than 39 bytes"},
		"base of other size":     {pack(t, 1, good(func(h *delta.Header) { h.Bases[0].Size-- }), whole, end), nil, "does not match its digest"},
	} {
		got, err := apply(t, c.data, digest.FromBytes(layer), int64(len(layer)), sourceOf(base))
		if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for name, rest := range map[string][]byte{"extra": whole, "copies and extra": part(t, append(control(1, 2, 0), control(0, 22)...), nil, layer[2:])} {
		if got, err := apply(t, pack(t, 1, good(nil), rest, end), digest.FromBytes(layer), int64(len(layer)), sourceOf(base)); err != nil || !bytes.Equal(got, layer) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// slowContent returns what level 9 takes long for: much is similar, nothing is equal.
func slowContent(size int) []byte {
	random := rand.New(rand.NewPCG(1, 1))
	out := make([]byte, size)
	for i := range out {
		out[i] = byte('a' + random.IntN(2))
	}
	return out
}

// A layer that takes too long to make is refused, on both sides. What is waited for does not count.
func TestSlowLayers(t *testing.T) {
	t.Parallel()
	base := text(1, 5000)
	for _, encoder := range []delta.Encoder{{Name: "go", Level: 9}, {Name: "klauspost", Level: 9}, {Name: "pgzip", Level: 9, Block: 1 << 20}, {Name: "zlib", Level: 9}, {Name: "gnu", Level: 9}, {Name: "zstd", Level: 4}, {Name: "none"}} {
		content := slowContent(300_000)
		if encoder.Name == "none" {
			content = bytes.Repeat(content, 10)
		}
		h := headerFor(content, int64(len(content)), base)
		h.Encoder = encoder
		// The operations have a byte each, from both ends of the base.
		ops := append(control(1, 1, 0), bytes.Repeat(append(control(1, 1, 4998), control(1, 1, -5000)...), 100_000)...)
		ops = append(ops, control(0, uint64(len(content)-200_001))...)
		data := pack(t, 1, h, part(t, ops, nil, content[200_001:]), []byte{0})
		d, err := delta.Open(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		body, err := d.Apply(t.Context(), h.Layer.Digest, h.Layer.Size, sourceOf(base), delta.Options{MaxTime: time.Microsecond})
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(io.Discard, body)
		if err = errors.Join(err, body.Close()); !errors.Is(err, delta.ErrWork) || !strings.Contains(err.Error(), h.Layer.Digest.String()) {
			t.Errorf("%s: %v", encoder, err)
		}
	}
	layer := goGzip(t, slowContent(300_000))
	dir := t.TempDir()
	_, err := delta.Make(t.Context(), io.Discard, layerOf(layer), []delta.Layer{layerOf(base)}, delta.Options{Dir: dir, MaxTime: time.Microsecond})
	if !errors.Is(err, delta.ErrWork) {
		t.Errorf("make: %v", err)
	}
	if err := leftOver(dir); err != nil {
		t.Error(err)
	}
	data, _ := makeDelta(t, layer, base)
	const limit = 2 * time.Second
	d, err := delta.Open(&slowReader{bytes.NewReader(data), limit})
	if err != nil {
		t.Fatal(err)
	}
	body, err := d.Apply(t.Context(), digest.FromBytes(layer), int64(len(layer)), sourceOf(base), delta.Options{MaxTime: limit})
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if got, err := io.ReadAll(&slowReader{body, limit}); err != nil || !bytes.Equal(got, layer) {
		t.Errorf("%d bytes: %v", len(got), err)
	}
}

// slowReader waits after the first read.
type slowReader struct {
	io.Reader
	pause time.Duration
}

func (r *slowReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p[:min(len(p), 1000)])
	time.Sleep(r.pause)
	r.pause = 0
	return n, err
}

// A base that is far larger than its layer is not read: Make keeps to what Apply refuses.
func TestBasesThatAreTooLarge(t *testing.T) {
	t.Parallel()
	before, after := smallVersions(t)
	base, layer := goGzip(t, before), goGzip(t, after)
	huge := layerOf(make([]byte, 1<<20))
	huge.Size = 1 << 40
	var out bytes.Buffer
	made, err := delta.Make(t.Context(), &out, layerOf(layer), []delta.Layer{huge, layerOf(base)}, delta.Options{})
	if err != nil || len(made.Bases) != 1 {
		t.Fatalf("%+v, %v", made, err)
	}
	if got, err := apply(t, out.Bytes(), digest.FromBytes(layer), int64(len(layer)), sourceOf(base)); err != nil || !bytes.Equal(got, layer) {
		t.Error(err)
	}
}

// A base that is absent or damaged is an error that names it, before anything is made.
func TestAbsentAndDamagedBases(t *testing.T) {
	t.Parallel()
	before, after := smallVersions(t)
	base, layer := goGzip(t, before), goGzip(t, after)
	data, _ := makeDelta(t, layer, base)
	damagedBase := func(change func([]byte) []byte) delta.Source {
		return func(context.Context, delta.Base) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(change(bytes.Clone(base)))), nil
		}
	}
	for name, open := range map[string]delta.Source{
		"absent":         sourceOf(),
		"flipped byte":   damagedBase(func(b []byte) []byte { b[len(b)/2] ^= 1; return b }),
		"flipped header": damagedBase(func(b []byte) []byte { b[5] ^= 1; return b }),
		"cut short":      damagedBase(func(b []byte) []byte { return b[:len(b)/2] }),
		"longer":         damagedBase(func(b []byte) []byte { return append(b, 0) }),
		"no content":     damagedBase(func([]byte) []byte { return nil }),
	} {
		_, err := apply(t, data, digest.FromBytes(layer), int64(len(layer)), open)
		var of *delta.BaseError
		if !errors.As(err, &of) || of.Base != digest.FromBytes(base) || errors.Is(err, os.ErrNotExist) != (name == "absent") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A delta that is cut short anywhere, or has a wrong byte anywhere, gives no layer.
func TestDamagedDeltas(t *testing.T) {
	t.Parallel()
	old := packTar(t, file{"program", program(1, 40)}, file{"licence", text(1, 3000)})
	layer := goGzip(t, packTar(t, file{"program", program(1, 40, 7)}, file{"licence", text(1, 3000)}, file{"new", text(2, 500)}))
	base := goGzip(t, old)
	data, _ := makeDelta(t, layer, base)
	for i := 0; i < len(data); i += 1 + i/64 {
		if _, err := apply(t, data[:i], digest.FromBytes(layer), int64(len(layer)), sourceOf(base)); err == nil {
			t.Errorf("cut at byte %d of %d: no error", i, len(data))
		}
	}
	for i := range data {
		if i%3 > 0 && i > 500 {
			continue
		}
		changed := bytes.Clone(data)
		changed[i] ^= 1 << (i % 8)
		got, err := apply(t, changed, digest.FromBytes(layer), int64(len(layer)), sourceOf(base))
		if err == nil && !bytes.Equal(got, layer) {
			t.Errorf("byte %d of %d: other bytes and no error", i, len(data))
		}
	}
}

// A reader that is closed early ends the work and removes its files.
func TestCloseEarly(t *testing.T) {
	t.Parallel()
	before, after := smallVersions(t)
	base, layer := goGzip(t, before), goGzip(t, after)
	data, _ := makeDelta(t, layer, base)
	dir := t.TempDir()
	for _, read := range []int64{0, 1, 100_000} {
		d, err := delta.Open(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		body, err := d.Apply(t.Context(), digest.FromBytes(layer), int64(len(layer)), sourceOf(base), delta.Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, body, read); err != nil {
			t.Error(err)
		}
		if err := errors.Join(body.Close(), body.Close(), leftOver(dir)); err != nil {
			t.Error(err)
		}
	}
}

// Interrupted, nothing goes on.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	before, after := smallVersions(t)
	base, layer := goGzip(t, before), goGzip(t, after)
	data, _ := makeDelta(t, layer, base)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	if _, err := delta.Make(ctx, io.Discard, layerOf(layer), []delta.Layer{layerOf(base)}, delta.Options{Dir: dir}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	d, err := delta.Open(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Apply(ctx, digest.FromBytes(layer), int64(len(layer)), sourceOf(base), delta.Options{Dir: dir}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := leftOver(dir); err != nil {
		t.Error(err)
	}
}

// No delta crashes the reader, or has it make more than the layer.
func FuzzApply(f *testing.F) {
	old := packTar(f, file{"program", program(1, 40)})
	base := goGzip(f, old)
	layer := goGzip(f, packTar(f, file{"program", program(1, 40, 7)}, file{"new", text(2, 500)}))
	var out bytes.Buffer
	if _, err := delta.Make(context.Background(), &out, layerOf(layer), []delta.Layer{layerOf(base)}, delta.Options{}); err != nil {
		f.Fatal(err)
	}
	f.Add(out.Bytes())
	plain := []byte("a layer of 24 bytes long")
	f.Add(pack(f, 1, headerFor(plain, 24, base), part(f, control(0, 24), nil, plain), []byte{0}))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := delta.Open(bytes.NewReader(data))
		if err != nil || d.Layer.Size > 1<<20 {
			return // the caller's descriptor is the cap
		}
		body, err := d.Apply(t.Context(), d.Layer.Digest, d.Layer.Size, sourceOf(base), delta.Options{MaxTime: time.Second})
		if err != nil {
			return
		}
		defer body.Close()
		made, err := io.ReadAll(body)
		if int64(len(made)) > d.Layer.Size || err == nil && digest.FromBytes(made) != d.Layer.Digest {
			t.Errorf("%d bytes, %v", len(made), err)
		}
	})
}
