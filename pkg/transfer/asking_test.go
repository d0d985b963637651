package transfer_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"

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
