package gate_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	goruntime "runtime"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/pkg/gate"
	"krtpkg.dev/krtpkg/pkg/sign"
)

// nowhere is a repository that has nothing.
type nowhere struct{}

func (nowhere) Resolve(context.Context, string) (ocispec.Descriptor, error) {
	return ocispec.Descriptor{}, errdef.ErrNotFound
}
func (nowhere) Fetch(context.Context, ocispec.Descriptor) (io.ReadCloser, error) {
	return nil, errdef.ErrNotFound
}
func (nowhere) Exists(context.Context, ocispec.Descriptor) (bool, error) { return false, nil }
func (nowhere) Tags(context.Context, string, func([]string) error) error { return nil }
func (nowhere) Predecessors(context.Context, ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	return nil, nil
}

// metric returns the value of a metric.
func metric(t *testing.T, body, name string) (value float64) {
	t.Helper()
	for line := range strings.Lines(body) {
		if text, is := strings.CutPrefix(line, name+" "); is {
			if _, err := fmt.Sscan(text, &value); err != nil {
				t.Fatal(err)
			}
			return value
		}
	}
	t.Fatalf("no metric %s in\n%s", name, body)
	return 0
}

// Who asks for any number of repositories, tags and digests makes the gate remember no more than its limit, and
// forget nothing of what was verified.
//
// It is not parallel: the memory is that of the whole process.
func TestMemoryHasALimit(t *testing.T) {
	const limit, asked = 4 << 20, 12_000
	w := newWorld(t, registrytest.Options{})
	repo := w.repository("krt/edge")
	r := w.pushRuntime(repo, "edge", "1.0.0", "first", "1.0.0")
	w.sign(repo, r.root)
	o := w.quick()
	o.MemoryBytes, o.Refresh = limit, time.Minute
	open := o.Upstreams[0].Open
	o.Upstreams[0].Open = func(ctx context.Context, repository string) (gate.Repository, error) {
		if repository == repo.String() {
			return open(ctx, repository)
		}
		return nowhere{}, nil
	}
	g, err := gate.New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	ask := func(path string) *httptest.ResponseRecorder {
		answer := httptest.NewRecorder()
		g.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, path, nil))
		return answer
	}
	if a := ask(manifestPath("edge", "1.0.0")); a.Code != http.StatusOK {
		t.Fatal(a.Body)
	}
	heap := func() uint64 {
		var m goruntime.MemStats
		goruntime.GC()
		goruntime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	long := strings.Repeat("a", 100)
	for i := range asked {
		where := fmt.Sprintf("shop-%d/%s", i, long)
		if i%2 == 0 {
			where = "edge" // one that is there takes no more than all the others
		}
		d := digest.FromString(fmt.Sprint(i))
		var path string
		switch i / 2 % 5 {
		case 0:
			path = manifestPath("shop", fmt.Sprintf("v%d-%s", i, long))
		case 1:
			path = manifestPath(where, d)
		case 2:
			path = blobPath(where, d)
		case 3:
			path = "/v2/" + where + "/referrers/" + d.String()
		default:
			path = manifestPath("shop", sign.Tag(d))
		}
		if a := ask(path); a.Code == http.StatusOK && !strings.Contains(path, "/referrers/") {
			t.Fatal(path, a.Body)
		}
	}
	if grown := int64(heap()) - int64(before); grown > 2*limit {
		t.Errorf("%d requests for what is not there take %.1f MiB", asked, float64(grown)/(1<<20))
	}
	goruntime.KeepAlive(g)
	if size := metric(t, ask("/metrics").Body.String(), "krtpkg_gate_memory_bytes"); size > limit || size < limit/8 {
		t.Errorf("it says that it takes %.0f bytes of %d", size, limit)
	}
	for _, path := range []string{manifestPath("edge", r.root.Digest), manifestPath("edge", r.inner.Digest), manifestPath("edge", "1.0.0")} {
		if a := ask(path); a.Code != http.StatusOK {
			t.Error(path, a.Body)
		}
	}
	if n := metric(t, ask("/metrics").Body.String(), "krtpkg_gate_verifications_total"); n != 1 {
		t.Errorf("%.0f verifications", n)
	}
}

// A repository has more versions than fit: a search verifies as many as there is room for, and none a second time. What is
// asked for by its name is answered all the same.
func TestMoreVersionsThanFit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, registrytest.Options{})
	repo := w.repository("krt/edge")
	image := w.pushImage(repo, "any")
	var versions []runtime
	for i := range 24 {
		r := w.pushRuntimeOf(repo, "edge", fmt.Sprintf("1.%d.0", i), fmt.Sprint(i), image, fmt.Sprintf("1.%d.0", i))
		w.sign(repo, r.root)
		versions = append(versions, r)
	}
	o := w.quick()
	o.MemoryBytes = 128 << 10
	s := w.serve(o)
	verified := func() float64 { return metric(t, s.get("/metrics").body, "krtpkg_gate_verifications_total") }
	// Something that no version names is looked for in all of them.
	stray := w.pushPlatform(repo, "stray")
	s.is(s.get(manifestPath("edge", stray.Digest)), denied, unnamed)
	first := verified()
	if first < 4 || first > 20 {
		t.Errorf("%.0f of 24 versions were verified", first)
	}
	for range 5 {
		s.is(s.get(manifestPath("edge", stray.Digest)), denied, unnamed)
	}
	if again := verified(); again != first {
		t.Errorf("%.0f versions were verified by the first search, and %.0f more by the next ones", first, again-first)
	}
	// Old and new ones alike are there by their tags and digests, and their bundles by digest then.
	for _, i := range []int{0, 1, 23} {
		s.leadsTo(manifestPath("edge", fmt.Sprintf("1.%d.0", i)), versions[i].root.Digest)
		s.is(s.get(manifestPath("edge", versions[i].inner.Digest)), 200, "")
	}
	s.is(s.get(manifestPath("edge", versions[2].root.Digest)), 200, "")
	s.is(s.get(manifestPath("edge", image.Digest)), 200, "")
	if size := metric(t, s.get("/metrics").body, "krtpkg_gate_memory_bytes"); size > float64(o.MemoryBytes) {
		t.Errorf("%.0f bytes", size)
	}
}
