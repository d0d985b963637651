package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/internal/registrytest"
)

// flips changes a byte of some requests or answers, as often as left says.
type flips struct {
	left    atomic.Int64
	happens atomic.Int64
	// method and path are those of the requests; sends is set if it is the request's content.
	method, path string
	sends        bool
}

func (f *flips) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method != f.method || !strings.Contains(req.URL.Path, f.path) || f.left.Add(-1) < 0 {
			next.ServeHTTP(w, req)
			return
		}
		flip := func(data []byte) {
			if i := bytes.Index(data, []byte("changes here")); i >= 0 {
				f.happens.Add(1)
				data[i] ^= 1
			}
		}
		if f.sends {
			data, _ := io.ReadAll(req.Body)
			flip(data)
			req.Body = io.NopCloser(bytes.NewReader(data))
			next.ServeHTTP(w, req)
			return
		}
		answer := httptest.NewRecorder()
		next.ServeHTTP(answer, req)
		flip(answer.Body.Bytes())
		for key, values := range answer.Header() {
			w.Header()[key] = values
		}
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes())
	})
}

// blobToFlip is a blob in which a byte is changed.
func blobToFlip(size int) []byte { return append(make([]byte, size), "changes here"...) }

// manifestToFlip is a manifest without layers, in which a byte is changed.
func manifestToFlip(t *testing.T, text string) []byte {
	t.Helper()
	data, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: content.NewDescriptorFromBytes("text/plain", blobToFlip(100)), Layers: []ocispec.Descriptor{},
		Annotations: map[string]string{"a": "changes here" + text},
	})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// A byte that changes once on the way is read or sent again, also where a registry does not describe its
// answers; one that changes each time is an error about the digest.
func TestFlippedBytes(t *testing.T) {
	t.Parallel()
	type operation struct {
		name, method, path string
		sends              bool
		// do is given what is in the repository, under the tag v1.
		do func(ctx context.Context, repo *Repository, manifest, blob ocispec.Descriptor) error
	}
	operations := []operation{
		{"a manifest", http.MethodGet, "/manifests/sha256:", false, func(ctx context.Context, repo *Repository, m, _ ocispec.Descriptor) error {
			_, err := content.FetchAll(ctx, repo, m)
			return err
		}},
		{"the manifest of a tag", http.MethodGet, "/manifests/v1", false, func(ctx context.Context, repo *Repository, m, _ ocispec.Descriptor) error {
			desc, _, err := repo.FetchReference(ctx, "v1")
			if err == nil && desc.Digest != m.Digest {
				err = errors.New("another digest")
			}
			return err
		}},
		{"a small blob", http.MethodGet, "/blobs/", false, func(ctx context.Context, repo *Repository, _, b ocispec.Descriptor) error {
			_, err := content.FetchAll(ctx, repo, b)
			return err
		}},
		{"a manifest that is written", http.MethodPut, "/manifests/sha256:", true, func(ctx context.Context, repo *Repository, _, _ ocispec.Descriptor) error {
			data := manifestToFlip(t, " and is another one")
			return repo.Push(ctx, content.NewDescriptorFromBytes(ocispec.MediaTypeImageManifest, data), bytes.NewReader(data))
		}},
		{"a tag that is set", http.MethodPut, "/manifests/v2", true, func(ctx context.Context, repo *Repository, m, _ ocispec.Descriptor) error {
			if err := repo.Tag(ctx, m, "v2"); err != nil {
				return err
			}
			at, err := repo.Resolve(ctx, "v2")
			if err == nil && at.Digest != m.Digest {
				err = errors.New("the tag names what was never sent")
			}
			return err
		}},
		{"a blob that cannot be read again", http.MethodPut, "/blobs/uploads/", true, func(ctx context.Context, repo *Repository, _, _ ocispec.Descriptor) error {
			data := blobToFlip(2 << 20)
			return repo.Push(ctx, content.NewDescriptorFromBytes("text/plain", data), io.MultiReader(bytes.NewReader(data)))
		}},
	}
	for _, o := range []registrytest.Options{
		{Kind: registrytest.Distribution3}, {}, {Kind: registrytest.GGCR}, {Quirks: []registrytest.Quirk{registrytest.PlainMediaTypes}},
		{Quirks: []registrytest.Quirk{registrytest.HeadWithoutDigest}}, {Quirks: []registrytest.Quirk{registrytest.HeadRefused}},
	} {
		t.Run(o.String(), func(t *testing.T) {
			t.Parallel()
			f := &flips{}
			o.Middleware = f.wrap
			r := registrytest.StartRegistry(t, o)
			for _, op := range operations {
				if op.path == "/manifests/v1" && len(o.Quirks) > 0 && o.Quirks[0] == registrytest.HeadWithoutDigest {
					continue // nobody says what the digest is
				}
				for _, times := range []int64{1, 1000} {
					repo, err := newClient(t, Options{Backoff: func(int) time.Duration { return time.Millisecond }}).Repository(t.Context(), r.Host+"/"+strings.ReplaceAll(op.name, " ", "-"))
					if err != nil {
						t.Fatal(err)
					}
					blob, data := blobToFlip(100), manifestToFlip(t, "")
					b, m := content.NewDescriptorFromBytes("text/plain", blob), content.NewDescriptorFromBytes(ocispec.MediaTypeImageManifest, data)
					f.left.Store(0)
					err = errors.Join(repo.Push(t.Context(), b, bytes.NewReader(blob)), repo.Push(t.Context(), m, bytes.NewReader(data)), repo.Tag(t.Context(), m, "v1"))
					if err != nil {
						t.Fatal(err)
					}
					f.method, f.path, f.sends = op.method, op.path, op.sends
					f.happens.Store(0)
					f.left.Store(times)
					err = op.do(t.Context(), repo, m, b)
					if f.happens.Load() == 0 {
						t.Errorf("%s: no byte was changed", op.name)
					}
					if times == 1 && err != nil {
						t.Errorf("%s, changed once: %v", op.name, err)
					}
					// olareg has another code for blobs.
					if times > 1 && !errors.Is(err, content.ErrMismatchedDigest) && !(op.path == "/blobs/uploads/" && isStatus(err, http.StatusBadRequest)) {
						t.Errorf("%s, changed each time: %v", op.name, err)
					}
				}
			}
		})
	}
}

// wire is a TCP proxy that changes a byte of what goes to a client, or to the server, once it is armed.
type wire struct {
	address          string
	toClient, toHost atomic.Int64 // how many bytes pass before; below 0 it is not armed

	mu   sync.Mutex
	open []net.Conn
}

// cut ends the connections that there are.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.open {
		c.Close()
	}
	w.open = nil
}

func newWire(t *testing.T, target string) *wire {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	w := &wire{address: listener.Addr().String()}
	w.toClient.Store(-1)
	w.toHost.Store(-1)
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			host, err := net.Dial("tcp", target)
			if err != nil {
				client.Close()
				return
			}
			w.mu.Lock()
			w.open = append(w.open, client, host)
			w.mu.Unlock()
			go pass(host, client, &w.toHost)
			go pass(client, host, &w.toClient)
		}
	}()
	return w
}

func pass(to, from net.Conn, after *atomic.Int64) {
	defer to.Close()
	defer from.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if left := after.Load(); left >= 0 && n > 0 {
			if left < int64(n) && after.CompareAndSwap(left, -1) {
				buffer[left] ^= 1
			} else {
				after.Add(-int64(n))
			}
		}
		if _, failed := to.Write(buffer[:n]); err != nil || failed != nil {
			return
		}
	}
}

// A byte that changes on the wire ends a connection of TLS, wherever it is: what was asked is asked again.
func TestFlippedWire(t *testing.T) {
	t.Parallel()
	r := registrytest.StartRegistry(t, registrytest.Options{TLS: true})
	w := newWire(t, r.Host)
	noise := make([]byte, 700<<10)
	rand.NewChaCha8([32]byte{9}).Read(noise)
	open := func() *Repository {
		client := newClient(t, Options{CAFile: r.CAFile, Backoff: func(int) time.Duration { return time.Millisecond }})
		repo, err := client.Repository(t.Context(), w.address+"/wire")
		if err != nil {
			t.Fatal(err)
		}
		return repo
	}
	repo := open()
	blob := content.NewDescriptorFromBytes("text/plain", noise)
	data := manifestToFlip(t, strings.Repeat("long", 100<<10))
	manifest := content.NewDescriptorFromBytes(ocispec.MediaTypeImageManifest, data)
	config := blobToFlip(100)
	if err := repo.Push(t.Context(), content.NewDescriptorFromBytes("text/plain", config), bytes.NewReader(config)); err != nil {
		t.Fatal(err)
	}
	for _, after := range []int64{0, 40, 300, 5_000, 100_000, 300_000} {
		w.toHost.Store(after)
		if err := repo.Push(t.Context(), blob, bytes.NewReader(noise)); err != nil {
			t.Errorf("a blob that is written, byte %d: %v", after, err)
		}
		w.toHost.Store(after)
		if err := repo.Push(t.Context(), manifest, bytes.NewReader(data)); err != nil {
			t.Errorf("a manifest that is written, byte %d: %v", after, err)
		}
		w.toHost.Store(-1)
		w.toClient.Store(after)
		if _, err := content.FetchAll(t.Context(), repo, manifest); err != nil {
			t.Errorf("a manifest, byte %d: %v", after, err)
		}
		w.toClient.Store(after)
		if _, _, err := repo.FetchReference(t.Context(), manifest.Digest.String()); err != nil {
			t.Errorf("a manifest that is asked for, byte %d: %v", after, err)
		}
		w.toClient.Store(after)
		if _, err := content.FetchAll(t.Context(), repo, blob); err != nil {
			t.Errorf("a blob, byte %d: %v", after, err)
		}
		w.toClient.Store(-1)
	}
	for _, after := range []int64{200, 400, 600} {
		fresh := open()
		w.cut()
		w.toClient.Store(after)
		if _, err := content.FetchAll(t.Context(), fresh, manifest); err != nil {
			t.Errorf("a connection that begins, byte %d: %v", after, err)
		}
		w.toClient.Store(-1)
	}
}
