package source_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/pkg/source"
)

// liar is a registry that answers whatever it likes.
type liar struct {
	manifest ocispec.Descriptor
	blobs    map[digest.Digest][]byte
	tags     []string
}

func (l *liar) Resolve(context.Context, string) (ocispec.Descriptor, error) { return l.manifest, nil }

func (l *liar) Exists(context.Context, ocispec.Descriptor) (bool, error) { return true, nil }

func (l *liar) Fetch(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(l.blobs[desc.Digest])), nil
}

// Tags is endless.
func (l *liar) Tags(ctx context.Context, _ string, page func([]string) error) error {
	for ctx.Err() == nil {
		if err := page(l.tags); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// lie makes a registry of one manifest, which has the digest that it should have.
func lie(t *testing.T, layers ...ocispec.Descriptor) *liar {
	t.Helper()
	data, err := json.Marshal(ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Layers: layers})
	if err != nil {
		t.Fatal(err)
	}
	desc := content.NewDescriptorFromBytes(ocispec.MediaTypeImageManifest, data)
	return &liar{manifest: desc, blobs: map[digest.Digest][]byte{desc.Digest: data}}
}

func digestOf(t *testing.T, desc ocispec.Descriptor) name.Digest {
	t.Helper()
	ref, err := name.NewDigest("r.example/x@" + desc.Digest.String())
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// What a manifest says of its layers is an error where it is nonsense, and never a panic.
func TestManifestsThatLie(t *testing.T) {
	t.Parallel()
	x := digest.FromString("x")
	for _, c := range []struct {
		layer ocispec.Descriptor
		want  string
	}{
		{ocispec.Descriptor{}, `digest "" `},
		{ocispec.Descriptor{Digest: "nonsense"}, `digest "nonsense" `},
		{ocispec.Descriptor{Digest: "sha256:"}, `digest "sha256:" `},
		{ocispec.Descriptor{Digest: "sha256:../../../etc/passwd"}, `digest "sha256:../../../etc/passwd" `},
		{ocispec.Descriptor{Digest: digest.SHA512.FromString("x")}, `digest "sha512:`},
		{ocispec.Descriptor{Digest: x, Size: -1}, "-1 bytes are over the limit of 1073741824"},
		{ocispec.Descriptor{Digest: x, Size: 1 << 40}, " over the limit of "},
		{ocispec.Descriptor{Digest: x, Size: 2}, "EOF"},
	} {
		c.layer.MediaType = helmLayer
		l := lie(t, c.layer)
		l.blobs[x] = []byte("x")
		fetcher := source.Fetcher{Registry: stores{l}, Cache: t.TempDir()}
		_, err := fetcher.FetchArtifact(t.Context(), digestOf(t, l.manifest), source.Pick{})
		_, failed := fetcher.FetchChart(t.Context(), "oci://r.example/charts", "web", "1.0.0", "")
		for _, err := range []error{err, failed} {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v: got %v, want %s", c.layer.Digest, err, c.want)
			}
		}
	}
	for _, desc := range []ocispec.Descriptor{{Digest: "nonsense"}, {Digest: x, Size: 4<<20 + 1}} {
		if _, err := (&source.Fetcher{Registry: stores{&liar{manifest: desc}}}).FetchChart(t.Context(), "oci://r.example/charts", "web", "1.0.0", ""); err == nil {
			t.Errorf("%v is taken", desc)
		}
	}
}

// Tags that go on for ever end, whatever they are, and none is too odd to be put in order.
func TestTagsThatLie(t *testing.T) {
	t.Parallel()
	for _, tag := range []string{"1.0.0", "latest"} {
		endless := &source.Fetcher{Registry: stores{&liar{tags: append(make([]string, 10_000), tag)}}}
		_, err := endless.ListChartVersions(t.Context(), "oci://r.example/charts", "web")
		if err == nil || err.Error() != "tags of r.example/charts/web: more than 100000 tags" {
			t.Errorf("got %v", err)
		}
	}
	long := "1.0.0-" + strings.Repeat("x", 250)
	odd := []string{"1.0.0", "vv1.0.0", "v1.0.0", "v" + long, long, "", "v", "_", "1.0.0_", "18446744073709551616.0.0", "1.0.0-01", "01.0.0", "\x00"}
	got, err := (&source.Fetcher{Registry: stores{once{&liar{tags: odd}}}}).ListChartVersions(t.Context(), "oci://r.example/charts", "web")
	if err != nil || fmt.Sprint(got) != fmt.Sprint([]source.ChartVersion{{Version: "1.0.0"}, {Version: "v1.0.0"}, {Version: long}}) {
		t.Errorf("got %v, %v", got, err)
	}
}

// once ends after one page.
type once struct{ *liar }

func (o once) Tags(_ context.Context, _ string, page func([]string) error) error { return page(o.tags) }

// A redirect may not lead from https to http, and is not asked for again.
func TestRedirectsStayPrivate(t *testing.T) {
	t.Parallel()
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "content") }))
	defer plain.Close()
	asked := 0
	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		asked++
		switch request.URL.Path {
		case "/down":
			http.Redirect(w, request, plain.URL, http.StatusFound)
		case "/on":
			http.Redirect(w, request, "/x", http.StatusFound)
		case "/x":
			fmt.Fprint(w, "content")
		default:
			http.Redirect(w, request, request.URL.Path, http.StatusFound)
		}
	}))
	defer secure.Close()
	fetcher := source.Fetcher{Client: secure.Client()}
	_, err := fetcher.FetchURL(t.Context(), secure.URL+"/down", sum("content"))
	if err == nil || !strings.HasSuffix(err.Error(), "only https is allowed, also after a redirect") || asked != 1 {
		t.Errorf("got %v, asked %d times", err, asked)
	}
	if got, err := fetcher.FetchURL(t.Context(), secure.URL+"/on", sum("content")); err != nil || string(got.Files[0].Data) != "content" {
		t.Errorf("got %v, %v", got, err)
	}
	// A mirror by http is the user's own choice.
	fetcher.Mirrors = []source.Mirror{{Prefix: "https://up.example", Replacement: plain.URL}}
	if got, err := fetcher.FetchURL(t.Context(), "https://up.example/x", sum("content")); err != nil || string(got.Files[0].Data) != "content" {
		t.Errorf("got %v, %v", got, err)
	}
}

// An archive has the digest of its own bytes, though a server calls its gzip an encoding.
func TestArchivesAreNotUnpackedOnTheWay(t *testing.T) {
	t.Parallel()
	data := gzipOf(t, tarOf(t, item{name: "x.yaml"}))
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		if _, err := w.Write(data); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	got, err := (&source.Fetcher{Client: server.Client()}).FetchArchive(t.Context(), server.URL+"/a.tgz", sum(string(data)), source.Pick{})
	if err != nil || contents(got)["x.yaml"] != "x.yaml" {
		t.Errorf("got %v, %v", got, err)
	}
}

// Where links lead takes memory as names do.
func TestLinksWithLongTargets(t *testing.T) {
	t.Parallel()
	for _, kind := range []byte{tar.TypeSymlink, tar.TypeLink} {
		data := tarOf(t, item{name: "x.yaml"}, item{name: "l", kind: kind, to: strings.Repeat("t/", 2049)})
		_, err := archived(t, data).FetchArchive(t.Context(), "a", "", source.Pick{})
		if err == nil || err.Error() != `archive a: entry "l" is a link of over 4096 bytes` {
			t.Errorf("got %v", err)
		}
	}
}

// A hard link is the file that it was linked to, whatever later layers make of that name.
func TestHardLinksInLayers(t *testing.T) {
	t.Parallel()
	r := registrytest.StartRegistry(t, registrytest.Options{})
	layer := func(all ...item) blobOf { return blobOf{mediaType: imageLayer, data: gzipOf(t, tarOf(t, all...))} }
	hard := func(name, to string) item { return item{name: name, kind: tar.TypeLink, to: to} }
	got, err := (&source.Fetcher{Registry: registries{r}}).FetchArtifact(t.Context(), artifact(t, r,
		layer(item{name: "d/a.yaml", data: "below"}, hard("b.yaml", "d/a.yaml"), hard("c.yaml", "./d/../d/a.yaml"), item{name: "gone.yaml"}, hard("kept.yaml", "gone.yaml")),
		layer(item{name: "d/a.yaml", data: "above"}, item{name: ".wh.gone.yaml"}, hard("e.yaml", "b.yaml"))), source.Pick{})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"d/a.yaml": "above", "b.yaml": "below", "c.yaml": "below", "kept.yaml": "gone.yaml", "e.yaml": "below"}
	if fmt.Sprint(contents(got)) != fmt.Sprint(want) {
		t.Errorf("got %v", contents(got))
	}
}
