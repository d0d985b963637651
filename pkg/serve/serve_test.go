package serve_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/internal/layout"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/serve"
)

const layer = "the content of a layer"

// served is a layout with a bundle and its image, behind a server.
func served(t *testing.T, o serve.Options) (*httptest.Server, ocispec.Descriptor) {
	t.Helper()
	store, err := layout.Create(filepath.Join(t.TempDir(), "layout"))
	if err != nil {
		t.Fatal(err)
	}
	put := func(mediaType string, data []byte) ocispec.Descriptor {
		desc := content.NewDescriptorFromBytes(mediaType, data)
		if err := store.Push(t.Context(), desc, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		return desc
	}
	data, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: put(ocispec.MediaTypeImageConfig, []byte("{}")),
		Layers: []ocispec.Descriptor{put(ocispec.MediaTypeImageLayerGzip, []byte(layer))},
	})
	if err != nil {
		t.Fatal(err)
	}
	image := put(ocispec.MediaTypeImageManifest, data)
	locked, err := name.NewDigest("registry.example:5000/org/web@" + image.Digest.String())
	if err != nil {
		t.Fatal(err)
	}
	c := &bundle.Content{
		Bundle: &bundle.Bundle{
			APIVersion: bundle.APIVersion, Kind: bundle.KindBundle,
			Metadata: bundle.Metadata{Name: "edge", Version: "1.0.0"}, Spec: bundle.BundleSpec{Layer: 6},
		},
		Images: images.Lock{{Image: locked, Reference: "registry.example:5000/org/web:v1"}},
	}
	root, err := c.Pack(t.Context(), store, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	for _, tag := range []string{"1.0.0", "1.1.0", "latest"} {
		if err := store.Tag(t.Context(), root, tag); err != nil {
			t.Fatal(err)
		}
	}
	handler, err := serve.New(t.Context(), []serve.Store{store}, o)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server, image
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

func TestRequests(t *testing.T) {
	t.Parallel()
	server, image := served(t, serve.Options{})
	blob := digest.FromString(layer).String()
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
		{"GET /v2/edge/manifests/" + image.Digest.String(), nil, 200, "layers"},
		{"GET /v2/edge/manifests/" + absent, nil, 404, "MANIFEST_UNKNOWN"},
		{"GET /v2/edge/manifests/" + blob, nil, 404, "MANIFEST_UNKNOWN"},
		{"GET /v2/edge/manifests/sha256-abc.sig", nil, 404, "MANIFEST_UNKNOWN"},
		{"GET /v2/edge/manifests/..%2f..%2fetc", nil, 400, "NAME_INVALID"},
		{"GET /v2/edge/manifests/-x", nil, 400, "MANIFEST_INVALID"},
		{"GET /v2/edge/manifests/" + strings.Repeat("x", 129), nil, 400, "MANIFEST_INVALID"},
		{"GET /v2/other/manifests/1.0.0", nil, 404, "NAME_UNKNOWN"},
		{"GET /v2/registry.example_5000/org/web/manifests/v1", nil, 200, "layers"},
		{"GET /v2/org/web/manifests/v1?ns=registry.example:5000", nil, 200, "layers"},
		{"GET /v2/org/web/manifests/v1", nil, 200, "layers"},
		{"GET /v2/org/web/manifests/v2?ns=registry.example:5000", nil, 404, "MANIFEST_UNKNOWN"},
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
	}
	response, _ := get(t, "HEAD", server.URL+"/v2/edge/manifests/"+image.Digest.String())
	if got := response.Header; got.Get("Docker-Content-Digest") != image.Digest.String() || got.Get("Content-Type") != image.MediaType || got.Get("Content-Length") != fmt.Sprint(image.Size) {
		t.Errorf("%v", got)
	}
	response, _ = get(t, "GET", server.URL+"/v2/edge/tags/list?n=1")
	if got := response.Header.Get("Link"); got != `</v2/edge/tags/list?last=1.0.0&n=1>; rel="next"` {
		t.Errorf("link %q", got)
	}
}

func TestAuthorize(t *testing.T) {
	t.Parallel()
	server, _ := served(t, serve.Options{Repository: "krt/edge", Authorize: func(user, password string) bool { return user == "a" && password == "b" }})
	if response, body := get(t, "GET", server.URL+"/v2/"); response.StatusCode != 401 || response.Header.Get("WWW-Authenticate") == "" || !strings.Contains(body, "UNAUTHORIZED") {
		t.Errorf("%d %s", response.StatusCode, body)
	}
	if response, _ := get(t, "GET", server.URL+"/v2/krt/edge/manifests/1.0.0", "Authorization", "Basic YTpi"); response.StatusCode != 200 {
		t.Errorf("with a login: %d", response.StatusCode)
	}
}
