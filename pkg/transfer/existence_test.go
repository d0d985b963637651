package transfer_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/registry"

	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

// countBlobRequests counts the blobs that a registry was asked for, and those that were sent to it.
func countBlobRequests(requests []registrytest.Request) (asked, sent int) {
	for _, r := range requests {
		switch {
		case r.Method == http.MethodHead && strings.Contains(r.Path, "/blobs/"):
			asked++
		case r.Method == http.MethodPut && strings.Contains(r.Path, "/blobs/uploads/"), r.Method == http.MethodPost && r.Query.Has("digest"):
			sent++
		}
	}
	return asked, sent
}

// A registry that has nothing is not asked for each small blob and each image before it is sent, and one where a copy was
// interrupted is sent only what it lacks.
func TestSmallBlobsAreSentUnasked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var images []ocispec.Descriptor
	for i := range 40 {
		images = append(images, w.image(fmt.Sprintf("layer %d of an image", i), fmt.Sprintf("the other layer %d of it", i)))
	}
	root := w.bundle("a", images...)
	source := registrytest.StartRegistry(t, registrytest.Options{Record: true})
	target := registrytest.StartRegistry(t, registrytest.Options{Record: true})
	w.mustCopy(root, open(t, source, "krt/edge"))
	copyTo := func(dst oras.GraphTarget, o transfer.Options) []registrytest.Request {
		t.Helper()
		before := len(target.Requests())
		if _, err := transfer.Copy(t.Context(), []transfer.Source{{Store: open(t, source, "krt/edge"), Root: root}}, dst, o); err != nil {
			t.Fatal(err)
		}
		return target.Requests()[before:]
	}
	read := len(source.Requests())
	requests := copyTo(open(t, target, "krt/edge"), transfer.Options{})
	asked, sent := countBlobRequests(requests)
	if blobs := 3*len(images) + 2; sent != blobs || asked > 16+4+blobs/16 {
		t.Errorf("it was asked for %d blobs and sent %d, of %d", asked, sent, blobs)
	}
	manifests := 0
	for _, r := range requests {
		if r.Method == http.MethodHead && strings.Contains(r.Path, "/manifests/sha256:") {
			manifests++
		}
	}
	if limit := 16 + 4 + len(images)/16 + 4; manifests > limit {
		t.Errorf("it was asked for %d manifests, want at most %d", manifests, limit)
	}
	for _, r := range source.Requests()[read:] {
		if r.Method == http.MethodHead && strings.Contains(r.Path, "/manifests/") {
			t.Errorf("the source was asked for a manifest before it was read: %s", r.Path)
		}
	}
	for _, c := range []struct {
		name string
		keep func(i int) bool
		// more is how many may be sent though they are there: those until the next one that is asked for.
		more int
	}{
		{"all blobs are there", func(int) bool { return true }, 0},
		{"some are lacking here and there", func(i int) bool { return i%4 > 0 }, 0},
		{"all of a size are lacking", func(i int) bool { return i%3 > 0 }, 16 + 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			dst := open(t, target, "site/"+strings.ReplaceAll(c.name, " ", "-"))
			lacks, n := 2, 0 // those of the bundle
			for _, image := range images {
				blobs, err := content.Successors(t.Context(), w.origin, image)
				if err != nil {
					t.Fatal(err)
				}
				for _, desc := range blobs {
					if n++; !c.keep(n) {
						lacks++
						continue
					}
					if err := oras.CopyGraph(t.Context(), w.origin, dst, desc, oras.CopyGraphOptions{}); err != nil {
						t.Fatal(err)
					}
				}
			}
			if _, sent := countBlobRequests(copyTo(dst, transfer.Options{})); sent < lacks || sent > lacks+c.more {
				t.Errorf("it was sent %d blobs and lacks %d", sent, lacks)
			}
		})
	}
	asked, sent = countBlobRequests(copyTo(open(t, target, "krt/edge"), transfer.Options{CheckTarget: true}))
	if blobs := 3*len(images) + 2; asked != blobs || sent > 0 {
		t.Errorf("with CheckTarget it was asked for %d blobs of %d, and sent %d", asked, blobs, sent)
	}
}

// manyImages puts images of two small layers.
func (w *world) manyImages(name string, count int) (images []ocispec.Descriptor) {
	w.t.Helper()
	for i := range count {
		images = append(images, w.image(fmt.Sprintf("layer %d of %s", i, name), fmt.Sprintf("the other layer %d of %s", i, name)))
	}
	return images
}

// A copy that checks finds whatever a target of many small items lost, where it lost some and where it lost almost all.
func TestCheckFindsEachLostItem(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	images := w.manyImages("an image", 30)
	root := w.bundle("a", images...)
	complete := newLayout(t)
	w.mustCopy(root, complete)
	want := contentOf(t, complete, root)
	target := registrytest.StartRegistry(t, registrytest.Options{})
	dst := open(t, target, "krt/edge")
	repo := dst.(registry.Repository)
	w.mustCopy(root, dst)
	for name, isLost := range map[string]func(i int) bool{
		"each fifth":          func(i int) bool { return i%5 == 0 },
		"the last ones":       func(i int) bool { return i > 70 },
		"all but each 20th":   func(i int) bool { return i%20 > 0 },
		"all but the first 3": func(i int) bool { return i > 3 },
	} {
		n := 0
		lose := func(from content.Deleter, desc ocispec.Descriptor) {
			if n++; isLost(n) {
				if err := from.Delete(t.Context(), desc); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
			}
		}
		for _, image := range images {
			blobs, err := content.Successors(t.Context(), w.origin, image)
			if err != nil {
				t.Fatal(err)
			}
			for _, desc := range blobs {
				lose(repo.Blobs(), desc)
			}
			lose(repo.Manifests(), image)
		}
		sources := []transfer.Source{{Store: complete, Root: root, Tags: []string{"1.0.0"}}}
		if _, err := transfer.Copy(t.Context(), sources, dst, transfer.Options{CheckTarget: true}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		equal(t, contentOf(t, dst, root), want)
	}
}

// An import on a base sends nothing back that it would read from the target.
func TestBaseIsNotSentBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	base := w.manyImages("the base", 20)
	first, second := w.bundle("a", base...), w.bundle("a", append(w.manyImages("the next version", 40), base...)...)
	complete := newLayout(t)
	w.mustCopy(first, complete)
	w.mustCopy(second, complete)
	before, plan := planOf(t, complete, first, transfer.Options{}), planOf(t, complete, second, transfer.Options{})
	name := export(t, plan, plan.ArchiveContents(before.ContainsFunc(), before.Names()))
	target := registrytest.StartRegistry(t, registrytest.Options{Record: true})
	dst := open(t, target, "krt/edge")
	w.mustCopy(first, dst)
	there := map[digest.Digest]bool{}
	for _, image := range base {
		blobs, err := content.Successors(t.Context(), w.origin, image)
		if err != nil {
			t.Fatal(err)
		}
		for _, desc := range blobs {
			there[desc.Digest] = true
		}
	}
	seen := len(target.Requests())
	if _, err := transfer.Import(t.Context(), openArchive(t, name), dst, transfer.Options{MoveTags: true}); err != nil {
		t.Fatal(err)
	}
	read, sent := 0, 0
	for _, r := range target.Requests()[seen:] {
		if _, d, ok := strings.Cut(r.Path, "/blobs/"); ok && r.Method == http.MethodGet && there[digest.Digest(d)] {
			read++
		}
		if there[digest.Digest(r.Query.Get("digest"))] {
			sent++
		}
	}
	if read > 0 || sent > 0 {
		t.Errorf("of the base, %d blobs were read from the target and %d sent to it", read, sent)
	}
	equal(t, contentOf(t, dst, second), contentOf(t, complete, second))
}

// A manifest that several roots have is read once.
func TestSharedManifestsAreReadOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	images := w.manyImages("an image", 5)
	source := registrytest.StartRegistry(t, registrytest.Options{Record: true})
	src := open(t, source, "krt/edge")
	var sources []transfer.Source
	for _, name := range []string{"a", "b", "c"} {
		root := w.bundle(name, images...)
		w.mustCopy(root, src)
		sources = append(sources, transfer.Source{Store: src, Root: root})
	}
	seen := len(source.Requests())
	if _, err := transfer.Copy(t.Context(), sources, newLayout(t), transfer.Options{}); err != nil {
		t.Fatal(err)
	}
	read := 0
	for _, r := range source.Requests()[seen:] {
		for _, image := range images {
			if r.Method == http.MethodGet && strings.HasSuffix(r.Path, "/manifests/"+image.Digest.String()) {
				read++
			}
		}
	}
	if read != len(images) {
		t.Errorf("%d manifests were read for %d images", read, len(images))
	}
}

// A registry that takes blobs with one request, and drops some of them later, gets them the other way.
func TestDroppedSinglePosts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.bundle("a", w.manyImages("an image", 40)...)
	var posts, dropped atomic.Int64
	target := registrytest.StartRegistry(t, registrytest.Options{Middleware: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost && r.URL.Query().Has("digest") && posts.Add(1) > 10 {
				io.Copy(io.Discard, r.Body)
				dropped.Add(1)
				rw.WriteHeader(http.StatusCreated)
				return
			}
			next.ServeHTTP(rw, r)
		})
	}})
	dst := open(t, target, "krt/edge")
	w.mustCopy(root, dst)
	if dropped.Load() == 0 {
		t.Error("nothing was dropped")
	}
	complete := newLayout(t)
	w.mustCopy(root, complete)
	equal(t, contentOf(t, dst, root), contentOf(t, complete, root))
}
