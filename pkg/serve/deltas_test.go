package serve_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/internal/imagetest"
	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/layout"
	"krtpkg.dev/krtpkg/pkg/serve"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

// Archives with deltas are served with what they build on, in any order, and clients get the images that
// were exported.
func TestServeDeltas(t *testing.T) {
	t.Parallel()
	plans := releases(t, 3)
	stores := []serve.Store{written(t, plans[0].ArchiveContents(nil, nil), plans[0])}
	for i := 1; i < len(plans); i++ {
		stores = append([]serve.Store{writtenDeltas(t, plans[i], plans[i-1])}, stores...)
	}
	o := serve.Options{TemporaryDir: t.TempDir()}
	var lacking *serve.LackingError
	if _, err := serve.NewServer(t.Context(), stores[:2], o); !errors.As(err, &lacking) {
		t.Errorf("without the first: %v", err)
	}
	server, err := serve.NewServer(t.Context(), stores, o)
	if err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(o.TemporaryDir); err != nil || len(entries) > 0 {
		t.Errorf("a kill would leave %d files, %v", len(entries), err)
	}
	web := httptest.NewServer(server)
	defer web.Close()
	host := strings.TrimPrefix(web.URL, "http://")
	for release := range plans {
		pulled(t, host, fmt.Sprintf("one.example/org/web:v%d", release))
	}
	if err := server.Close(); err != nil {
		t.Error(err)
	}
}

// releases returns plans of versions of a bundle whose image changes little.
func releases(t *testing.T, count int) (plans []*transfer.Plan) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layout")
	for release := range count {
		reference := fmt.Sprintf("one.example/org/web:v%d", release)
		index, err := imagetest.NewIndex(func(p v1.Platform) (v1.Image, error) {
			data := make([]byte, webSize)
			rand.NewChaCha8([32]byte{p.Architecture[1]}).Read(data)
			copy(data[1000*release:], reference)
			return imagetest.NewImage(p, "program", 0o755, data, v1.Config{})
		})
		if err == nil {
			err = imagetest.AddToLayout(dir, reference, index)
		}
		if err != nil {
			t.Fatal(err)
		}
		store, err := layout.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		image, err := store.Resolve(t.Context(), reference)
		if err != nil {
			t.Fatal(err)
		}
		ref, err := name.NewDigest("one.example/org/web@" + image.Digest.String())
		if err != nil {
			t.Fatal(err)
		}
		version := fmt.Sprintf("1.%d.0", release)
		root := addBundle(t, store, "edge", version, images.Lock{{Image: ref, Reference: reference}})
		plans = append(plans, planOf(t, transfer.Source{Store: store, Root: root, Tags: []string{version}}))
	}
	return plans
}

// forgedDeltas returns an archive of a plan, without what a base has if one is given, with deltas as
// change makes them of those of another archive.
func forgedDeltas(t *testing.T, plan, base *transfer.Plan, from *archive.Store, change func(*archive.Delta)) *archive.Store {
	t.Helper()
	deltas, err := from.Deltas(t.Context())
	if err != nil || len(deltas) == 0 {
		t.Fatalf("%d deltas, %v", len(deltas), err)
	}
	c := plan.ArchiveContents(nil, nil)
	if base != nil {
		c = plan.ArchiveContents(base.ContainsFunc(), base.Names())
	}
	more := storeList{from, plan}
	for i, d := range deltas {
		c.Blobs = slices.DeleteFunc(c.Blobs, func(desc ocispec.Descriptor) bool { return desc.Digest == d.Layer.Digest })
		c.Blobs = append(c.Blobs, d.Blob)
		change(&deltas[i])
	}
	data, err := archive.EncodeDeltas(deltas)
	if err != nil {
		t.Fatal(err)
	}
	manifest := content.NewDescriptorFromBytes(ocispec.MediaTypeImageManifest, data)
	hasDigest := func(desc ocispec.Descriptor) bool { return desc.Digest == ocispec.DescriptorEmptyJSON.Digest }
	if !slices.ContainsFunc(slices.Concat(c.Blobs, c.Front), hasDigest) {
		c.Blobs = append(c.Blobs, ocispec.DescriptorEmptyJSON)
	}
	archive.SortBlobs(c.Blobs)
	c.HasDeltas, c.Manifests, c.Named = true, append(c.Manifests, manifest), append(c.Named, manifest)
	file := filepath.Join(t.TempDir(), "forged.tar")
	if _, err := archive.WriteFile(t.Context(), file, c, append(more, memory{manifest.Digest: data}), archive.Options{}); err != nil {
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

// storeList and memory are where content is for an archive.
type storeList []content.Fetcher

func (s storeList) Fetch(ctx context.Context, desc ocispec.Descriptor) (body io.ReadCloser, err error) {
	for _, from := range s {
		if body, err = from.Fetch(ctx, desc); err == nil {
			return body, nil
		}
	}
	return nil, err
}

type memory map[digest.Digest][]byte

func (m memory) Fetch(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	data, ok := m[desc.Digest]
	if !ok {
		return nil, errdef.ErrNotFound
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

// Nothing is made of a delta before roots are verified, and nothing that no root needs, or of another size than its
// manifest has, is made at all.
func TestServeHostileDeltas(t *testing.T) {
	t.Parallel()
	plans := releases(t, 2)
	base := written(t, plans[0].ArchiveContents(nil, nil), plans[0])
	honest := writtenDeltas(t, plans[1], plans[0])
	errSigner := errors.New("not by a trusted signer")
	accept := func(context.Context, transfer.Source) error { return nil }
	refuse := func(context.Context, transfer.Source) error { return errSigner }
	keep := func(*archive.Delta) {}
	// Only the deltas are of the next release: no root names their layers.
	unnamed := forgedDeltas(t, plans[0], nil, honest, keep)
	larger := forgedDeltas(t, plans[1], plans[0], honest, func(d *archive.Delta) { d.Layer.Size++ })
	for name, test := range map[string]struct {
		stores []serve.Store
		verify func(context.Context, transfer.Source) error
		want   error
	}{
		"wrong key":                    {[]serve.Store{base, honest}, refuse, errSigner},
		"verified, but nowhere to":     {[]serve.Store{base, honest}, accept, fs.ErrNotExist},
		"layer that no root names":     {[]serve.Store{unnamed}, nil, nil},
		"the same, verified":           {[]serve.Store{unnamed}, accept, nil},
		"another size than a manifest": {[]serve.Store{base, larger}, accept, archive.ErrDamaged},
		"the same, not verified":       {[]serve.Store{base, larger}, nil, archive.ErrDamaged},
	} {
		t.Run(name, func(t *testing.T) {
			o := serve.Options{Verify: test.verify, TemporaryDir: filepath.Join(t.TempDir(), "absent")}
			server, err := serve.NewServer(t.Context(), test.stores, o)
			if !errors.Is(err, test.want) {
				t.Fatalf("got %v, want %v", err, test.want)
			}
			if err == nil {
				if err := server.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// writtenDeltas returns an archive of a plan with deltas against another.
func writtenDeltas(t *testing.T, plan, base *transfer.Plan) *archive.Store {
	t.Helper()
	deltas, err := plan.MakeDeltas(t.Context(), []*transfer.Plan{base}, base.ContainsFunc(), transfer.DeltaOptions{})
	if err != nil {
		t.Fatal(err)
	}
	contents := deltas.AddTo(plan.ArchiveContents(base.ContainsFunc(), base.Names()))
	if len(deltas.Layers) != 2 || deltas.Layers[0].Encoder != "go -1" || deltas.Saved() < webSize {
		t.Errorf("%+v", deltas.Layers)
	}
	file := filepath.Join(t.TempDir(), "edge.tar")
	if _, err := archive.WriteFile(t.Context(), file, contents, deltas.WithDeltas(plan), archive.Options{}); err != nil {
		t.Fatal(err)
	}
	store, err := archive.Open(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(store.Close(), deltas.Close()); err != nil {
			t.Error(err)
		}
	})
	return store
}
