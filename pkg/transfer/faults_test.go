package transfer_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/progress"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

// faulty returns a registry before which a fault stands, once it is switched on.
func faulty(t *testing.T, fail fault) (r *registrytest.Registry, on *atomic.Bool) {
	t.Helper()
	on = &atomic.Bool{}
	r = registrytest.StartRegistry(t, registrytest.Options{Record: true, Middleware: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if on.Load() {
				fail(next, w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	}})
	return r, on
}

type fault = func(next http.Handler, w http.ResponseWriter, r *http.Request)

// every fails one of n requests, not each nth: what is tried again would keep step with that.
func every(n uint64, fail fault) fault {
	var seen atomic.Uint64
	return func(next http.Handler, w http.ResponseWriter, r *http.Request) {
		number := seen.Add(1) * 0x9e3779b97f4a7c15
		if (number^number>>32)%n == 0 {
			fail(next, w, r)
			return
		}
		next.ServeHTTP(w, r)
	}
}

// once fails the first request of a method for each digest.
func once(method, path string, fail fault) fault {
	var seen sync.Map
	return func(next http.Handler, w http.ResponseWriter, r *http.Request) {
		if r.Method == method && strings.Contains(r.URL.Path, path) {
			key := r.URL.Query().Get("digest")
			if key == "" {
				key = r.URL.Path
			}
			if _, again := seen.LoadOrStore(key, true); !again {
				fail(next, w, r)
				return
			}
		}
		next.ServeHTTP(w, r)
	}
}

func answer(status int) fault {
	return func(_ http.Handler, w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		http.Error(w, "injected", status)
	}
}

// cut sends half of the answer and closes the connection.
func cut(next http.Handler, w http.ResponseWriter, r *http.Request) {
	whole := httptest.NewRecorder()
	next.ServeHTTP(whole, r)
	for key, values := range whole.Header() {
		w.Header()[key] = values
	}
	w.Header().Set("Content-Length", fmt.Sprint(whole.Body.Len()))
	w.WriteHeader(whole.Code)
	w.Write(whole.Body.Bytes()[:whole.Body.Len()/2])
	http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// reset closes the connection without an answer.
func reset(http.Handler, http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// What passes when it is tried again does not end a copy.
func TestPassingFaults(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		fault func() fault
	}{
		// Not every fourth: of four that move at once it would always be the same one.
		{"429 for a share of requests", func() fault { return every(5, answer(http.StatusTooManyRequests)) }},
		{"500 for a share of requests", func() fault { return every(5, answer(http.StatusInternalServerError)) }},
		{"503 at the end of an upload", func() fault { return once(http.MethodPut, "/blobs/", answer(http.StatusServiceUnavailable)) }},
		{"upload sessions lost", func() fault { return once(http.MethodPut, "/blobs/", answer(http.StatusNotFound)) }},
		{"uploads reset", func() fault { return once(http.MethodPut, "/blobs/", reset) }},
		{"downloads cut", func() fault { return once(http.MethodGet, "/blobs/", cut) }},
		{"manifests cut", func() fault { return once(http.MethodGet, "/manifests/sha256:", cut) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			root := w.edge()
			source, on := faulty(t, c.fault())
			w.mustCopy(root, open(t, source, "krt/edge"))
			want := contentOf(t, open(t, source, "krt/edge"), root)
			on.Store(true)
			target, targetOn := faulty(t, c.fault())
			targetOn.Store(true)
			dst := open(t, target, "krt/edge")
			_, err := copyFrom(t, open(t, source, "krt/edge"), root, dst)
			if err != nil {
				t.Fatal(err)
			}
			targetOn.Store(false)
			equal(t, contentOf(t, dst, root), want)
		})
	}
}

// What will not pass ends a copy at once, with a message that says where and what.
func TestRefused(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden} {
		for _, side := range []string{"source", "target"} {
			t.Run(fmt.Sprintf("%d at the %s", status, side), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				root := w.edge()
				r, on := faulty(t, answer(status))
				w.mustCopy(root, open(t, r, "krt/edge"))
				on.Store(true)
				before, start := len(r.Requests()), time.Now()
				var err error
				if side == "source" {
					_, err = copyFrom(t, open(t, r, "krt/edge"), root, newLayout(t))
				} else {
					_, err = w.copy(root, open(t, r, "krt/edge"))
				}
				if err == nil {
					t.Fatal("it succeeded")
				}
				for _, want := range []string{side + " " + r.Host + "/krt/edge", fmt.Sprint("status code ", status)} {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("no %q in: %v", want, err)
					}
				}
				if n, took := len(r.Requests())-before, time.Since(start); n > 2 || took > 2*time.Second {
					t.Errorf("%d requests in %s", n, took)
				}
			})
		}
	}
}

// Writes are refused to those who may only read.
func TestReadOnlyTarget(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.edge()
	r, on := faulty(t, func(next http.Handler, rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			next.ServeHTTP(rw, r)
			return
		}
		http.Error(rw, "read only", http.StatusForbidden)
	})
	on.Store(true)
	dst := open(t, r, "krt/edge")
	_, err := w.copy(root, dst)
	if err == nil || !strings.Contains(err.Error(), "write sha256:") || !strings.Contains(err.Error(), "to target "+r.Host+"/krt/edge") || !strings.Contains(err.Error(), "status code 403") {
		t.Errorf("got %v", err)
	}
	noTag(t, dst)
}

// Wrong bytes of the right length never reach a target as a whole, whatever it checks.
func TestWrongBytes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, path string }{
		{"blob", "/blobs/" + digestOf("web on arm64").String()},
		{"manifest", "/manifests/"},
	} {
		for _, to := range []string{"layout", "ggcr", "olareg"} {
			t.Run(c.name+" to "+to, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				root := w.edge()
				path := c.path
				if c.name == "manifest" {
					path += w.image("base", "web on arm64").Digest.String()
				}
				source, on := faulty(t, func(next http.Handler, rw http.ResponseWriter, r *http.Request) {
					if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, path) {
						next.ServeHTTP(rw, r)
						return
					}
					whole := httptest.NewRecorder()
					next.ServeHTTP(whole, r)
					data := whole.Body.Bytes()
					data[len(data)/2] ^= 1
					for key, values := range whole.Header() {
						rw.Header()[key] = values
					}
					rw.Write(data)
				})
				w.mustCopy(root, open(t, source, "krt/edge"))
				on.Store(true)
				dst := kinds[to](t)
				_, err := copyFrom(t, open(t, source, "krt/edge"), root, dst)
				wanted := path[strings.LastIndex(path, "/")+1:] + " from source " + source.Host + "/krt/edge"
				if !errors.Is(err, content.ErrMismatchedDigest) || !strings.Contains(err.Error(), wanted) {
					t.Errorf("got %v\nwant %q", err, wanted)
				}
				noTag(t, dst)
			})
		}
	}
}

// eventTally adds up the events of one plan.
type eventTally struct {
	mu             sync.Mutex
	planned, ended progress.Event
	moved, unnamed int64
	begins         int
}

func (e *eventTally) add(one progress.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch one.Kind {
	case progress.Planned:
		e.planned = one
	case progress.Began:
		e.begins++
		if one.Detail == "" {
			e.unnamed++
		}
	case progress.Moved:
		e.moved += one.Bytes
	case progress.Copied, progress.Skipped, progress.Mounted:
		e.ended.Items++
		e.ended.Bytes += one.Bytes
	}
}

func (e *eventTally) checkComplete(t *testing.T, what string) {
	t.Helper()
	if e.planned.Items == 0 || e.planned.Items != e.ended.Items || e.planned.Bytes != e.ended.Bytes {
		t.Errorf("%s: %d items of %d bytes were planned, %d of %d ended", what, e.planned.Items, e.planned.Bytes, e.ended.Items, e.ended.Bytes)
	}
	if e.begins == 0 || e.moved == 0 || e.unnamed > 0 {
		t.Errorf("%s: %d items began, %d of them without a name, and %d bytes moved", what, e.begins, e.unnamed, e.moved)
	}
}

// What a check plans is what it reads, so that its progress ends at 100 %: of a whole archive, of one on a base, of
// each volume, and of a folder.
func TestCheckReadsWhatItPlans(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.edge()
	complete := newLayout(t)
	w.mustCopy(root, complete)
	sources := []transfer.Source{{Store: complete, Root: root, Tags: []string{"1.0.0"}}}
	plan, err := transfer.NewPlan(t.Context(), sources, transfer.Options{})
	if err != nil {
		t.Fatal(err)
	}
	whole := plan.ArchiveContents(nil, nil)
	absent := whole.Blobs[0].Digest
	archives := map[string]archive.Contents{
		"whole": whole, "on a base": plan.ArchiveContents(func(d digest.Digest) bool { return d == absent }, []string{"edge:0.9.0@" + absent.String()}),
	}
	size, err := whole.Size()
	if err != nil {
		t.Fatal(err)
	}
	volumes, err := whole.Split(size - 512)
	if err != nil || len(volumes) < 2 {
		t.Fatalf("%d volumes, error %v", len(volumes), err)
	}
	for i, v := range volumes {
		archives[fmt.Sprintf("volume %d", i+1)] = v
	}
	for name, contents := range archives {
		file := export(t, plan, contents)
		var tally eventTally
		if _, err := archive.CheckFile(t.Context(), file, tally.add); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		tally.checkComplete(t, name)
	}
	var tally eventTally
	plan, err = transfer.NewPlan(t.Context(), sources, transfer.Options{Progress: tally.add})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := plan.CheckContent(t.Context()); err != nil {
		t.Error(err)
	}
	tally.checkComplete(t, "a folder")
}

// A check tells of all that is gone or wrong at a registry, and which image it belongs to.
func TestCheckOfAnIncompleteRegistry(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.edge()
	gone, wrong := digestOf("web on arm64"), digestOf("web on amd64")
	source, on := faulty(t, func(next http.Handler, rw http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, gone.String()):
			http.NotFound(rw, r)
		case strings.HasSuffix(r.URL.Path, wrong.String()):
			io.WriteString(rw, "web on amd63")
		default:
			next.ServeHTTP(rw, r)
		}
	})
	w.mustCopy(root, open(t, source, "krt/edge"))
	on.Store(true)
	plan, err := transfer.NewPlan(t.Context(), []transfer.Source{{Store: open(t, source, "krt/edge"), Root: root, Tags: []string{"1.0.0"}}}, transfer.Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = plan.CheckContent(t.Context())
	if !errors.Is(err, errdef.ErrNotFound) || !errors.Is(err, content.ErrMismatchedDigest) {
		t.Errorf("got %v", err)
	}
	for _, want := range []string{
		"read " + gone.String() + " from source " + source.Host + "/krt/edge (layer of origin.example/app@sha256:",
		"read " + wrong.String() + " from source " + source.Host + "/krt/edge (layer of origin.example/app@sha256:",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %v\nwant %q", err, want)
		}
	}
}

// blind is a target that checks nothing.
type blind struct {
	oras.GraphTarget
	whole atomic.Int64
}

func (b *blind) Push(ctx context.Context, desc ocispec.Descriptor, r io.Reader) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if int64(len(data)) == desc.Size && content.NewDescriptorFromBytes(desc.MediaType, data).Digest != desc.Digest {
		b.whole.Add(1)
	}
	return nil
}

// damaged are fetchers of wrong content.
type damaged struct {
	oras.GraphTarget
	digest string
	change func([]byte) []byte
}

func (d *damaged) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if desc.Digest.String() != d.digest {
		return d.GraphTarget.Fetch(ctx, desc)
	}
	data, err := content.FetchAll(ctx, d.GraphTarget, desc)
	return io.NopCloser(strings.NewReader(string(d.change(data)))), err
}

// A target that checks nothing gets nothing wrong either.
func TestBlindTarget(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func([]byte) []byte
		want   error
	}{
		"changed": {func(b []byte) []byte { b[0] ^= 1; return b }, content.ErrMismatchedDigest},
		"longer":  {func(b []byte) []byte { return append(b, 'x') }, content.ErrTrailingData},
		"shorter": {func(b []byte) []byte { return b[1:] }, io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			root := w.bundle("a", w.image("layer"))
			src, dst := newLayout(t), &blind{GraphTarget: newLayout(t)}
			w.mustCopy(root, src)
			_, err := copyFrom(t, &damaged{src, digestOf("layer").String(), c.change}, root, dst)
			if !errors.Is(err, c.want) || dst.whole.Load() != 0 {
				t.Errorf("got %v, want %v; %d wrong blobs written whole", err, c.want, dst.whole.Load())
			}
		})
	}
}

// A copy that is cancelled in the middle leaves no tag, and the next one completes it.
func TestCancelled(t *testing.T) {
	t.Parallel()
	for _, after := range []int64{1, 4, 9, 15} {
		t.Run(fmt.Sprint("at write ", after), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			root := w.edge()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var writes atomic.Int64
			r, on := faulty(t, func(next http.Handler, rw http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPut && writes.Add(1) >= after {
					cancel()
					<-r.Context().Done()
					return
				}
				next.ServeHTTP(rw, r)
			})
			on.Store(true)
			dst := open(t, r, "krt/edge")
			_, err := transfer.Copy(ctx, []transfer.Source{{Store: w.dist, Root: root, Tags: []string{"1.0.0"}}}, dst, transfer.Options{Origins: w})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			on.Store(false)
			noTag(t, dst)
			complete := newLayout(t)
			w.mustCopy(root, complete)
			w.mustCopy(root, dst)
			equal(t, contentOf(t, dst, root), contentOf(t, complete, root))
		})
	}
}

// A plan that is cancelled is not a report of missing images.
func TestCancelledPlan(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.edge()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, on := faulty(t, func(_ http.Handler, _ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	})
	on.Store(true)
	_, err := transfer.Copy(ctx, []transfer.Source{{Store: w.dist, Root: root}}, newLayout(t), transfer.Options{Origins: origins{open(t, r, "app")}})
	var incomplete *transfer.IncompleteError
	if !errors.Is(err, context.Canceled) || errors.As(err, &incomplete) {
		t.Errorf("got %v", err)
	}
}

// A layout that cannot be written to is named.
func TestTargetThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.edge()
	dst := &full{newLayout(t)}
	_, err := w.copy(root, dst)
	if !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), "write sha256:") || !strings.Contains(err.Error(), "to target ") {
		t.Errorf("got %v", err)
	}
	if _, err := dst.Resolve(t.Context(), "1.0.0"); !errors.Is(err, errdef.ErrNotFound) {
		t.Error(err)
	}
}

type full struct{ oras.GraphTarget }

func (*full) Push(context.Context, ocispec.Descriptor, io.Reader) error { return os.ErrPermission }
