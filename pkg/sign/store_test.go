package sign_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/olareg/olareg"
	"github.com/olareg/olareg/config"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/memory"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote"
)

// stores are what the library must work on: registries with the referrers API (one of them
// lists the config's media type as the artifact type), one without, and no registry at all.
var stores = map[string]func(*testing.T) oras.GraphTarget{
	"memory":               func(*testing.T) oras.GraphTarget { return memory.New() },
	"layout":               newLayout,
	"olareg":               func(t *testing.T) oras.GraphTarget { return repository(t, serve(t, newOlareg(t))) },
	"registry":             func(t *testing.T) oras.GraphTarget { return repository(t, serve(t, newRegistry(true))) },
	"registry, no listing": func(t *testing.T) oras.GraphTarget { return repository(t, serve(t, newRegistry(false))) },
}

func eachStore(t *testing.T, f func(t *testing.T, store oras.GraphTarget)) {
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, open(t))
		})
	}
}

func newLayout(t *testing.T) oras.GraphTarget {
	t.Helper()
	store, err := oci.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func newOlareg(t *testing.T) http.Handler {
	s := olareg.New(config.Config{Storage: config.ConfigStorage{StoreType: config.StoreMem}})
	t.Cleanup(func() { s.Close() })
	return s
}

func newRegistry(referrers bool) http.Handler {
	return ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)), ggcr.WithReferrersSupport(referrers))
}

// serve returns the host of a registry on the loopback.
func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func repository(t *testing.T, host string) *remote.Repository {
	t.Helper()
	repo, err := remote.NewRepository(host + "/krt/edge")
	if err != nil {
		t.Fatal(err)
	}
	repo.PlainHTTP = true
	return repo
}

// put writes content and returns its descriptor.
func put(t *testing.T, store content.Pusher, mediaType string, b []byte) ocispec.Descriptor {
	t.Helper()
	desc := content.NewDescriptorFromBytes(mediaType, b)
	if err := store.Push(t.Context(), desc, bytes.NewReader(b)); err != nil && !errors.Is(err, errdef.ErrAlreadyExists) {
		t.Fatal(err)
	}
	return desc
}

func putJSON(t *testing.T, store content.Pusher, mediaType string, v any) ocispec.Descriptor {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return put(t, store, mediaType, b)
}

// newRoot writes an artifact to be signed; another name is another artifact.
func newRoot(t *testing.T, store oras.GraphTarget, name string) ocispec.Descriptor {
	t.Helper()
	root := putJSON(t, store, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: "application/vnd.krtpkg.bundle.v1",
		Config:       put(t, store, ocispec.MediaTypeImageConfig, []byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`)),
		Layers:       []ocispec.Descriptor{put(t, store, ocispec.MediaTypeImageLayer, []byte(name))},
	})
	if err := store.Tag(t.Context(), root, name); err != nil {
		t.Fatal(err)
	}
	return root
}

func fetchJSON(t *testing.T, store content.Fetcher, desc ocispec.Descriptor, v any) {
	t.Helper()
	if err := json.Unmarshal(fetch(t, store, desc), v); err != nil {
		t.Fatal(err)
	}
}

func fetch(t *testing.T, store content.Fetcher, desc ocispec.Descriptor) []byte {
	t.Helper()
	b, err := content.FetchAll(t.Context(), store, desc)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// tagged returns the manifest under tag.
func tagged(t *testing.T, store oras.GraphTarget, tag string) ocispec.Manifest {
	t.Helper()
	desc, err := store.Resolve(t.Context(), tag)
	if err != nil {
		t.Fatal(err)
	}
	var m ocispec.Manifest
	fetchJSON(t, store, desc, &m)
	return m
}

// referrer returns the only referrer of root.
func referrer(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) ocispec.Manifest {
	t.Helper()
	all, err := store.Predecessors(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 1 {
		t.Fatalf("%d referrers of %s, want 1", len(all), root.Digest)
	}
	var m ocispec.Manifest
	fetchJSON(t, store, all[0], &m)
	return m
}

// corrupt is a store in which the content of one digest has been changed in place, as a
// registry or a disk that misbehaves would.
type corrupt struct {
	oras.ReadOnlyGraphTarget
	digest digest.Digest
	change func([]byte) []byte
}

func (c corrupt) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	rc, err := c.ReadOnlyGraphTarget.Fetch(ctx, desc)
	if err != nil || desc.Digest != c.digest {
		return rc, err
	}
	defer rc.Close()
	b, err := io.ReadAll(rc)
	return io.NopCloser(bytes.NewReader(c.change(b))), err
}

// listing is a store that lists other referrers than there are.
type listing struct {
	oras.ReadOnlyGraphTarget
	referrers []ocispec.Descriptor
}

func (l listing) Predecessors(context.Context, ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	return l.referrers, nil
}
