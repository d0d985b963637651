package transfer_test

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/pkg/progress"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

// dashed is a fallback tag, which GitLab's registry takes for the digest when it is read (oras-go issue 1396).
var dashed = regexp.MustCompile(`^(.*/manifests/)sha256-([0-9a-f]{64})$`)

// A registry that takes no referrers, or no index of indexes, gets everything all the same: what
// it refuses goes under tags, or is left out where only the closure is, and a line says so.
func TestRegistryThatRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		refuses string
		tags    []string
		note    string
	}{
		{"referrers", `"subject":{`, []string{".closure", ".sig"}, "accepts no referrers"},
		{"fallback tags, which it takes for digests", "", []string{".closure", ".sig"}, "cannot store referrers of"},
		{"indexes of indexes", `"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"ROOT"`, []string{".sig"}, "nothing protects the images there from garbage collection"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			root := w.edge()
			refuses := strings.ReplaceAll(c.refuses, "ROOT", root.Digest.String())
			r := registrytest.StartRegistry(t, registrytest.Options{NoReferrers: c.refuses == "", Middleware: func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
					if m := dashed.FindStringSubmatch(req.URL.Path); m != nil && c.refuses == "" && req.Method != http.MethodPut {
						req.URL.Path = m[1] + "sha256:" + m[2]
					}
					body, err := io.ReadAll(req.Body)
					if err != nil {
						panic(http.ErrAbortHandler)
					}
					if refuses != "" && strings.Contains(req.URL.Path, "/manifests/") && strings.Contains(string(body), refuses) {
						http.Error(rw, "refused", http.StatusMethodNotAllowed)
						return
					}
					req.Body = io.NopCloser(strings.NewReader(string(body)))
					next.ServeHTTP(rw, req)
				})
			}})
			dst := open(t, r, "krt/edge")
			for range 2 { // the second time it is there
				var notes []string
				var mu sync.Mutex
				_, err := transfer.Copy(t.Context(), []transfer.Source{{Store: w.dist, Root: root, Tags: []string{"1.0.0"}}}, dst, transfer.Options{
					Origins: w, Progress: func(e progress.Event) {
						if e.Kind == progress.Note {
							mu.Lock()
							defer mu.Unlock()
							notes = append(notes, e.Detail)
						}
					},
				})
				if err != nil {
					t.Fatal(err)
				}
				if !strings.Contains(strings.Join(notes, "\n"), c.note) {
					t.Errorf("no note of %q: %q", c.note, notes)
				}
			}
			for _, suffix := range c.tags {
				if _, err := dst.Resolve(t.Context(), cosignTag(root, suffix)); err != nil {
					t.Errorf("%s: %v", suffix, err)
				}
			}
			if _, err := copyFrom(t, dst, root, newLayout(t)); err != nil {
				t.Errorf("on from there: %v", err)
			}
		})
	}
}

// A copy with nothing to do asks as much for twenty images as for two.
func TestNothingToDoDoesNotGrow(t *testing.T) {
	t.Parallel()
	asked := func(images int) int {
		w := newWorld(t)
		var list []ocispec.Descriptor
		for i := range images {
			list = append(list, w.index(w.image("base", fmt.Sprint("amd64 ", i)), w.image("base", fmt.Sprint("arm64 ", i))))
		}
		root := w.runtime(w.bundle("a", list...))
		source := registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Distribution3, Record: true})
		target := registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Distribution3, Record: true})
		w.mustCopy(root, open(t, source, "krt/edge"))
		for range 2 {
			if _, err := copyFrom(t, open(t, source, "krt/edge"), root, open(t, target, "krt/edge")); err != nil {
				t.Fatal(err)
			}
		}
		before := len(source.Requests()) + len(target.Requests())
		report, err := copyFrom(t, open(t, source, "krt/edge"), root, open(t, target, "krt/edge"))
		if err != nil || report.Copied != 0 || report.Roots[0].Images != images {
			t.Errorf("%+v, error %v", report, err)
		}
		return len(source.Requests()) + len(target.Requests()) - before
	}
	if few, many := asked(2), asked(20); many > few || few > 20 {
		t.Errorf("%d requests for 2 images, %d for 20", few, many)
	}
}

// What upstream attached to its images comes along, in each form, and can be left out.
func TestImageSignatures(t *testing.T) {
	t.Parallel()
	for _, leaveOut := range []bool{false, true} {
		w := newWorld(t)
		image := w.image("1")
		signature := attach(t, w.origin, image, ".sig", "upstream's signature")
		sbom := refer(t, w.origin, image, "application/spdx+json", "upstream's SBOM")
		root := w.bundle("a", image)
		options := transfer.Options{Origins: w, NoImageSignatures: leaveOut}
		for _, kind := range []string{"olareg", "distribution3", "layout"} {
			dst := kinds[kind](t)
			if _, err := transfer.Copy(t.Context(), []transfer.Source{{Store: w.dist, Root: root}}, dst, options); err != nil {
				t.Fatal(err)
			}
			at, err := dst.Resolve(t.Context(), cosignTag(image, ".sig"))
			if there := err == nil && at.Digest == signature.Digest; there == leaveOut {
				t.Errorf("%s: signature %s, error %v", kind, at.Digest, err)
			}
			referrers, err := dst.Predecessors(t.Context(), image)
			if err != nil {
				t.Fatal(err)
			}
			listed := slices.ContainsFunc(referrers, func(d ocispec.Descriptor) bool { return d.Digest == sbom.Digest })
			if listed == leaveOut {
				t.Errorf("%s: referrers %v", kind, referrers)
			}
		}
	}
}
