package delta_test

import (
	"bytes"
	"compress/flate"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"krtpkg.dev/krtpkg/pkg/delta"
)

// zlibContent has programs, text, zeros and noise, and is longer than the window several times over.
func zlibContent() []byte {
	random := rand.New(rand.NewPCG(5, 5))
	noise := make([]byte, 90_000)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	return bytes.Join([][]byte{program(7, 900), make([]byte, 70_000), text(1, 150_000), noise, text(2, 40_000), program(8, 100)}, nil)
}

// zlibVectors are what zlib 1.2.13 and GNU gzip 1.12 give for the content: by level the beginning of the SHA-256 of
// the deflate stream. KRTPKG_WRITE_ZLIB=FILE writes the content, for
//
//	python3 -c 'import sys,zlib; c=zlib.compressobj(LEVEL,8,-15); d=open("FILE","rb").read(); sys.stdout.buffer.write(c.compress(d)+c.flush())' | sha256sum
//	gzip -n -LEVEL < FILE | tail -c +11 | head -c -8 | sha256sum
var zlibVectors = map[string][9]string{
	"zlib": {"8e219f1835c54e8f", "ad4508cea5a102e7", "033f00590aa622f1", "b199867f23c46c64", "bf71c6910bbd10a4", "4d0cf34046d124e8", "5bfbb02f56e0838e", "2affef6ac3cb8ff2", "f329e55dd929f9b2"},
	"gnu":  {"87917f247911000e", "3fca949e843bead7", "daa00a45d3317fbe", "94e272a44e2a9183", "d71e5900a3a49ae5", "f2ad1c8646294aac", "dc3fb200d7750682", "4035ad4a3a125f23", "a80b4505ef2c3779"},
}

// What zlib and GNU gzip give is given again, at every level.
func TestZlibVectors(t *testing.T) {
	t.Parallel()
	content := zlibContent()
	if name := os.Getenv("KRTPKG_WRITE_ZLIB"); name != "" {
		if err := os.WriteFile(name, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, vectors := range zlibVectors {
		for i, want := range vectors {
			e := delta.Encoder{Name: name, Level: i + 1}
			var out bytes.Buffer
			if err := delta.CompressTo(t.Context(), &out, e, bytes.NewReader(content)); err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprintf("%x", sha256.Sum256(out.Bytes()[:out.Len()-8])); !strings.HasPrefix(got, want) || want == "" {
				t.Errorf("%s: %s, want %s", e, got, want)
			}
		}
	}
}

// Whatever is compressed comes out again, from nothing to the edges of the window.
func TestZlibRoundTrip(t *testing.T) {
	t.Parallel()
	content := zlibContent()
	for _, size := range []int{0, 1, 2, 3, 257, 258, 261, 262, 32_767, 32_768, 65_273, 65_274, 65_275, 65_535, 65_536, 65_537, 98_304, 131_072} {
		for _, name := range []string{"zlib", "gnu"} {
			for _, level := range []int{1, 3, 4, 6, 9} {
				var out bytes.Buffer
				in := content[len(content)-size:]
				if err := delta.CompressTo(t.Context(), &out, delta.Encoder{Name: name, Level: level}, bytes.NewReader(in)); err != nil {
					t.Fatal(err)
				}
				if got, err := io.ReadAll(flate.NewReader(&out)); err != nil || !bytes.Equal(got, in) {
					t.Errorf("%s -%d of %d bytes: %d bytes, %v", name, level, size, len(got), err)
				}
			}
		}
	}
}

// Layers of jib and bazel, and of GNU gzip, are made from deltas.
func TestDeltasOfZlib(t *testing.T) {
	t.Parallel()
	before, after := smallVersions(t)
	for _, e := range []delta.Encoder{{Name: "zlib", Level: 6}, {Name: "zlib", Level: 1}, {Name: "gnu", Level: 6}, {Name: "gnu", Level: 9}} {
		out := bytes.NewBuffer([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3})
		if err := delta.CompressTo(t.Context(), out, e, bytes.NewReader(after)); err != nil {
			t.Fatal(err)
		}
		layer := out.Bytes()
		data, made := makeDelta(t, layer, before)
		if made.Encoder != e || len(data) > len(layer)/10 {
			t.Errorf("%s: found as %s, %d bytes of %d", e, made.Encoder, len(data), len(layer))
		}
		got, err := apply(t, data, digest.FromBytes(layer), int64(len(layer)), sourceOf(before))
		if err != nil || !bytes.Equal(got, layer) {
			t.Errorf("%s: %v", e, err)
		}
	}
}
