package transfer_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/delta"
	"krtpkg.dev/krtpkg/pkg/registry"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

// longLayer returns a layer that is uploaded in several parts.
func longLayer(t *testing.T, release byte) []byte {
	t.Helper()
	data := make([]byte, 10<<20)
	rand.NewChaCha8([32]byte{}).Read(data)
	data[5<<20] = release
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, 1)
	if err == nil {
		_, err = z.Write(data)
	}
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// uploadsLeft returns the files of uploads that a registry has in a folder. When distribution has removed an upload it
// writes the state of its hash once more: that is no upload.
func uploadsLeft(t *testing.T, dir string) (left []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && strings.Contains(name, "/_uploads/") && !strings.Contains(name, "/hashstates/") {
			left = append(left, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return left
}

// A delta that is known to be wrong only at its end leaves no upload behind, neither at the registry nor recorded to be
// resumed: the whole layer is sent from its beginning, once.
func TestWrongDeltasLeaveNoUpload(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := func(release byte) ocispec.Descriptor {
		return w.runtime(w.bundle("a", w.imageOfLayers("amd64", longLayer(t, release))))
	}
	before, after := root(0), root(1)
	src := open(t, registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Olareg}), "krt/edge")
	complete := newLayout(t)
	for _, root := range []ocispec.Descriptor{before, after} {
		w.mustCopy(root, src)
		w.mustCopy(root, complete)
	}
	manifest := publishDeltas(t, src, before, after)
	good := listDeltas(t, src, manifest)[0]
	right, err := content.FetchAll(t.Context(), src, good)
	if err != nil {
		t.Fatal(err)
	}
	// The first byte that it makes wrong stands in the header of gzip: all that follows has the right size.
	wrong := withHeader(t, right, func(h *delta.Header) { h.GzipHeader[4] ^= 1 })
	desc := put(t, src, archive.TypeDelta, wrong)
	desc.Annotations = good.Annotations
	putDeltas(t, src, after, desc)
	if err := src.(content.Deleter).Delete(t.Context(), manifest); err != nil {
		t.Fatal(err)
	}
	layer, err := archive.ParseDelta(good)
	if err != nil {
		t.Fatal(err)
	}
	plan, base := planOf(t, complete, after, transfer.Options{}), planOf(t, complete, before, transfer.Options{})
	deltas, contents := deltaArchive(t, plan, base, transfer.DeltaOptions{})
	file := writeDeltas(t, plan, deltas, contents)[0]
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	const field = `"gzipHeader":"`
	at := bytes.Index(data, []byte(field)) + len(field) + 6
	data[at] = 'A' + 'B' - data[at] // the same byte, in base64
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []registrytest.Kind{registrytest.Distribution3, registrytest.Distribution2, registrytest.Olareg} {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			dir, state := t.TempDir(), t.TempDir()
			r := registrytest.StartRegistry(t, registrytest.Options{Kind: kind, Dir: dir, Record: true})
			client, err := registry.New(registry.Options{StateDir: state})
			if err != nil {
				t.Fatal(err)
			}
			dst, err := client.Repository(t.Context(), r.Host+"/krt/site")
			if err != nil {
				t.Fatal(err)
			}
			w.mustCopy(before, dst)
			sentBefore := len(r.Requests())
			copyWhole(t, src, dst, after, "does not produce this layer", transfer.Options{MoveTags: true, TemporaryDir: t.TempDir()})
			equal(t, contentOf(t, dst, after), contentOf(t, complete, after))
			bytesSent, refused := int64(0), 0
			for _, request := range r.Requests()[sentBefore:] {
				if strings.Contains(request.Path, "/blobs/uploads/") {
					bytesSent += request.Received
					if request.Method == http.MethodPut && request.Status >= 400 {
						refused++
					}
				}
			}
			if refused > 0 || bytesSent > 2*layer.Layer.Size+100_000 {
				t.Errorf("%d uploads were refused, %d bytes sent for a layer of %d", refused, bytesSent, layer.Layer.Size)
			}
			if left := uploadsLeft(t, dir); len(left) > 0 {
				t.Errorf("uploads are left: %q", left)
			}
			noFiles(t, state)
			for _, way := range []string{"file", "stream"} {
				site, err := client.Repository(t.Context(), r.Host+"/krt/"+way)
				if err != nil {
					t.Fatal(err)
				}
				w.mustCopy(before, site)
				err = importWays[way](t, []string{file}, site, transfer.Options{TemporaryDir: t.TempDir(), MoveTags: true})
				if !errors.Is(err, delta.ErrMismatch) && !errors.Is(err, delta.ErrDamaged) {
					t.Errorf("import from a %s: %v", way, err)
				}
				noFiles(t, state)
				if left := uploadsLeft(t, dir); len(left) > 0 {
					t.Errorf("import from a %s leaves %q", way, left)
				}
			}
			// The process is killed while content is sent that may be wrong: what follows must not go on there.
			lost := content.NewDescriptorFromBytes(ocispec.MediaTypeImageLayer, longLayer(t, 2))
			ctx, cancel := context.WithCancel(t.Context())
			if err := dst.Push(ctx, lost, &interrupted{bytes.NewReader(longLayer(t, 3)), 9 << 20, cancel, state, t}); !errors.Is(err, context.Canceled) {
				t.Errorf("interrupted: %v", err)
			}
			noFiles(t, state)
			if left := uploadsLeft(t, dir); len(left) > 0 {
				t.Errorf("interrupted, uploads are left: %q", left)
			}
		})
	}
}

// interrupted is content of a layer that is made, until the user interrupts.
type interrupted struct {
	io.Reader
	left   int
	cancel context.CancelFunc
	state  string
	t      *testing.T
}

func (*interrupted) IsTentative() bool { return true }

func (i *interrupted) Read(p []byte) (int, error) {
	n, err := i.Reader.Read(p)
	if i.left -= n; i.left < 0 {
		noFiles(i.t, i.state) // what a process leaves that is killed now
		i.cancel()
	}
	return n, err
}
