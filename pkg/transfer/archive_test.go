package transfer_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

// readOnly makes an archive's store what contentOf reads.
type readOnly struct {
	*archive.Store
	oras.GraphTarget
}

func (r readOnly) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	return r.Store.Fetch(ctx, desc)
}
func (r readOnly) Exists(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	return r.Store.Exists(ctx, desc)
}
func (r readOnly) Resolve(ctx context.Context, reference string) (ocispec.Descriptor, error) {
	return r.Store.Resolve(ctx, reference)
}
func (r readOnly) Predecessors(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	return r.Store.Predecessors(ctx, desc)
}

func planOf(t *testing.T, src oras.ReadOnlyGraphTarget, root ocispec.Descriptor, o transfer.Options) *transfer.Plan {
	t.Helper()
	plan, err := transfer.NewPlan(t.Context(), []transfer.Source{{Store: src, Root: root, Tags: []string{"1.0.0"}}}, o)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

func export(t *testing.T, plan *transfer.Plan, contents archive.Contents) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "edge.tar")
	if _, err := archive.WriteFile(t.Context(), name, contents, plan, archive.Options{}); err != nil {
		t.Fatal(err)
	}
	return name
}

func openArchive(t *testing.T, names ...string) *archive.Store {
	t.Helper()
	store, err := archive.Open(t.Context(), names...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeBody(t, store) })
	return store
}

func sum(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(data))
}

// An archive is the same bytes from every source and at every pace, holds everything, and
// every target gets all of it, in place and as a stream.
func TestArchiveBetweenAllPairs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.edge()
	complete := newLayout(t)
	w.mustCopy(root, complete)
	want := contentOf(t, complete, root)
	plan := planOf(t, complete, root, transfer.Options{})
	first := export(t, plan, plan.ArchiveContents(nil, nil))
	equal(t, contentOf(t, readOnly{Store: openArchive(t, first)}, root), want)
	for kind, make := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			src := make(t)
			w.mustCopy(root, src)
			plan := planOf(t, src, root, transfer.Options{Concurrency: 1})
			if again := export(t, plan, plan.ArchiveContents(nil, nil)); sum(t, again) != sum(t, first) {
				t.Errorf("the archive is another than that from a folder")
			}
			if kind == "memory" {
				return // it takes a blob of one media type for another than that of another type
			}
			dst := make(t)
			if _, err := transfer.Import(t.Context(), openArchive(t, first), dst, transfer.Options{MoveTags: true}); err != nil {
				t.Fatal(err)
			}
			equal(t, contentOf(t, dst, root), want)
			file, err := os.Open(first)
			if err != nil {
				t.Fatal(err)
			}
			defer closeBody(t, file)
			stream, err := archive.OpenStream(t.Context(), io.MultiReader(file)) // a reader that does not seek
			if err != nil {
				t.Fatal(err)
			}
			defer stream.Close()
			dst = make(t)
			if _, err := transfer.ImportStream(t.Context(), stream, dst, transfer.Options{MoveTags: true}); err != nil {
				t.Fatal(err)
			}
			equal(t, contentOf(t, dst, root), want)
			if at, err := dst.Resolve(t.Context(), "1.0.0"); err != nil || at.Digest != root.Digest {
				t.Errorf("tag 1.0.0 is %s, error %v", at.Digest, err)
			}
		})
	}
}

// Volumes are imported in any order, one by one: each says what is missing, the last sets the tag.
func TestVolumesInAnyOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.runtime(w.bundle("a", w.imageOf(bytes.Repeat([]byte("one"), 3000)), w.imageOf(bytes.Repeat([]byte("two"), 3000))), w.bundle("b", w.imageOf(bytes.Repeat([]byte("three"), 2000))))
	complete := newLayout(t)
	w.mustCopy(root, complete)
	plan := planOf(t, complete, root, transfer.Options{})
	volumes, err := plan.ArchiveContents(nil, nil).Split(36 << 10)
	if err != nil || len(volumes) != 3 {
		t.Fatalf("%d volumes, error %v", len(volumes), err)
	}
	var names []string
	for _, v := range volumes {
		names = append(names, export(t, plan, v))
	}
	for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 2, 0}} {
		for _, kind := range []string{"layout", "distribution3", "olareg"} {
			t.Run(fmt.Sprint(kind, order), func(t *testing.T) {
				t.Parallel()
				dst := kinds[kind](t)
				for i, n := range order {
					imported, err := transfer.Import(t.Context(), openArchive(t, names[n]), dst, transfer.Options{MoveTags: true})
					if err != nil {
						t.Fatal(err)
					}
					if i < len(order)-1 {
						if len(imported.Absent) != 2 || slices.Contains(imported.Absent, n+1) {
							t.Errorf("after volume %d absent are %v", n+1, imported.Absent)
						}
						noTag(t, dst)
					} else if len(imported.Absent) != 0 {
						t.Errorf("at the end absent are %v", imported.Absent)
					}
				}
				equal(t, contentOf(t, dst, root), contentOf(t, complete, root))
			})
		}
	}
	if _, err := archive.Open(t.Context(), names[0], names[0]); err == nil || !strings.Contains(err.Error(), "given twice") {
		t.Errorf("one volume twice: %v", err)
	}
	other := planOf(t, complete, root, transfer.Options{OnlyBundles: true})
	if _, err := archive.Open(t.Context(), names[0], export(t, other, other.ArchiveContents(nil, nil))); err == nil || !strings.Contains(err.Error(), "not a volume of the same archive") {
		t.Errorf("a volume and a stranger: %v", err)
	}
}

// An incremental archive is refused, by the base's name and before anything is written, where
// the base is not.
func TestBase(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	shared := w.imageOf(bytes.Repeat([]byte("shared"), 2000))
	old, new := w.runtime(w.bundle("a", shared)), w.runtime(w.bundle("a", shared), w.bundle("b", w.imageOf(bytes.Repeat([]byte("new"), 2000))))
	complete := newLayout(t)
	w.mustCopy(old, complete)
	w.mustCopy(new, complete)
	before := planOf(t, complete, old, transfer.Options{})
	plan := planOf(t, complete, new, transfer.Options{})
	inventory := before.Inventory(before.Names())
	for name, has := range map[string]func(digest.Digest) bool{"plan": before.ContainsFunc(), "inventory": inventory.ContainsFunc()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			increment := export(t, plan, plan.ArchiveContents(has, before.Names()))
			whole := export(t, plan, plan.ArchiveContents(nil, nil))
			if a, b := size(t, increment), size(t, whole); a > b-12000 {
				t.Errorf("it has %d bytes of %d", a, b)
			}
			for _, kind := range []string{"layout", "olareg"} {
				dst := kinds[kind](t)
				_, err := transfer.Import(t.Context(), openArchive(t, increment), dst, transfer.Options{MoveTags: true})
				var base *transfer.BaseError
				if !errors.As(err, &base) || !strings.Contains(err.Error(), "edge:1.0.0@"+old.Digest.String()) {
					t.Fatalf("got %v", err)
				}
				if _, err := transfer.PlanImport(t.Context(), openArchive(t, increment), dst, transfer.Options{MoveTags: true}); !errors.As(err, &base) {
					t.Errorf("plan: %v", err)
				}
				noTag(t, dst)
				if _, err := dst.Resolve(t.Context(), new.Digest.String()); !errors.Is(err, errdef.ErrNotFound) {
					t.Errorf("something was written: %v", err)
				}
				w.mustCopy(old, dst)
				if _, err := transfer.Import(t.Context(), openArchive(t, increment), dst, transfer.Options{MoveTags: true}); err != nil {
					t.Fatal(err)
				}
				equal(t, contentOf(t, dst, new), contentOf(t, complete, new))
			}
		})
	}
}

func size(t *testing.T, name string) int64 {
	t.Helper()
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}
