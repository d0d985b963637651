package transfer_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"

	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/internal/signtest"
	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/registry"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

const (
	// large is the size of the one blob that is worth going on with.
	large = 12 << 20
	// inFlight is what may be sent twice after a break: the buffers of the sockets between the
	// tool, the proxy and the registry, 6 MiB at most for each way on Linux's defaults.
	inFlight = 5 << 20
)

// line stands between the tool and a real registry, and counts the bytes of blobs that cross.
type line struct {
	registry *registrytest.Registry
	mu       sync.Mutex
	faults   map[string]fault
	up, down map[string]*atomic.Int64
}

func newLine(t *testing.T, o registrytest.Options) *line {
	l := &line{faults: map[string]fault{}, up: map[string]*atomic.Int64{}, down: map[string]*atomic.Int64{}}
	o.Middleware = func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { l.serve(next, w, r) })
	}
	l.registry = registrytest.StartRegistry(t, o)
	return l
}

// set puts a fault before a repository, or none.
func (l *line) set(repository string, f fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults[repository] = f
	if l.up[repository] == nil {
		l.up[repository], l.down[repository] = &atomic.Int64{}, &atomic.Int64{}
	}
}

func (l *line) serve(next http.Handler, w http.ResponseWriter, r *http.Request) {
	name, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/edge/")
	l.mu.Lock()
	f, up, down := l.faults[name+"/edge"], l.up[name+"/edge"], l.down[name+"/edge"]
	l.mu.Unlock()
	if up != nil && strings.Contains(r.URL.Path, "/blobs/") {
		r.Body = &counted{r.Body, up}
		w = &countedWriter{w, down}
	}
	if f != nil {
		f(next, w, r)
		return
	}
	next.ServeHTTP(w, r)
}

type counted struct {
	io.ReadCloser
	n *atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n.Add(int64(n))
	return n, err
}

type countedWriter struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *countedWriter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n.Add(int64(n))
	return n, err
}

func (c *countedWriter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// Faults that happen to a request, some of them in the middle.

func status(code int, header ...string) fault {
	return func(_ http.Handler, w http.ResponseWriter, r *http.Request) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		http.Error(w, `{"errors":[{"code":"INJECTED","message":"injected"}]}`, code)
	}
}

// midway lets so many bytes of a large answer or upload through and then does something.
func midway(after int64, then func()) fault {
	return func(next http.Handler, w http.ResponseWriter, r *http.Request) {
		switch {
		case r.ContentLength > after:
			r.Body = &brokenBody{r.Body, after, then}
		case r.Method == http.MethodGet:
			w = &brokenWriter{w, after, then}
		}
		next.ServeHTTP(w, r)
	}
}

type brokenBody struct {
	io.ReadCloser
	left int64
	then func()
}

func (b *brokenBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		b.then()
		return 0, errors.New("injected")
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

type brokenWriter struct {
	http.ResponseWriter
	left int64
	then func()
}

func (b *brokenWriter) Write(p []byte) (int, error) {
	if b.left <= 0 {
		http.NewResponseController(b.ResponseWriter).Flush()
		b.then()
		panic(http.ErrAbortHandler)
	}
	n, err := b.ResponseWriter.Write(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	if err == nil && n < len(p) {
		return b.Write(p[n:])
	}
	return n, err
}

func (b *brokenWriter) Unwrap() http.ResponseWriter { return b.ResponseWriter }

func nothing() {}

// when puts a fault before the requests that it is for.
func when(is func(r *http.Request) bool, f fault) fault {
	return func(next http.Handler, w http.ResponseWriter, r *http.Request) {
		if is(r) {
			f(next, w, r)
			return
		}
		next.ServeHTTP(w, r)
	}
}

// times returns a fault that happens so often and then no more.
func times(n int64, is func(r *http.Request) bool, f fault) fault {
	var seen atomic.Int64
	return when(func(r *http.Request) bool { return is(r) && seen.Add(1) <= n }, f)
}

func isGet(part string) func(*http.Request) bool {
	return func(r *http.Request) bool { return r.Method == http.MethodGet && strings.Contains(r.URL.Path, part) }
}

func isBig(digest string) func(*http.Request) bool { return isGet("/blobs/" + digest) }

func isUpload(r *http.Request) bool {
	return (r.Method == http.MethodPut || r.Method == http.MethodPatch) && r.ContentLength > large/4
}

func method(m, part string) func(*http.Request) bool {
	return func(r *http.Request) bool { return r.Method == m && strings.Contains(r.URL.Path, part) }
}

// both puts two faults before a line.
func and(a, b fault) fault {
	return func(next http.Handler, w http.ResponseWriter, r *http.Request) {
		a(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { b(next, w, r) }), w, r)
	}
}

func changed(next http.Handler, w http.ResponseWriter, r *http.Request) {
	next.ServeHTTP(&flipped{ResponseWriter: w}, r)
}

// changedBody changes a bit in the first byte of a request.
func changedBody(next http.Handler, w http.ResponseWriter, r *http.Request) {
	body := r.Body
	r.Body = struct {
		io.Reader
		io.Closer
	}{&flippedReader{Reader: body}, body}
	next.ServeHTTP(w, r)
}

type flippedReader struct {
	io.Reader
	done bool
}

func (f *flippedReader) Read(p []byte) (int, error) {
	n, err := f.Reader.Read(p)
	if !f.done && n > 0 {
		f.done = true
		p[0] ^= 1
	}
	return n, err
}

// flipped changes a bit in the first byte of an answer.
type flipped struct {
	http.ResponseWriter
	done bool
}

func (f *flipped) Write(p []byte) (int, error) {
	if !f.done && len(p) > 0 {
		f.done = true
		p = append([]byte{p[0] ^ 1}, p[1:]...)
	}
	return f.ResponseWriter.Write(p)
}

func (f *flipped) Unwrap() http.ResponseWriter { return f.ResponseWriter }

// imageOf returns an image of one layer.
func (w *world) imageOf(layer []byte) ocispec.Descriptor {
	return put(w.t, w.origin, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: put(w.t, w.origin, ocispec.MediaTypeImageConfig, []byte("{}")),
		Layers: []ocispec.Descriptor{put(w.t, w.origin, ocispec.MediaTypeImageLayerGzip, layer)},
	})
}

// Everything that can go wrong between two real registries: in the end the target equals the
// source, or an error names the object and the cause; what was sent twice is counted; and no
// tag stands before its content.
func TestFaults(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	noise := make([]byte, large)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	layer := string(noise)
	root := w.runtime(w.bundle("first", w.index(w.imageOf(noise), w.image("base", "arm64"))), w.bundle("second", w.image("base", "more")))
	signed(t, w.dist, root, signtest.NewSigner(t))
	big := digestOf(layer).String()
	// One of each for all rows, which have a repository of their own.
	source, target := newLine(t, registrytest.Options{Kind: registrytest.Distribution3}), newLine(t, registrytest.Options{Kind: registrytest.Distribution3})
	every4 := func(f fault) fault { return every(4, f) }

	for _, c := range []struct {
		name           string
		source, target fault
		// want are parts of the error; none when the copy must succeed at once.
		want []string
		// within is how soon a hopeless copy must end.
		within time.Duration
		// again is set if the second run, without faults, may send a blob again.
		again bool
		// resent is set if a blob is sent a second time before it is given up.
		resent bool
		// breaks is how often a download may be begun again for a fault of the target.
		breaks int64
	}{
		{name: "429 for a share of requests", breaks: 5, source: every4(status(429)), target: every4(status(429))},
		{name: "429 with Retry-After", source: every4(status(429, "Retry-After", "1")), target: every(9, status(429, "Retry-After", "1"))},
		{name: "503 with Retry-After", source: every(9, status(503, "Retry-After", "1")), target: every(9, status(503, "Retry-After", "1"))},
		{name: "Retry-After of an hour at the source", source: when(isGet("/blobs/"), status(429, "Retry-After", "3600")), want: []string{"refuses requests for the next 1h0m0s"}, within: 3 * time.Second},
		{name: "Retry-After of an hour at the target", target: when(method("POST", "/uploads/"), status(429, "Retry-After", "3600")), want: []string{"refuses requests for the next 1h0m0s"}, within: 3 * time.Second},
		{name: "500 for a share of requests", breaks: 5, source: every4(status(500)), target: every4(status(500))},
		{name: "502 for a share of requests", breaks: 5, source: every4(status(502)), target: every4(status(502))},
		{name: "503 for a share of requests", breaks: 5, source: every4(status(503)), target: every4(status(503))},
		{name: "504 for a share of requests", breaks: 5, source: every4(status(504)), target: every4(status(504))},
		{name: "connections reset for a share of requests", source: every(5, reset), target: every(5, reset)},
		{name: "500 for ever at the source", source: when(isBig(big), status(500)), want: []string{"read " + big + " from source", "status code 500"}, within: 20 * time.Second},
		{name: "500 for ever at the target", target: when(method("POST", "/uploads/"), status(500)), want: []string{"write sha256:", "to target", "status code 500"}, within: 20 * time.Second},
		{name: "a download reset in the middle", source: times(1, isBig(big), midway(5<<20, nothing))},
		{name: "a download reset five times", source: times(5, isBig(big), midway(2<<20, nothing))},
		{name: "a download reset, and no ranges", source: and(times(1, isBig(big), midway(5<<20, nothing)), when(isBig(big), func(next http.Handler, w http.ResponseWriter, r *http.Request) {
			r.Header.Del("Range")
			next.ServeHTTP(w, r)
		}))},
		{name: "a download that stands still", source: times(1, isBig(big), midway(5<<20, func() { time.Sleep(2 * time.Second) }))},
		{name: "a download that never begins", source: times(2, isBig(big), func(next http.Handler, w http.ResponseWriter, r *http.Request) {
			select {
			case <-time.After(2 * time.Second):
			case <-r.Context().Done():
			}
			panic(http.ErrAbortHandler)
		})},
		{name: "manifests cut", source: once(http.MethodGet, "/manifests/sha256:", cut)},
		{name: "a byte of a blob changed once on the way", source: times(1, isBig(big), changed), breaks: 2, again: true},
		{name: "a byte of a small blob changed once on the way", source: times(1, isGet("/blobs/"+digestOf("more").String()), changed), breaks: 2},
		{name: "a byte of a manifest changed once on the way", source: times(1, isGet("/manifests/sha256:"), changed)},
		{name: "a byte of a list changed once on the way", source: times(1, isGet("/manifests/sha256-"), changed), target: times(1, isGet("/manifests/sha256-"), changed)},
		{name: "a byte of a blob changed once before the target", target: times(1, isUpload, changedBody), breaks: 2, again: true},
		{name: "a byte of a manifest changed once before the target", target: times(1, method("PUT", "/manifests/sha256:"), changedBody)},
		{name: "wrong bytes of the right length", source: when(isBig(big), changed), want: []string{"read " + big + " from source", "digest"}, again: true, resent: true},
		{name: "a body that is longer than said", source: when(isBig(big), func(next http.Handler, w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusOK)
			next.ServeHTTP(w, r)
			w.Write([]byte("more"))
		}), want: []string{big, "trailing data"}, again: true},
		{name: "a body of another length", source: when(isBig(big), func(_ http.Handler, w http.ResponseWriter, _ *http.Request) {
			w.Write([]byte("short"))
		}), want: []string{"read " + big + " from source", "has 5 bytes", fmt.Sprint("want ", large)}},
		{name: "a blob that is gone", source: when(isBig(big), status(404)), want: []string{"read " + big + " from source", "not found"}, within: 2 * time.Second},
		{name: "403 at the source", source: when(isBig(big), status(403)), want: []string{"read " + big + " from source", "status code 403"}, within: 2 * time.Second},
		{name: "401 at the source", source: when(isBig(big), status(401)), want: []string{"read " + big + " from source", "status code 401"}, within: 2 * time.Second},
		{name: "listings of referrers that fail at first", source: times(2, isGet("/manifests/sha256-"), status(500)), target: times(2, isGet("/manifests/sha256-"), status(500))},
		{name: "an upload reset in the middle", target: times(1, isUpload, midway(5<<20, nothing))},
		{name: "an upload reset five times", breaks: 5, target: times(5, isUpload, midway(2<<20, nothing))},
		{name: "an upload that stands still", target: times(1, isUpload, midway(5<<20, func() { time.Sleep(2 * time.Second) }))},
		{name: "an upload's session lost", target: times(1, isUpload, status(404)), again: true},
		{name: "an upload's session lost in the middle", target: and(times(1, isUpload, midway(5<<20, nothing)), times(1, method("GET", "/uploads/"), status(404))), again: true},
		{name: "an upload's status that lies", target: and(times(1, isUpload, midway(5<<20, nothing)), times(1, method("GET", "/uploads/"), status(204, "Range", "0-99999999"))), again: true},
		{name: "an upload's status that says less", target: and(times(1, isUpload, midway(5<<20, nothing)), times(1, method("GET", "/uploads/"), status(204, "Range", "0-1000000"))), again: true},
		{name: "parts of uploads refused", target: and(times(1, isUpload, midway(5<<20, nothing)), when(method("PATCH", "/"), status(405))), again: true},
		{name: "an upload's answer lost", target: times(1, isUpload, func(next http.Handler, w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(&unheard{http.Header{}}, r)
			panic(http.ErrAbortHandler)
		})},
		{name: "502 after an upload", target: times(1, isUpload, func(next http.Handler, w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			http.Error(w, "injected", http.StatusBadGateway)
		}), again: true},
		{name: "403 for uploads", target: when(method("POST", "/uploads/"), status(403)), want: []string{"write sha256:", "to target", "status code 403"}, within: 2 * time.Second},
		{name: "413 for a large blob", target: when(isUpload, status(413)), want: []string{"write " + big + " to target", "status code 413"}, within: 4 * time.Second, again: true},
		{name: "no room at the target", target: when(method("PUT", "/blobs/"), status(507)), want: []string{"to target", "status code 507"}, within: 30 * time.Second, again: true},
		{name: "403 for manifests", target: when(method("PUT", "/manifests/"), status(403)), want: []string{"to target", "status code 403"}, within: 4 * time.Second},
		{name: "manifests refused at first", target: times(3, method("PUT", "/manifests/"), status(500))},
		{name: "the tag refused at first", target: times(2, method("PUT", "/manifests/1.0.0"), status(503))},
		{name: "an upload sent elsewhere", target: when(method("POST", "/uploads/"), status(202, "Location", "http://127.0.0.1:1/upload")), want: []string{"redirects the upload to another host, http://127.0.0.1:1"}},
		{name: "a slow line", source: when(isGet("/blobs/"), slow), target: when(isUpload, slow)},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			repository := strings.NewReplacer(" ", "-", ",", "", "'", "").Replace(strings.ToLower(c.name)) + "/edge"
			source.set(repository, nil)
			target.set(repository, nil)
			src, dst := openImpatient(t, source.registry, repository), openImpatient(t, target.registry, repository)
			w := &world{t, w.dist, w.origin}
			w.mustCopy(root, src)
			want := contentOf(t, src, root)
			source.up[repository].Store(0)
			source.down[repository].Store(0)

			source.set(repository, c.source)
			target.set(repository, c.target)
			start := time.Now()
			_, err := copyFrom(t, src, root, dst)
			took := time.Since(start)
			target.set(repository, nil)
			source.set(repository, nil)
			if len(c.want) == 0 && err != nil {
				t.Fatalf("after %s: %v", took, err)
			}
			if len(c.want) > 0 {
				if err == nil {
					t.Fatal("it succeeded")
				}
				for _, part := range c.want {
					if !strings.Contains(err.Error(), part) {
						t.Errorf("no %q in: %v", part, err)
					}
				}
				if c.within > 0 && took > c.within {
					t.Errorf("it took %s", took)
				}
				noTag(t, dst)
				if _, err := copyFrom(t, openImpatient(t, source.registry, repository), root, openImpatient(t, target.registry, repository)); err != nil {
					t.Fatalf("the second time: %v", err)
				}
			}
			up, down := target.up[repository].Load(), source.down[repository].Load()
			limit := int64(large + inFlight)
			if c.again {
				limit += large
			}
			if c.resent {
				limit += large
			}
			if up > limit {
				t.Errorf("%d bytes were sent for %d", up, large)
			}
			if c.name != "a download reset, and no ranges" && down > limit+(c.breaks+2)*inFlight {
				t.Errorf("%d bytes were fetched for %d", down, large)
			}
			equal(t, contentOf(t, openImpatient(t, target.registry, repository), root), want)
		})
	}
}

// A byte of a large blob that changes on the way from a stream to the target is not the archive's fault, and a file
// is read once more.
func TestFlippedImport(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	noise := make([]byte, large)
	rand.NewChaCha8([32]byte{3}).Read(noise)
	root := w.bundle("first", w.imageOf(noise))
	plan := planOf(t, w.dist, root, transfer.Options{Origins: w})
	file := filepath.Join(t.TempDir(), "edge.tar.zst")
	if _, err := archive.WriteFile(t.Context(), file, plan.ArchiveContents(nil, nil), plan, archive.Options{Compress: true}); err != nil {
		t.Fatal(err)
	}
	target := newLine(t, registrytest.Options{Kind: registrytest.Distribution3})
	isLarge := func(r *http.Request) bool { return r.Method == http.MethodPatch && r.ContentLength > large/8 }
	for name, c := range map[string]struct {
		times int64
		load  func(*os.File, oras.GraphTarget) error
		works bool
	}{
		"a-stream": {1, func(f *os.File, dst oras.GraphTarget) error {
			stream, err := archive.OpenStream(t.Context(), f)
			if err != nil {
				return err
			}
			defer stream.Close()
			_, err = transfer.ImportStream(t.Context(), stream, dst, transfer.Options{})
			return err
		}, false},
		"a-file": {1, func(f *os.File, dst oras.GraphTarget) error {
			_, err := transfer.ImportFile(t.Context(), f, dst, transfer.Options{})
			return err
		}, true},
		"a-file-each-time": {100, func(f *os.File, dst oras.GraphTarget) error {
			_, err := transfer.ImportFile(t.Context(), f, dst, transfer.Options{})
			return err
		}, false},
	} {
		target.set(name+"/edge", times(c.times, isLarge, changedBody))
		dst := openImpatient(t, target.registry, name+"/edge")
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		err = c.load(f, dst)
		f.Close()
		if c.works != (err == nil) {
			t.Errorf("%s: %v", name, err)
		}
		if wanted := "write " + digestOf(string(noise)).String() + " to target"; err != nil && !strings.Contains(err.Error(), wanted) {
			t.Errorf("%s: %v\nwant %s", name, err, wanted)
		}
		if err != nil {
			noTag(t, dst)
		}
	}
}

type unheard struct{ header http.Header }

func (u *unheard) Header() http.Header         { return u.header }
func (u *unheard) Write(p []byte) (int, error) { return len(p), nil }
func (u *unheard) WriteHeader(int)             {}

// slow lets about 8 MB a second through.
func slow(next http.Handler, w http.ResponseWriter, r *http.Request) {
	r.Body = &slowBody{r.Body}
	next.ServeHTTP(&slowWriter{w}, r)
}

type slowBody struct{ io.ReadCloser }

func (s *slowBody) Read(p []byte) (int, error) {
	time.Sleep(4 * time.Millisecond)
	return s.ReadCloser.Read(p[:min(len(p), 32<<10)])
}

type slowWriter struct{ http.ResponseWriter }

func (s *slowWriter) Write(p []byte) (int, error) {
	time.Sleep(4 * time.Millisecond)
	return s.ResponseWriter.Write(p)
}

func (s *slowWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// openImpatient is open for a program that does not wait for long.
func openImpatient(t *testing.T, r *registrytest.Registry, repository string) oras.GraphTarget {
	t.Helper()
	client, err := registry.New(registry.Options{
		StallTimeout: 500 * time.Millisecond, StateDir: t.TempDir(),
		Backoff: func(int) time.Duration { return 20 * time.Millisecond },
	})
	if err != nil {
		t.Fatal(err)
	}
	repo, err := client.Repository(t.Context(), r.Host+"/"+repository)
	if err != nil {
		t.Fatal(err)
	}
	return repo
}

// An expired token is renewed, on either side and in the middle of an upload.
func TestExpiredToken(t *testing.T) {
	w := newWorld(t)
	root := w.edge()
	var expired sync.Map
	expire := func(next http.Handler, rw http.ResponseWriter, r *http.Request) {
		_, again := expired.LoadOrStore(r.Method+r.URL.Path, true)
		if !again && r.Header.Get("Authorization") != "" && strings.HasPrefix(r.URL.Path, "/v2/") {
			r.Header.Set("Authorization", "Bearer expired")
		}
		next.ServeHTTP(rw, r)
	}
	r := registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Distribution3, Auth: registrytest.Token, Middleware: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) { expire(next, rw, req) })
	}})
	t.Setenv("DOCKER_CONFIG", r.DockerConfig(t))
	w.mustCopy(root, openImpatient(t, r, "a/edge"))
	if _, err := copyFrom(t, openImpatient(t, r, "a/edge"), root, newLayout(t)); err != nil {
		t.Error(err)
	}
}

// A copy whose process was killed in the middle of a blob goes on there, into a registry and
// into a folder.
func TestGoesOnWithinABlob(t *testing.T) {
	t.Parallel()
	noise := make([]byte, large)
	rand.NewChaCha8([32]byte{2}).Read(noise)
	w := newWorld(t)
	root := w.bundle("first", w.imageOf(noise))
	source, target := newLine(t, registrytest.Options{Kind: registrytest.Distribution3}), newLine(t, registrytest.Options{Kind: registrytest.Distribution3})
	w.mustCopy(root, openImpatient(t, source.registry, "x/edge"))
	state := t.TempDir()
	process := func(l *line, repository string) oras.GraphTarget {
		client, err := registry.New(registry.Options{StateDir: state})
		if err != nil {
			t.Fatal(err)
		}
		repo, err := client.Repository(t.Context(), l.registry.Host+"/"+repository)
		if err != nil {
			t.Fatal(err)
		}
		return repo
	}
	killed := func(l *line, repository string, at fault, dst oras.GraphTarget) {
		t.Helper()
		l.set(repository, at)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(1500*time.Millisecond, cancel)
		_, err := transfer.Copy(ctx, []transfer.Source{{Store: process(source, "x/edge"), Root: root, Tags: []string{"1.0.0"}}}, dst, transfer.Options{})
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v", err)
		}
		noTag(t, dst)
		l.set(repository, nil)
	}
	stand := midway(8<<20, func() { time.Sleep(3 * time.Second) })

	killed(target, "y/edge", when(isUpload, stand), process(target, "y/edge"))
	if _, err := copyFrom(t, process(source, "x/edge"), root, process(target, "y/edge")); err != nil {
		t.Fatal(err)
	}
	if up := target.up["y/edge"].Load(); up > large+inFlight {
		t.Errorf("%d bytes were sent for %d", up, large)
	}

	dst := newLayout(t)
	killed(source, "x/edge", when(isBig(digestOf(string(noise)).String()), stand), dst)
	source.down["x/edge"].Store(0)
	if _, err := copyFrom(t, process(source, "x/edge"), root, dst); err != nil {
		t.Fatal(err)
	}
	if down := source.down["x/edge"].Load(); down > large-(8<<20)+inFlight {
		t.Errorf("%d bytes were fetched again, 8 MiB were there", down)
	}
	got := contentOf(t, dst, root)
	equal(t, got, contentOf(t, process(target, "y/edge"), root))
}
