package serve_test

import (
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"krtpkg.dev/krtpkg/internal/imagetest"
	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/layout"
	"krtpkg.dev/krtpkg/pkg/serve"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

const webSize = 300_000

// edge returns a bundle of one real image, of all platforms, in a layout.
func edge(t *testing.T) (*layout.Store, transfer.Source) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layout")
	index, err := imagetest.NewSizedIndex("one.example/org/web:v1", webSize)
	if err != nil {
		t.Fatal(err)
	}
	if err := imagetest.AddToLayout(dir, "one.example/org/web:v1", index); err != nil {
		t.Fatal(err)
	}
	store, err := layout.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	image, err := store.Resolve(t.Context(), "one.example/org/web:v1")
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.NewDigest("one.example/org/web@" + image.Digest.String())
	if err != nil {
		t.Fatal(err)
	}
	root := addBundle(t, store, "edge", "1.0.0", images.Lock{{Image: ref, Reference: "one.example/org/web:v1"}})
	return store, transfer.Source{Store: store, Root: root, Tags: []string{"1.0.0"}}
}

func planOf(t *testing.T, source transfer.Source) *transfer.Plan {
	t.Helper()
	plan, err := transfer.NewPlan(t.Context(), []transfer.Source{source}, transfer.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// written returns an archive, opened.
func written(t *testing.T, c archive.Contents, plan *transfer.Plan) *archive.Store {
	t.Helper()
	file := filepath.Join(t.TempDir(), "edge.tar")
	if _, err := archive.WriteFile(t.Context(), file, c, plan, archive.Options{}); err != nil {
		t.Fatal(err)
	}
	store, err := archive.Open(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return store
}

// pulled returns the image as a registry's client has it, each byte checked.
func pulled(t *testing.T, host, reference string) v1.Hash {
	t.Helper()
	ref, err := name.ParseReference(host+"/"+reference, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	index, err := remote.Index(ref, remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, child := range manifest.Manifests {
		image, err := index.Image(child.Digest)
		if err != nil {
			t.Fatal(err)
		}
		readLayers(t, image)
	}
	d, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func readLayers(t *testing.T, image v1.Image) {
	t.Helper()
	layers, err := image.Layers()
	if err != nil || len(layers) == 0 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	for _, l := range layers {
		body, err := l.Compressed() // checked as it is read
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, body); err != nil || n == 0 {
			t.Errorf("layer of %d bytes: %v", n, err)
		}
		if err := body.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Whether it lies in a folder, in an archive or in its volumes, what is pulled is the same.
func TestPull(t *testing.T) {
	t.Parallel()
	store, source := edge(t)
	plan := planOf(t, source)
	contents := plan.ArchiveContents(nil, nil)
	volumes, err := contents.Split(webSize + webSize/2)
	if err != nil {
		t.Fatal(err)
	}
	if len(volumes) < 2 {
		t.Fatalf("%d volumes", len(volumes))
	}
	split := []serve.Store{}
	for _, volume := range volumes {
		split = append(split, written(t, volume, plan))
	}
	image, err := store.Resolve(t.Context(), "one.example/org/web:v1")
	if err != nil {
		t.Fatal(err)
	}
	for kind, stores := range map[string][]serve.Store{"folder": {store}, "archive": {written(t, contents, plan)}, "volumes": split} {
		t.Run(kind, func(t *testing.T) {
			server := start(t, serve.Options{}, stores...)
			host := strings.TrimPrefix(server.URL, "http://")
			for _, reference := range []string{"org/web:v1", "one.example/org/web:v1", "edge@" + image.Digest.String()} {
				if got := pulled(t, host, reference).String(); got != image.Digest.String() {
					t.Errorf("%s is %s, want %s", reference, got, image.Digest)
				}
			}
		})
	}
	var lacking *serve.LackingError
	var base *transfer.BaseError
	_, err = serve.NewServer(t.Context(), split[:1], serve.Options{})
	if !errors.As(err, &lacking) || len(lacking.Missing) == 0 || !strings.Contains(err.Error(), "serve its other volumes next to it") || !errors.As(err, &base) {
		t.Errorf("one volume alone: %v", err)
	}
}

// An archive that leaves out what another has is served next to it, and not alone. What both
// have attached is listed once.
func TestBase(t *testing.T) {
	t.Parallel()
	store, source := edge(t)
	web := lockOf(t, store, source.Root)
	image, err := store.Resolve(t.Context(), web.Image.DigestStr())
	if err != nil {
		t.Fatal(err)
	}
	signature := attach(t, store, image, "application/vnd.cncf.notary.signature")
	first := planOf(t, source)
	next := addBundle(t, store, "edge", "1.1.0", images.Lock{web, addImage(t, store, "one.example/org/new:v1", layer)})
	second := planOf(t, transfer.Source{Store: store, Root: next, Tags: []string{"1.1.0"}})
	base := written(t, first.ArchiveContents(nil, nil), first)
	update := written(t, second.ArchiveContents(first.ContainsFunc(), []string{"site.example/edge:1.0.0@" + source.Root.Digest.String()}), second)

	var lacking *serve.LackingError
	if _, err := serve.NewServer(t.Context(), []serve.Store{update}, serve.Options{}); !errors.As(err, &lacking) || !strings.Contains(err.Error(), "serve site.example/edge:1.0.0@sha256:") {
		t.Errorf("alone: %v", err)
	}
	for _, stores := range [][]serve.Store{{base, update}, {update, base}} {
		server := start(t, serve.Options{}, stores...)
		pulled(t, strings.TrimPrefix(server.URL, "http://"), "one.example/org/web:v1")
		if _, body := get(t, "GET", server.URL+"/v2/edge/tags/list"); !strings.Contains(body, `["1.0.0","1.1.0"]`) {
			t.Errorf("tags: %s", body)
		}
		if _, body := get(t, "GET", server.URL+"/v2/edge/referrers/"+image.Digest.String()); strings.Count(body, signature.Digest.String()) != 1 {
			t.Errorf("referrers: %s", body)
		}
	}
}

// lockOf returns the only image of a bundle.
func lockOf(t *testing.T, store *layout.Store, root ocispec.Descriptor) images.Locked {
	t.Helper()
	opened, err := bundle.Open(t.Context(), store, root)
	if err != nil {
		t.Fatal(err)
	}
	return opened.Images[0]
}

// Many nodes pull at once, in ranges and whole.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	_, source := edge(t)
	plan := planOf(t, source)
	contents := plan.ArchiveContents(nil, nil)
	server := start(t, serve.Options{}, written(t, contents, plan))
	var all sync.WaitGroup
	for node := range 8 {
		for _, blob := range contents.Blobs {
			all.Go(func() {
				body, err := parts(server.URL+"/v2/edge/blobs/"+blob.Digest.String(), blob.Size/2, node%2 == 0)
				if err != nil || digest.FromBytes(body) != blob.Digest {
					t.Errorf("%s: %d bytes, %v", blob.Digest, len(body), err)
				}
			})
		}
	}
	all.Wait()
}

// parts reads a blob whole, or to an offset and goes on from there.
func parts(url string, at int64, split bool) ([]byte, error) {
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if !split {
		return io.ReadAll(response.Body)
	}
	head, err := io.ReadAll(io.LimitReader(response.Body, at))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Range", "bytes="+strconv.FormatInt(at, 10)+"-")
	request.Header.Set("If-Range", response.Header.Get("ETag"))
	rest, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer rest.Body.Close()
	if rest.StatusCode != http.StatusPartialContent {
		return nil, errors.New(rest.Status)
	}
	tail, err := io.ReadAll(rest.Body)
	return append(head, tail...), err
}
