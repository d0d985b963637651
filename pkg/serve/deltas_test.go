package serve_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"krtpkg.dev/krtpkg/internal/imagetest"
	"krtpkg.dev/krtpkg/internal/layout"
	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/serve"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

// Archives with deltas are served with what they build on, in any order, and clients get the images that
// were exported.
func TestServeDeltas(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "layout")
	var plans []*transfer.Plan
	for release := range 3 {
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
	web := httptest.NewServer(server)
	defer web.Close()
	host := strings.TrimPrefix(web.URL, "http://")
	for release := range plans {
		pulled(t, host, fmt.Sprintf("one.example/org/web:v%d", release))
	}
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(o.TemporaryDir); err != nil || len(entries) > 0 {
		t.Errorf("%d files are left, %v", len(entries), err)
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
	store, err := archive.Open(file)
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
