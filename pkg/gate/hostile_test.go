package gate_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"krtpkg.dev/krtpkg/internal/registrytest"
)

// sendGzip sends content that the transport unpacks by itself.
func sendGzip(mediaType string, content io.Reader) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", mediaType)
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		if _, err := io.Copy(z, content); err == nil {
			z.Close()
		}
	}
}

// zeros is content without end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// hostilities are more of the rows: documents that clients read differently, listings without end, and clients that
// ask for more than they should.
var hostilities = []tampering{
	{"attachment that others read as an image", func(s *scene) {
		s.isEdge()
		document := s.push(s.repo, "application/json", []byte(`{"a": 1}`))
		system := s.push(s.repo, ocispec.MediaTypeImageLayerGzip, []byte("a file system"))
		config := s.push(s.repo, ocispec.MediaTypeEmptyJSON, []byte("{}"))
		descriptor := func(d ocispec.Descriptor) string {
			return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, d.MediaType, d.Digest, d.Size)
		}
		for _, second := range []string{"layers", "Layers", "LAYERS", "layer\u017f", `l\u0061yers`} {
			data := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"artifactType":"application/vnd.example.sbom","config":%s,"layers":[%s],"subject":%s,"%s":[%s]}`,
				ocispec.MediaTypeImageManifest, descriptor(config), descriptor(system), descriptor(s.good.root), second, descriptor(document))
			evil := s.push(s.repo, ocispec.MediaTypeImageManifest, []byte(data))
			s.is(s.get(manifestPath("edge", evil.Digest)), denied, "duplicate key")
			s.is(s.get(blobPath("edge", system.Digest)), denied, unnamed)
		}
	}},
	{"attachment of two types", func(s *scene) {
		s.isEdge()
		subject := fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, s.good.root.MediaType, s.good.root.Digest, s.good.root.Size)
		for _, second := range []string{"mediaType", "MediaType", "artifactType"} {
			data := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"artifactType":"application/vnd.example.sbom","config":{"mediaType":%q,"digest":%q,"size":2},"layers":[],"subject":%s,%q:null}`,
				ocispec.MediaTypeImageManifest, ocispec.MediaTypeEmptyJSON, digest.FromString("{}"), subject, second)
			evil := s.push(s.repo, ocispec.MediaTypeImageManifest, []byte(data))
			s.is(s.get(manifestPath("edge", evil.Digest)), denied, "duplicate key")
		}
	}},
	{"compressed manifest", func(s *scene) {
		data := s.readBytes(s.good.root)
		s.replace(http.MethodGet, "/manifests/"+s.good.root.Digest.String(), sendGzip(ocispec.MediaTypeImageManifest, bytes.NewReader([]byte(data))))
		a := s.get(manifestPath("edge", s.good.root.Digest), "Accept-Encoding", "gzip")
		if a.status == 200 && (a.body != data || a.header.Get("Content-Encoding") != "") {
			s.Errorf("%+v", a)
		}
	}},
	{"compressed manifest without end", func(s *scene) {
		s.replace(http.MethodGet, "/manifests/"+s.good.root.Digest.String(), sendGzip(ocispec.MediaTypeImageManifest, zeros{}))
		s.fails(s.get(manifestPath("edge", s.good.root.Digest)))
	}},
	{"compressed blob without end", func(s *scene) {
		s.isEdge()
		layer := s.layerOf(s.good.image)
		s.replace(http.MethodGet, "/blobs/"+layer.Digest.String(), sendGzip("application/octet-stream", zeros{}))
		if a := s.get(blobPath("edge", layer.Digest)); a.status == 200 && a.err == nil {
			s.Errorf("%+v", a)
		}
	}},
	{"tags without end", func(s *scene) {
		var pages atomic.Int64
		s.replace(http.MethodGet, "/tags/list", func(w http.ResponseWriter, r *http.Request) {
			n := pages.Add(1)
			tags := make([]string, 1000)
			for i := range tags {
				tags[i] = fmt.Sprintf("%q", fmt.Sprintf("v-%d-%d", n, i))
			}
			w.Header().Set("Link", fmt.Sprintf(`<%s?last=%d>; rel="next"`, r.URL.Path, n))
			fmt.Fprintf(w, `{"name":"krt/edge","tags":[%s]}`, strings.Join(tags, ","))
		})
		s.fails(s.get("/v2/edge/tags/list"))
		if pages.Load() > 1000 {
			s.Errorf("%d pages", pages.Load())
		}
		s.isEdge()
	}},
	{"referrers without end", func(s *scene) {
		s.isEdge()
		var asked atomic.Int64
		s.setFault(func(w http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, "/referrers/"+s.good.image.Digest.String()) {
				w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
				var all []string
				for i := range 8000 {
					all = append(all, fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":100}`, ocispec.MediaTypeImageManifest, digest.FromString(fmt.Sprint(i))))
				}
				fmt.Fprintf(w, `{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, ocispec.MediaTypeImageIndex, strings.Join(all, ","))
				return true
			}
			asked.Add(1)
			return false
		})
		s.stop()
		o := s.quick()
		o.StateDir, o.CacheDir = s.TempDir(), s.TempDir()
		s.server = s.world.serve(o)
		s.is(s.get("/v2/edge/referrers/"+s.good.image.Digest.String()), http.StatusBadGateway, "8000 referrers")
		if asked.Load() > 200 {
			s.Errorf("%d requests for referrers that are not there", asked.Load())
		}
	}},
	{"next page elsewhere", func(s *scene) {
		var asked atomic.Int64
		elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
		defer elsewhere.Close()
		s.setFault(func(w http.ResponseWriter, r *http.Request) bool {
			switch {
			case strings.HasSuffix(r.URL.Path, "/tags/list"):
				w.Header().Set("Link", `<`+elsewhere.URL+`/latest/meta-data>; rel="next"`)
				io.WriteString(w, `{"name":"krt/edge","tags":["1.0.0"]}`)
			case strings.Contains(r.URL.Path, "/referrers/"):
				w.Header().Set("Link", `<`+elsewhere.URL+`/latest/meta-data>; rel="next"`)
				send(ocispec.MediaTypeImageIndex, `{"schemaVersion":2,"mediaType":"`+ocispec.MediaTypeImageIndex+`","manifests":[]}`)(w, r)
			default:
				return false
			}
			return true
		})
		s.fails(s.get("/v2/edge/tags/list"))
		s.get("/v2/edge/referrers/" + s.good.root.Digest.String())
		if asked.Load() > 0 {
			s.Errorf("%d requests to another host", asked.Load())
		}
	}},
	{"manifest from another host", func(s *scene) {
		secret := httptest.NewServer(http.HandlerFunc(send("text/plain", "an internal secret")))
		defer secret.Close()
		s.setFault(func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, "/manifests/") {
				return false
			}
			http.Redirect(w, r, secret.URL, http.StatusTemporaryRedirect)
			return true
		})
		for _, path := range []string{manifestPath("edge", "1.0.0"), manifestPath("edge", s.good.root.Digest), "/v2/edge/tags/list"} {
			if a := s.get(path); a.status == 200 && strings.Contains(path, "manifests") || strings.Contains(a.body, "internal secret") {
				s.Errorf("%s: %+v", path, a)
			}
		}
	}},
	{"numbers of tags that are none", func(s *scene) {
		for n, want := range map[string]int{"0": 200, "-1": 400, "1e3": 400, "99999999999999999999": 400, "9223372036854775807": 200} {
			s.is(s.get("/v2/edge/tags/list?n="+n), want, "")
		}
		s.is(s.get("/v2/edge/tags/list?n=9223372036854775807&last=%00%ff"), 200, "")
	}},
	{"many parts of a blob", func(s *scene) {
		s.isEdge()
		layer := s.layerOf(s.good.image)
		s.is(s.get(blobPath("edge", layer.Digest)), 200, "layer of first")
		parts := "bytes=0-0" + strings.Repeat(",1-1", 8000)
		for _, header := range []string{parts, "bytes=0-4,6-7"} {
			if a := s.get(blobPath("edge", layer.Digest), "Range", header); a.status != 200 || a.body != "layer of first amd64" {
				s.Errorf("%d, %d bytes, %v", a.status, len(a.body), a.header)
			}
		}
		s.is(s.get(blobPath("edge", layer.Digest), "Range", "bytes=-5"), http.StatusPartialContent, "amd64")
	}},
}

// holdUp has upstream not answer what is attached to the roots of a repository until release is called, or for a minute, which is an
// error.
func (w *world) holdUp(name string) (release func()) {
	released := make(chan struct{})
	timeout := time.AfterFunc(time.Minute, func() {
		w.Errorf("nobody is answered while %s is slow", name)
		close(released)
	})
	w.setFault(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/krt/"+name+"/referrers/") || strings.Contains(r.URL.Path, "/krt/"+name+"/manifests/sha256-") {
			select {
			case <-r.Context().Done():
			case <-released:
			}
		}
		return false
	})
	return func() {
		if timeout.Stop() {
			close(released)
		}
	}
}

// Somebody may push to a repository of theirs what takes long to verify: the others go on.
func TestSlowRoots(t *testing.T) {
	t.Parallel()
	w := newWorld(t, registrytest.Options{})
	edge, theirs := w.repository("krt/edge"), w.repository("krt/theirs")
	ours := w.pushRuntime(edge, "edge", "1.0.0", "first", "1.0.0")
	w.sign(edge, ours.root)
	for i := range 4 {
		version := fmt.Sprintf("1.%d.0", i)
		w.pushRuntime(theirs, "theirs", version, version, version)
	}
	o := w.quick()
	o.Timeout = 5 * time.Minute
	s := w.serve(o)
	release := w.holdUp("theirs")
	defer release()
	for i := range 4 {
		go http.Get(s.url + manifestPath("theirs", fmt.Sprintf("1.%d.0", i)))
	}
	s.until("verifications of theirs", func() bool { // 4 tags are asked for, and signatures of 2 roots
		return strings.Contains(s.get("/metrics").body, "krtpkg_gate_upstream_requests_total{kind=\"tag\"} 6\n")
	})
	if n := metric(t, s.get("/metrics").body, "krtpkg_gate_verifications_total"); n != 0 {
		t.Errorf("%v roots were verified, want 0 while they are slow", n)
	}
	s.leadsTo(manifestPath("edge", "1.0.0"), ours.root.Digest)
}

// A repository whose verdicts take long to renew holds up no other one, by whatever it is asked for.
func TestSlowRenewal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, registrytest.Options{})
	edge, theirs := w.repository("krt/edge"), w.repository("krt/theirs")
	ours, slow := w.pushRuntime(edge, "edge", "1.0.0", "first", "1.0.0"), w.pushRuntime(theirs, "theirs", "1.0.0", "second", "1.0.0")
	w.sign(edge, ours.root)
	w.sign(theirs, slow.root)
	o := w.quick()
	o.Recheck, o.Timeout = time.Second, 5*time.Minute
	s := w.serve(o)
	s.leadsTo(manifestPath("edge", "1.0.0"), ours.root.Digest)
	s.leadsTo(manifestPath("theirs", "1.0.0"), slow.root.Digest)
	release := w.holdUp("theirs")
	defer release()
	for _, d := range []digest.Digest{ours.image.Digest, ours.inner.Digest, ours.root.Digest} {
		time.Sleep(o.Recheck * 5 / 4)
		s.leadsTo(manifestPath("edge", d), d)
	}
}
