package gate_test

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"krtpkg.dev/krtpkg/internal/registrytest"
)

// A thousand requests at once are one verification, and one download of each blob: while upstream sends it slowly, too.
func TestThousandAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, registrytest.Options{})
	repo := w.repository("krt/edge")
	r := w.pushRuntime(repo, "edge", "1.0.0", "first", "1.0.0")
	w.sign(repo, r.root)
	layer := r.set.Root.Manifest.Layers[0]
	w.setFault(func(http.ResponseWriter, *http.Request) bool {
		time.Sleep(20 * time.Millisecond)
		return false
	})
	o := w.quick()
	o.Refresh = time.Minute
	s := w.serve(o)
	w.countRequests()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000}}
	var group sync.WaitGroup
	for i := range 1000 {
		path, want := manifestPath("edge", "1.0.0"), r.root.Digest
		if i%2 == 1 {
			path, want = blobPath("edge", layer.Digest), layer.Digest
		}
		group.Go(func() {
			response, err := client.Get(s.url + path)
			if err != nil {
				t.Error(err)
				return
			}
			defer response.Body.Close()
			data, err := io.ReadAll(response.Body)
			if err != nil || response.StatusCode != 200 || digest.FromBytes(data) != want {
				t.Errorf("%s: %d %.200s, %v", path, response.StatusCode, data, err)
			}
		})
	}
	group.Wait()
	client.CloseIdleConnections()
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := map[string]int{}
	for _, request := range w.requests {
		seen[request]++
	}
	for request, n := range seen {
		if n > 1 && !strings.HasSuffix(request, "/referrers/"+r.root.Digest.String()) { // asked first whether there is the API
			t.Errorf("%d times %s", n, request)
		}
	}
	if a := s.get("/metrics"); !strings.Contains(a.body, "krtpkg_gate_verifications_total 1\n") {
		t.Error(a.body)
	}
}

// A large blob goes to those who are there while it arrives, and to those who come later; one who goes away
// disturbs nobody, and if all go it is not fetched to its end.
func TestLargeBlob(t *testing.T) {
	t.Parallel()
	w := newWorld(t, registrytest.Options{})
	repo := w.repository("krt/edge")
	data := bytes.Repeat([]byte("0123456789abcdef"), 2<<16) // 2 MiB
	blob := w.push(repo, "application/json", data)
	r := w.pushRuntime(repo, "edge", "1.0.0", "first", "1.0.0")
	w.sign(repo, r.root)
	large := w.pushJSON(repo, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/vnd.example.sbom",
		Config: w.push(repo, ocispec.MediaTypeEmptyJSON, []byte("{}")), Layers: []ocispec.Descriptor{blob}, Subject: &r.root,
	})
	proceed := make(chan struct{})
	slowly := func(rw http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/blobs/"+blob.Digest.String()) {
			return false
		}
		rw.Write(data[:len(data)/2])
		rw.(http.Flusher).Flush()
		select {
		case <-proceed:
			rw.Write(data[len(data)/2:])
		case <-r.Context().Done():
		}
		return true
	}
	for _, cached := range []bool{true, false} {
		o := w.quick()
		o.StateDir, o.CacheDir = t.TempDir(), ""
		if cached {
			o.CacheDir = t.TempDir()
		}
		s := w.serve(o)
		s.is(s.get(manifestPath("edge", "1.0.0")), 200, "")
		s.is(s.get(manifestPath("edge", large.Digest)), 200, "")
		w.setFault(slowly)
		begin := func() *http.Response {
			response, err := http.Get(s.url + blobPath("edge", blob.Digest))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.CopyN(io.Discard, response.Body, 1000); err != nil {
				t.Fatal(err)
			}
			return response
		}
		gone, stays := begin(), begin()
		gone.Body.Close()
		proceed <- struct{}{}
		if !cached {
			select { // the other one is a download of its own, and may have ended first
			case proceed <- struct{}{}:
			case <-time.After(100 * time.Millisecond):
			}
		}
		rest, err := io.ReadAll(stays.Body)
		stays.Body.Close()
		if err != nil || !bytes.Equal(rest, data[1000:]) {
			t.Errorf("cached %v: %d bytes, %v", cached, len(rest), err)
		}
	}
}

// The cache stays below its limit, and what does not fit passes.
func TestSmallCache(t *testing.T) {
	t.Parallel()
	w := newWorld(t, registrytest.Options{})
	repo := w.repository("krt/edge")
	r := w.pushRuntime(repo, "edge", "1.0.0", "first", "1.0.0")
	w.sign(repo, r.root)
	for _, limit := range []int64{1, 600, 2000} {
		o := w.quick()
		o.StateDir, o.CacheDir, o.CacheBytes = t.TempDir(), t.TempDir(), limit
		s := w.serve(o)
		for range 3 {
			s.leadsTo(manifestPath("edge", "1.0.0"), r.root.Digest)
			for _, b := range []ocispec.Descriptor{r.set.Root.Manifest.Config, r.set.Root.Manifest.Layers[0], r.set.Bundles[0].Manifest.Layers[0]} {
				if a := s.get(blobPath("edge", b.Digest)); digest.FromString(a.body) != b.Digest || a.status != 200 {
					t.Errorf("%d: %+v", limit, a)
				}
			}
		}
		var size int64
		for line := range strings.Lines(s.get("/metrics").body) {
			if text, is := strings.CutPrefix(line, "krtpkg_gate_cache_bytes "); is {
				for _, c := range strings.TrimSpace(text) {
					size = size*10 + int64(c-'0')
				}
			}
		}
		if size > limit {
			t.Errorf("%d bytes in a cache of %d", size, limit)
		}
	}
}
