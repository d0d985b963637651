package gate_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/internal/signtest"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/gate"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/registry"
	"krtpkg.dev/krtpkg/pkg/sign"
	"krtpkg.dev/krtpkg/pkg/trust"
)

// world is a registry with a vendor who signs, one who does not, and a gate in front.
type world struct {
	*testing.T
	upstream *registrytest.Registry
	client   *registry.Client
	signer   *sign.Signer
	// dir has trust.yaml, the keys, the state and the cache.
	dir string

	// fault handles a request instead of the registry, unless it returns false.
	fault atomic.Pointer[func(http.ResponseWriter, *http.Request) bool]

	mu       sync.Mutex
	requests []string
	// headers are the values of all headers that the registry got.
	headers map[string]bool
	events  []gate.Event
}

// policyText is a policy for the repositories below krt/ at any registry.
const policyText = `apiVersion: krtpkg.dev/v1alpha1
kind: TrustPolicy
authorities:
- {name: release, key: release.pub}
rules:
- match: ["*/krt/**"]
`

func newWorld(t *testing.T, o registrytest.Options) *world {
	t.Helper()
	w := &world{T: t, dir: t.TempDir(), headers: map[string]bool{}}
	o.Middleware = w.watch
	w.upstream = registrytest.StartRegistry(t, o)
	client, err := registry.New(registry.Options{
		Backoff: func(int) time.Duration { return time.Millisecond }, CAFile: w.upstream.CAFile, Logins: w.logins(),
	})
	if err != nil {
		t.Fatal(err)
	}
	w.client = client
	var public []byte
	w.signer, public = signtest.NewSignerWithKey(t)
	w.write("release.pub", string(public))
	w.write("trust.yaml", policyText)
	return w
}

func (w *world) logins() [][]byte {
	if w.upstream.Username == "" {
		return nil
	}
	return [][]byte{fmt.Appendf(nil, `{"auths":{%q:{"username":%q,"password":%q}}}`, w.upstream.Host, w.upstream.Username, w.upstream.Password)}
}

// watch records the requests to the registry, and lets a test answer some.
func (w *world) watch(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		w.requests = append(w.requests, r.Method+" "+r.URL.Path)
		for _, values := range r.Header {
			for _, value := range values {
				w.headers[value] = true
			}
		}
		w.mu.Unlock()
		if fault := w.fault.Load(); fault != nil && (*fault)(rw, r) {
			return
		}
		next.ServeHTTP(rw, r)
	})
}

func (w *world) setFault(fault func(http.ResponseWriter, *http.Request) bool) { w.fault.Store(&fault) }

// countRequests counts the requests to the registry since the last call.
func (w *world) countRequests() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(w.requests)
	w.requests = nil
	return n
}

func (w *world) write(name, text string) {
	w.Helper()
	path := filepath.Join(w.dir, name)
	if err := errors.Join(os.WriteFile(path+".new", []byte(text), 0o600), os.Rename(path+".new", path)); err != nil {
		w.Fatal(err)
	}
}

func (w *world) repository(path string) *registry.Repository {
	w.Helper()
	repo, err := w.client.Repository(w.Context(), w.upstream.Host+"/"+path)
	if err != nil {
		w.Fatal(err)
	}
	return repo
}

func (w *world) push(repo *registry.Repository, mediaType string, data []byte) ocispec.Descriptor {
	w.Helper()
	desc := content.NewDescriptorFromBytes(mediaType, data)
	if err := repo.Push(w.Context(), desc, bytes.NewReader(data)); err != nil && !errors.Is(err, errdef.ErrAlreadyExists) {
		w.Fatal(err)
	}
	return desc
}

func (w *world) pushJSON(repo *registry.Repository, mediaType string, value any) ocispec.Descriptor {
	w.Helper()
	data, err := json.Marshal(value)
	if err != nil {
		w.Fatal(err)
	}
	return w.push(repo, mediaType, data)
}

func (w *world) tag(repo *registry.Repository, desc ocispec.Descriptor, tag string) {
	w.Helper()
	if err := repo.Tag(w.Context(), desc, tag); err != nil {
		w.Fatal(err)
	}
}

// pushPlatform makes an image of one layer.
func (w *world) pushPlatform(repo *registry.Repository, text string) ocispec.Descriptor {
	w.Helper()
	return w.pushJSON(repo, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: w.push(repo, ocispec.MediaTypeImageConfig, []byte(`{"config":{"Cmd":["`+text+`"]}}`)),
		Layers: []ocispec.Descriptor{w.push(repo, ocispec.MediaTypeImageLayerGzip, []byte("layer of "+text))},
	})
}

// pushImage makes an image for two platforms.
func (w *world) pushImage(repo *registry.Repository, text string) ocispec.Descriptor {
	w.Helper()
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, arch := range []string{"amd64", "arm64"} {
		desc := w.pushPlatform(repo, text+" "+arch)
		desc.Platform = &ocispec.Platform{OS: "linux", Architecture: arch}
		index.Manifests = append(index.Manifests, desc)
	}
	return w.pushJSON(repo, ocispec.MediaTypeImageIndex, index)
}

// attach makes a referrer.
func (w *world) attach(repo *registry.Repository, subject ocispec.Descriptor, artifactType, layerType, text string) ocispec.Descriptor {
	w.Helper()
	return w.pushJSON(repo, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifactType,
		Config:  w.push(repo, ocispec.MediaTypeEmptyJSON, []byte("{}")),
		Layers:  []ocispec.Descriptor{w.push(repo, layerType, []byte(text))},
		Subject: &ocispec.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size},
	})
}

// runtime is a runtime of one bundle with one image.
type runtime struct {
	root, inner, image ocispec.Descriptor
	set                *bundle.Set
}

// pushRuntime makes a runtime and tags it; signed by nobody.
func (w *world) pushRuntime(repo *registry.Repository, called, version, text string, tags ...string) runtime {
	w.Helper()
	return w.pushRuntimeOf(repo, called, version, text, w.pushImage(repo, text), tags...)
}

// pushRuntimeOf makes a runtime of an image that is there.
func (w *world) pushRuntimeOf(repo *registry.Repository, called, version, text string, image ocispec.Descriptor, tags ...string) runtime {
	w.Helper()
	r := runtime{image: image}
	locked, err := name.NewDigest("ghcr.io/example/web@" + r.image.Digest.String())
	if err != nil {
		w.Fatal(err)
	}
	b := &bundle.Content{
		Bundle: &bundle.Bundle{APIVersion: bundle.APIVersion, Kind: bundle.KindBundle, Metadata: bundle.Metadata{Name: "web", Version: version},
			Spec: bundle.BundleSpec{Layer: 6, Sources: []bundle.Source{{Dir: "config", Path: "config"}}}},
		Images: images.Lock{{Image: locked, Reference: "ghcr.io/example/web:" + bundle.VersionTag(version)}},
		Files:  []bundle.File{{Path: "config/a.yaml", Data: []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {text: \"" + text + "\"}\n")}},
	}
	if r.inner, err = b.Pack(w.Context(), repo, time.Time{}); err != nil {
		w.Fatal(err)
	}
	nested, err := name.NewDigest("krtpkg.invalid/bundles/web@" + r.inner.Digest.String())
	if err != nil {
		w.Fatal(err)
	}
	c := &bundle.Content{
		Runtime: &bundle.RuntimeLock{APIVersion: bundle.APIVersion, Kind: bundle.KindRuntimeLock, Metadata: bundle.Metadata{Name: called, Version: version},
			Bundles: []bundle.LockedBundle{{Name: "web", Version: version, Layer: 6, Digest: r.inner.Digest.String()}}},
		Images: images.Lock{{Image: nested, Reference: nested.Name()}},
	}
	if r.root, err = c.Pack(w.Context(), repo, time.Time{}); err != nil {
		w.Fatal(err)
	}
	if r.set, err = bundle.OpenSet(w.Context(), repo, r.root); err != nil {
		w.Fatal(err)
	}
	for _, tag := range tags {
		w.tag(repo, r.root, tag)
	}
	return r
}

func (w *world) sign(repo *registry.Repository, desc ocispec.Descriptor) {
	w.Helper()
	if _, err := sign.Sign(w.Context(), repo, desc, sign.SignOptions{Signer: w.signer}); err != nil {
		w.Fatal(err)
	}
}

// quick are the options of gates in tests: what may change is asked for each time but for what happens at once.
func (w *world) quick() gate.Options {
	return gate.Options{
		Upstreams: []gate.Upstream{{Prefix: w.upstream.Host + "/krt", Open: w.open}},
		LoadPolicy: func(context.Context) (*trust.Policy, error) {
			return trust.LoadPolicy(filepath.Join(w.dir, "trust.yaml"))
		},
		StateDir: filepath.Join(w.dir, "state"), CacheDir: filepath.Join(w.dir, "cache"), CacheBytes: 64 << 20,
		Refresh: time.Nanosecond, Watch: 5 * time.Millisecond, Timeout: 5 * time.Second,
		Report: func(e gate.Event) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.events = append(w.events, e)
		},
	}
}

func (w *world) open(ctx context.Context, repository string) (gate.Repository, error) {
	return w.client.Repository(ctx, repository)
}

// findEvent returns the latest event of a kind.
func (w *world) findEvent(kind string) (found gate.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if e.Kind == kind {
			found = e
		}
	}
	return found
}

// server is a gate that is served.
type server struct {
	*world
	url  string
	stop func()
}

func (w *world) serve(o gate.Options) *server {
	w.Helper()
	g, err := gate.New(w.Context(), o)
	if err != nil {
		w.Fatal(err)
	}
	s := httptest.NewServer(g)
	var once sync.Once
	stop := func() {
		once.Do(func() {
			s.Close()
			if err := g.Close(); err != nil {
				w.Error(err)
			}
		})
	}
	w.Cleanup(stop)
	return &server{w, s.URL, stop}
}

// answer is what a request came to.
type answer struct {
	status int
	header http.Header
	body   string
	err    error
}

func (s *server) ask(method, path string, header ...string) answer {
	s.Helper()
	request, err := http.NewRequestWithContext(s.Context(), method, s.url, nil)
	if err != nil {
		s.Fatal(err)
	}
	// As it is, unlike net/url would have it.
	request.URL.Opaque = strings.Replace(s.url, "http:", "", 1) + path
	for i := 0; i+1 < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return answer{err: err}
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, response.Header, string(body), err}
}

func (s *server) get(path string, header ...string) answer {
	s.Helper()
	return s.ask(http.MethodGet, path, header...)
}

// is fails unless a request is answered like this, with the text in the body.
func (s *server) is(a answer, status int, text string) {
	s.Helper()
	if a.err != nil || a.status != status || !strings.Contains(a.body, text) {
		s.Errorf("got %d %.600s, %v\nwant %d, %s", a.status, a.body, a.err, status, text)
	}
}

// leadsTo fails unless a tag leads to a digest, with HEAD and GET.
func (s *server) leadsTo(path string, d digest.Digest) answer {
	s.Helper()
	for _, method := range []string{http.MethodHead, http.MethodGet} {
		a := s.ask(method, path)
		if a.status != http.StatusOK || a.header.Get("Docker-Content-Digest") != d.String() || method == http.MethodGet && digest.FromString(a.body) != d {
			s.Errorf("%s %s: %d, %s, want %s: %s", method, path, a.status, a.header.Get("Docker-Content-Digest"), d, a.body)
		}
		if method == http.MethodGet {
			return a
		}
	}
	return answer{}
}

// until waits until something is so.
func (w *world) until(what string, isSo func() bool) {
	w.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if isSo() {
			return
		}
	}
	w.Fatalf("it never comes to %s", what)
}

func manifestPath(repository string, reference any) string {
	return fmt.Sprintf("/v2/%s/manifests/%v", repository, reference)
}

func blobPath(repository string, d digest.Digest) string {
	return "/v2/" + repository + "/blobs/" + d.String()
}

// readManifest reads a manifest upstream.
func (w *world) readManifest(repo *registry.Repository, desc ocispec.Descriptor) (m struct {
	ocispec.Manifest
	Manifests []ocispec.Descriptor `json:"manifests"`
}) {
	w.Helper()
	data, err := content.FetchAll(w.Context(), repo, desc)
	if err == nil {
		err = json.Unmarshal(data, &m)
	}
	if err != nil {
		w.Fatal(err)
	}
	return m
}

// emptyRoot returns a trusted root of Sigstore with nothing in it.
func (w *world) emptyRoot() string {
	w.write("root.json", `{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`)
	return filepath.Join(w.dir, "root.json")
}

// runFailing runs a program that may fail, and returns what it says.
func runFailing(t *testing.T, env []string, bin string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), bin, args...)
	cmd.Env = append(append(os.Environ(), "HOME="+t.TempDir()), env...)
	said, err := cmd.CombinedOutput()
	return string(said), err
}
