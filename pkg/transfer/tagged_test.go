package transfer_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

// A tag that can be set only once is right though another copy of the same version was faster; one that names something
// else is an error.
func TestTagOfAnotherCopy(t *testing.T) {
	t.Parallel()
	for _, sets := range []bool{true, false} {
		w := newWorld(t)
		root := w.bundle("a", w.image("an image"))
		target := registrytest.StartRegistry(t, registrytest.Options{Middleware: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				_, reference, isManifest := strings.Cut(r.URL.Path, "/manifests/")
				if r.Method != http.MethodPut || !isManifest || strings.Contains(reference, ":") {
					next.ServeHTTP(rw, r)
					return
				}
				if sets {
					next.ServeHTTP(httptest.NewRecorder(), r)
				}
				io.Copy(io.Discard, r.Body)
				http.Error(rw, "the tag is immutable", http.StatusPreconditionFailed)
			})
		}})
		dst := open(t, target, "krt/edge")
		// The first copy sends the root, the second one only the tag.
		for _, tag := range []string{"1.0.0", "stable"} {
			sources := []transfer.Source{{Store: w.dist, Root: root, Tags: []string{tag}}}
			_, err := transfer.Copy(t.Context(), sources, dst, transfer.Options{Origins: w, AllowRenamedTags: true})
			if (err == nil) != sets || err != nil && !strings.Contains(err.Error(), "tag "+tag+" at target ") {
				t.Errorf("tag %s, set by another copy: %v: got %v", tag, sets, err)
			}
			if at, err := dst.Resolve(t.Context(), tag); sets && (err != nil || at.Digest != root.Digest) {
				t.Errorf("tag %s names %s, error %v", tag, at.Digest, err)
			}
		}
	}
}
