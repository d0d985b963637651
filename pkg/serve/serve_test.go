package serve_test

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
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/layout"
	"krtpkg.dev/krtpkg/pkg/serve"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

const layer = "the content of a layer"

// newLayout returns an empty layout.
func newLayout(t *testing.T) *layout.Store {
	t.Helper()
	store, err := layout.Create(filepath.Join(t.TempDir(), "layout"))
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func push(t *testing.T, store *layout.Store, mediaType string, data []byte) ocispec.Descriptor {
	t.Helper()
	desc := content.NewDescriptorFromBytes(mediaType, data)
	if err := store.Push(t.Context(), desc, bytes.NewReader(data)); err != nil && !errors.Is(err, errdef.ErrAlreadyExists) {
		t.Fatal(err)
	}
	return desc
}

func pushManifest(t *testing.T, store *layout.Store, m ocispec.Manifest) ocispec.Descriptor {
	t.Helper()
	m.Versioned, m.MediaType = specs.Versioned{SchemaVersion: 2}, ocispec.MediaTypeImageManifest
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return push(t, store, m.MediaType, data)
}

// addImage makes an image of one layer, which a lock calls by a reference.
func addImage(t *testing.T, store *layout.Store, reference, layer string) images.Locked {
	t.Helper()
	ref, err := name.ParseReference(reference)
	if err != nil {
		t.Fatal(err)
	}
	desc := pushManifest(t, store, ocispec.Manifest{
		Config: push(t, store, ocispec.MediaTypeImageConfig, []byte("{}")),
		Layers: []ocispec.Descriptor{push(t, store, ocispec.MediaTypeImageLayerGzip, []byte(layer))},
	})
	return images.Locked{Image: ref.Context().Digest(desc.Digest.String()), Reference: reference}
}

// attach makes a referrer.
func attach(t *testing.T, store *layout.Store, subject ocispec.Descriptor, artifactType string) ocispec.Descriptor {
	t.Helper()
	empty := push(t, store, ocispec.MediaTypeEmptyJSON, []byte("{}"))
	return pushManifest(t, store, ocispec.Manifest{
		ArtifactType: artifactType, Config: empty, Layers: []ocispec.Descriptor{empty},
		Subject: &ocispec.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size},
	})
}

// addBundle makes a bundle of images, tagged with its version and other tags.
func addBundle(t *testing.T, store *layout.Store, name, version string, lock images.Lock, tags ...string) ocispec.Descriptor {
	t.Helper()
	root := packBundle(t, store, name, version, lock)
	for _, tag := range append(tags, version) {
		if err := store.Tag(t.Context(), root, tag); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// packBundle makes a bundle without a tag.
func packBundle(t *testing.T, store *layout.Store, name, version string, lock images.Lock) ocispec.Descriptor {
	t.Helper()
	c := &bundle.Content{
		Bundle: &bundle.Bundle{
			APIVersion: bundle.APIVersion, Kind: bundle.KindBundle,
			Metadata: bundle.Metadata{Name: name, Version: version}, Spec: bundle.BundleSpec{Layer: 6, Sources: []bundle.Source{{Dir: "config"}}},
		},
		Images: lock,
	}
	root, err := c.Pack(t.Context(), store, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func start(t *testing.T, o serve.Options, stores ...serve.Store) *httptest.Server {
	t.Helper()
	handler, err := serve.NewServer(t.Context(), stores, o)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server
}

func get(t *testing.T, method, url string, header ...string) (*http.Response, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(context.Background(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}

// Where roots were verified, nothing is served but what belongs to them: other roots, images and blobs of the same
// folder are not there, by tag or by digest.
func TestOnlyWhatWasVerifiedIsServed(t *testing.T) {
	t.Parallel()
	store := newLayout(t)
	web := addImage(t, store, "registry.example/org/web:v1", layer)
	root := addBundle(t, store, "edge", "1.0.0", images.Lock{web})
	signature := attach(t, store, root, "application/vnd.cncf.notary.signature")
	onSignature := attach(t, store, signature, "application/vnd.example.note")
	legacy := attach(t, store, root, "application/vnd.example.legacy")
	evil := addImage(t, store, "registry.example/org/evil:v1", "the content of an evil layer")
	unsigned := packBundle(t, store, "edge", "2.0.0", images.Lock{evil})
	onUnsigned := attach(t, store, unsigned, "application/vnd.cncf.notary.signature")
	posing := pushManifest(t, store, ocispec.Manifest{
		ArtifactType: bundle.TypeRuntime, Config: push(t, store, ocispec.MediaTypeEmptyJSON, []byte("{}")), Layers: []ocispec.Descriptor{},
		Subject: &ocispec.Descriptor{MediaType: root.MediaType, Digest: root.Digest, Size: root.Size},
	})
	tagOf := func(desc ocispec.Descriptor) string {
		return strings.Replace(desc.Digest.String(), ":", "-", 1) + ".sig"
	}
	if err := errors.Join(store.Tag(t.Context(), legacy, tagOf(root)), store.Tag(t.Context(), onUnsigned, tagOf(unsigned))); err != nil {
		t.Fatal(err)
	}
	verified := 0
	server := start(t, serve.Options{Verify: func(context.Context, transfer.Source) error { verified++; return nil }}, store)
	all := start(t, serve.Options{}, store)
	blob := digest.FromString(layer).String()
	for path, served := range map[string]bool{
		"manifests/1.0.0": true, "manifests/" + root.Digest.String(): true, "manifests/" + web.Image.DigestStr(): true, "blobs/" + blob: true,
		"manifests/" + signature.Digest.String(): true, "manifests/" + onSignature.Digest.String(): true, "manifests/" + tagOf(root): true, "manifests/" + legacy.Digest.String(): true,
		"manifests/" + unsigned.Digest.String(): false, "manifests/" + evil.Image.DigestStr(): false, "blobs/" + digest.FromString("the content of an evil layer").String(): false,
		"blobs/" + evil.Image.DigestStr(): false, "manifests/" + onUnsigned.Digest.String(): false, "manifests/" + tagOf(unsigned): false, "manifests/" + posing.Digest.String(): false,
	} {
		got, body := get(t, "GET", server.URL+"/v2/edge/"+path)
		if served != (got.StatusCode == 200) || !served && got.StatusCode != 404 {
			t.Errorf("%s: got %d %s", path, got.StatusCode, body)
		}
		if got, _ := get(t, "GET", all.URL+"/v2/edge/"+path); got.StatusCode != 200 {
			t.Errorf("%s: without verification: got %d", path, got.StatusCode)
		}
	}
	_, tags := get(t, "GET", server.URL+"/v2/edge/tags/list")
	_, onRoot := get(t, "GET", server.URL+"/v2/edge/referrers/"+root.Digest.String())
	_, other := get(t, "GET", server.URL+"/v2/edge/referrers/"+unsigned.Digest.String())
	if verified != 1 || !strings.Contains(tags, `"1.0.0"`) || !strings.Contains(tags, tagOf(root)) || strings.Contains(tags, tagOf(unsigned)) ||
		!strings.Contains(onRoot, signature.Digest.String()) || strings.Contains(onRoot, posing.Digest.String()) || strings.Contains(other, onUnsigned.Digest.String()) {
		t.Errorf("verified %d\n%s\n%s\n%s", verified, tags, onRoot, other)
	}
}

func TestRequests(t *testing.T) {
	t.Parallel()
	store := newLayout(t)
	web := addImage(t, store, "registry.example:5000/org/web:v1", layer)
	root := addBundle(t, store, "edge", "1.0.0", images.Lock{web}, "1.1.0", "latest")
	signature := attach(t, store, root, "application/vnd.cncf.notary.signature")
	large := push(t, store, ocispec.MediaTypeImageLayer, fmt.Appendf(nil, `{"config":{},"mediaType":%q,"x":%q}`, ocispec.MediaTypeImageManifest, strings.Repeat("x", 4<<20)))
	server := start(t, serve.Options{AllowRenamedTags: true}, store)
	image := web.Image.DigestStr()
	blob := digest.FromString(layer).String()
	config := push(t, store, ocispec.MediaTypeImageConfig, []byte(`{"mediaType":"text/html","os":"linux","x":"<script>alert(1)</script>"}`)).Digest.String()
	absent := digest.FromString("absent").String()
	for _, c := range []struct {
		request string
		header  []string
		status  int
		want    string
	}{
		{"GET /v2/", nil, 200, "{}"},
		{"GET /", nil, 404, "NAME_UNKNOWN"},
		{"GET /v2/_catalog", nil, 200, `{"repositories":["edge"]}`},
		{"GET /v2/edge/tags/list", nil, 200, `"tags":["1.0.0","1.1.0","latest"]`},
		{"GET /v2/edge/tags/list?n=2", nil, 200, `"tags":["1.0.0","1.1.0"]`},
		{"GET /v2/edge/tags/list?n=2&last=1.1.0", nil, 200, `"tags":["latest"]`},
		{"GET /v2/edge/tags/list?n=0", nil, 200, `"tags":[]`},
		{"GET /v2/edge/tags/list?last=zzz", nil, 200, `"tags":[]`},
		{"GET /v2/edge/tags/list?n=-1", nil, 400, "PAGINATION_NUMBER_INVALID"},
		{"GET /v2/edge/manifests/1.0.0", nil, 200, "vnd.krtpkg.bundle.v1"},
		{"HEAD /v2/edge/manifests/1.0.0", nil, 200, ""},
		{"GET /v2/edge/manifests/9.9.9", nil, 404, "MANIFEST_UNKNOWN"},
		{"GET /v2/edge/manifests/" + image, nil, 200, "layers"},
		{"GET /v2/edge/manifests/" + absent, nil, 404, "MANIFEST_UNKNOWN"},
		{"GET /v2/edge/manifests/" + blob, nil, 404, "MANIFEST_UNKNOWN"},
		{"GET /v2/edge/manifests/" + large.Digest.String(), nil, 404, "MANIFEST_UNKNOWN"},
		{"GET /v2/edge/manifests/" + config, nil, 404, "MANIFEST_UNKNOWN"},
		{"GET /v2/edge/blobs/" + config, nil, 200, "<script>"},
		{"GET /v2/edge/manifests/sha256-abc.sig", nil, 404, "MANIFEST_UNKNOWN"},
		{"GET /v2/edge/manifests/..%2f..%2fetc", nil, 400, "NAME_INVALID"},
		{"GET /v2/edge/manifests/-x", nil, 400, "MANIFEST_INVALID"},
		{"GET /v2/edge/manifests/" + strings.Repeat("x", 129), nil, 400, "MANIFEST_INVALID"},
		{"GET /v2/other/manifests/1.0.0", nil, 404, "NAME_UNKNOWN"},
		{"GET /v2/registry.example_5000/org/web/manifests/v1", nil, 200, "layers"},
		{"GET /v2/org/web/manifests/v1?ns=registry.example:5000", nil, 200, "layers"},
		{"GET /v2/org/web/manifests/v1", nil, 200, "layers"},
		{"GET /v2/org/web/manifests/v2?ns=registry.example:5000", nil, 404, "MANIFEST_UNKNOWN"},
		{"GET /v2/org/web/manifests/v1?ns=other.example", nil, 404, "NAME_UNKNOWN"},
		{"GET /v2/org/web/manifests/" + image + "?ns=registry.example:5000", nil, 200, "layers"},
		{"GET /v2/org/web/blobs/" + blob + "?ns=registry.example:5000", nil, 200, layer},
		{"GET /v2/registry.example_5000/org/web/manifests/v1?ns=registry.example:5000", nil, 200, "layers"},
		{"GET /v2/edge/manifests/" + root.Digest.String() + "?ns=site.example", nil, 200, "vnd.krtpkg.bundle.v1"},
		{"GET /v2/org/web/tags/list", nil, 200, `"tags":["v1"]`},
		{"GET /v2/Edge/manifests/1.0.0", nil, 400, "NAME_INVALID"},
		{"GET /v2/edge//manifests/1.0.0", nil, 400, "NAME_INVALID"},
		{"GET /v2/" + strings.Repeat("a/", 200) + "a/manifests/1", nil, 400, "NAME_INVALID"},
		{"GET /v2/edge/blobs/" + blob, nil, 200, layer},
		{"HEAD /v2/edge/blobs/" + blob, nil, 200, ""},
		{"GET /v2/edge/blobs/" + blob, []string{"Range", "bytes=4-10"}, 206, "content"},
		{"GET /v2/edge/blobs/" + blob, []string{"Range", "bytes=100-"}, 416, ""},
		{"GET /v2/edge/blobs/" + blob, []string{"If-None-Match", `"` + blob + `"`}, 304, ""},
		{"GET /v2/edge/blobs/" + absent, nil, 404, "BLOB_UNKNOWN"},
		{"GET /v2/edge/blobs/sha256:abc", nil, 400, "DIGEST_INVALID"},
		{"GET /v2/edge/blobs/sha256:..%2f..%2f..%2fetc%2fpasswd", nil, 400, "NAME_INVALID"},
		{"GET /v2/edge/referrers/" + absent, nil, 200, `"manifests":[]`},
		{"GET /v2/edge/referrers/" + root.Digest.String(), nil, 200, signature.Digest.String()},
		{"GET /v2/edge/referrers/" + root.Digest.String() + "?artifactType=other", nil, 200, `"manifests":[]`},
		{"GET /v2/edge/referrers/latest", nil, 400, "DIGEST_INVALID"},
		{"GET /v2/edge/uploads/x", nil, 404, "NAME_UNKNOWN"},
		{"POST /v2/edge/blobs/uploads/", nil, 405, "UNSUPPORTED"},
		{"PUT /v2/edge/manifests/2.0.0", nil, 405, "UNSUPPORTED"},
		{"DELETE /v2/edge/manifests/1.0.0", nil, 405, "UNSUPPORTED"},
	} {
		method, path, _ := strings.Cut(c.request, " ")
		response, body := get(t, method, server.URL+path, c.header...)
		if response.StatusCode != c.status || !strings.Contains(body, c.want) || c.want == "" && method == "HEAD" && body != "" {
			t.Errorf("%s: %d %.200s, want %d %q", c.request, response.StatusCode, body, c.status, c.want)
		}
		if kind := response.Header.Get("Content-Type"); strings.Contains(kind, "html") || response.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: browsers take it for %q, by %v", c.request, kind, response.Header)
		}
	}
	response, _ := get(t, "HEAD", server.URL+"/v2/edge/manifests/"+image)
	if got := response.Header; got.Get("Docker-Content-Digest") != image || got.Get("Content-Type") != ocispec.MediaTypeImageManifest || response.ContentLength <= 0 || got.Get("ETag") == "" {
		t.Errorf("manifest: %v", got)
	}
	response, _ = get(t, "HEAD", server.URL+"/v2/edge/blobs/"+blob)
	if got := response.Header; got.Get("Docker-Content-Digest") != blob || got.Get("Accept-Ranges") != "bytes" || response.ContentLength != int64(len(layer)) {
		t.Errorf("blob: %v", got)
	}
	response, body := get(t, "GET", server.URL+"/v2/edge/referrers/"+root.Digest.String()+"?artifactType=application/vnd.cncf.notary.signature")
	if response.Header.Get("OCI-Filters-Applied") != "artifactType" || response.Header.Get("Content-Type") != ocispec.MediaTypeImageIndex || !strings.Contains(body, signature.Digest.String()) {
		t.Errorf("referrers: %v %s", response.Header, body)
	}
	response, _ = get(t, "GET", server.URL+"/v2/edge/tags/list?n=1")
	if got := response.Header.Get("Link"); got != `</v2/edge/tags/list?last=1.0.0&n=1>; rel="next"` {
		t.Errorf("link %q", got)
	}
}

// A name that two have is not given to either of them, and a root's name is its own.
func TestNames(t *testing.T) {
	t.Parallel()
	store := newLayout(t)
	pinned := addImage(t, store, "three.example/org/pinned:v1", "pinned")
	pinned.Reference = "three.example/org/pinned@" + pinned.Image.DigestStr()
	root := addBundle(t, store, "web", "1.0.0", images.Lock{
		pinned,
		addImage(t, store, "one.example/org/web:v1", "one"),
		addImage(t, store, "two.example/org/web:v1", "two"),
		addImage(t, store, "two.example/org/web:v2", "only two's"),
		addImage(t, store, "two.example/web:1.0.0", "called as the bundle is"),
		addImage(t, store, "nginx:1.27", "of Docker Hub"),
	})
	server := start(t, serve.Options{}, store)
	for _, c := range []struct {
		path string
		want string // the content of the layer; "" where nothing is to be found
	}{
		{"/v2/org/pinned/manifests/" + pinned.Image.DigestStr(), "pinned"},
		{"/v2/org/pinned/manifests/latest", ""},
		{"/v2/three.example/org/pinned/manifests/latest", ""},
		{"/v2/org/web/manifests/v1", ""},
		{"/v2/org/web/manifests/v1?ns=one.example", "one"},
		{"/v2/org/web/manifests/v1?ns=two.example", "two"},
		{"/v2/org/web/manifests/v1?ns=quay.io", ""},
		{"/v2/org/web/manifests/v2", "only two's"},
		{"/v2/org/web/manifests/v2?ns=one.example", ""},
		{"/v2/web/manifests/1.0.0?ns=two.example", "called as the bundle is"},
		{"/v2/library/nginx/manifests/1.27?ns=docker.io", "of Docker Hub"},
		{"/v2/docker.io/library/nginx/manifests/1.27", "of Docker Hub"},
	} {
		response, body := get(t, "GET", server.URL+c.path)
		if c.want == "" {
			if response.StatusCode != http.StatusNotFound {
				t.Errorf("%s: %d %s", c.path, response.StatusCode, body)
			}
			continue
		}
		if d := digest.FromString(c.want).String(); !strings.Contains(body, d) {
			t.Errorf("%s: %d %s, want layer %q", c.path, response.StatusCode, body, c.want)
		}
	}
	response, _ := get(t, "HEAD", server.URL+"/v2/web/manifests/1.0.0")
	if got := response.Header.Get("Docker-Content-Digest"); got != root.Digest.String() {
		t.Errorf("web:1.0.0 is %s", got)
	}
	if _, body := get(t, "GET", server.URL+"/v2/org/web/tags/list"); !strings.Contains(body, `"tags":["v2"]`) {
		t.Errorf("tags %s", body)
	}
}

// Two folders with the same tag of different things are refused, as are names that are none.
func TestRefused(t *testing.T) {
	t.Parallel()
	one, two := newLayout(t), newLayout(t)
	addBundle(t, one, "one", "1.0.0", nil)
	addBundle(t, two, "two", "1.0.0", nil)
	for want, repository := range map[string]string{
		"krt/edge:1.0.0 is both sha256:":        "krt/edge",
		`"../edge" is not a repository name`:    "../edge",
		`"krt/Edge" is not a repository name`:   "krt/Edge",
		`"krt/edge:1" is not a repository name`: "krt/edge:1",
		"is not a repository name":              strings.Repeat("x", 256),
	} {
		_, err := serve.NewServer(t.Context(), []serve.Store{one, two}, serve.Options{Repository: repository})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", repository, err, want)
		}
	}
	if _, err := serve.NewServer(t.Context(), []serve.Store{newLayout(t)}, serve.Options{}); err == nil {
		t.Error("an empty folder is served")
	}
}

// A manifest that is not what its digest says is not sent; of the others all is still there.
func TestDamagedManifest(t *testing.T) {
	t.Parallel()
	store := newLayout(t)
	root := addBundle(t, store, "edge", "1.0.0", images.Lock{addImage(t, store, "one.example/org/web:v1", layer)})
	server := start(t, serve.Options{}, store)
	file := filepath.Join(strings.TrimPrefix(store.String(), "oci:"), "blobs", "sha256", root.Digest.Encoded())
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	damaged := bytes.Replace(data, []byte("edge"), []byte("edgy"), 1)
	if err := errors.Join(os.Chmod(file, 0o644), os.WriteFile(file, damaged, 0o644)); err != nil {
		t.Fatal(err)
	}
	for _, reference := range []string{"1.0.0", root.Digest.String()} {
		response, body := get(t, "GET", server.URL+"/v2/edge/manifests/"+reference)
		if response.StatusCode != http.StatusInternalServerError || strings.Contains(body, "edgy") {
			t.Errorf("%s: %d %s", reference, response.StatusCode, body)
		}
	}
	if response, _ := get(t, "GET", server.URL+"/v2/one.example/org/web/manifests/v1"); response.StatusCode != http.StatusOK {
		t.Errorf("image: %d", response.StatusCode)
	}
}
