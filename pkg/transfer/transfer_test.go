package transfer_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/memory"

	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/progress"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

// kinds are the stores that everything is copied between.
var kinds = map[string]func(t *testing.T) oras.GraphTarget{
	"layout":             func(t *testing.T) oras.GraphTarget { return newLayout(t) },
	"olareg":             onRegistry(registrytest.Options{Kind: registrytest.Olareg}),
	"olareg-noreferrers": onRegistry(registrytest.Options{Kind: registrytest.Olareg, NoReferrers: true}),
	"ggcr":               onRegistry(registrytest.Options{Kind: registrytest.GGCR}),
	"ggcr-noreferrers":   onRegistry(registrytest.Options{Kind: registrytest.GGCR, NoReferrers: true}),
	"distribution3":      onRegistry(registrytest.Options{Kind: registrytest.Distribution3}),
	"distribution2":      onRegistry(registrytest.Options{Kind: registrytest.Distribution2}),
	"memory":             func(*testing.T) oras.GraphTarget { return inMemory{memory.New()} },
}

// inMemory is oras-go's store in memory, which lists everything that names a manifest, says
// no artifact type, and knows only tags.
type inMemory struct{ *memory.Store }

func (m inMemory) Push(ctx context.Context, desc ocispec.Descriptor, r io.Reader) error {
	if err := m.Store.Push(ctx, desc, r); err != nil || !strings.Contains(desc.MediaType, "manifest") && !strings.Contains(desc.MediaType, "index") {
		return err
	}
	return m.Tag(ctx, desc, desc.Digest.String())
}

func (m inMemory) Predecessors(ctx context.Context, desc ocispec.Descriptor) (referrers []ocispec.Descriptor, err error) {
	all, err := m.Store.Predecessors(ctx, desc)
	for _, d := range all {
		var manifest ocispec.Manifest
		data, err := content.FetchAll(ctx, m.Store, d)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(data, &manifest); err != nil {
			return nil, err
		}
		if manifest.Subject != nil && manifest.Subject.Digest == desc.Digest {
			d.ArtifactType = cmp.Or(manifest.ArtifactType, manifest.Config.MediaType)
			referrers = append(referrers, d)
		}
	}
	return referrers, err
}

func onRegistry(o registrytest.Options) func(t *testing.T) oras.GraphTarget {
	return func(t *testing.T) oras.GraphTarget { return open(t, registrytest.StartRegistry(t, o), "krt/edge") }
}

// What arrives is all there is and the same, between any two stores.
func TestCopyBetweenAllPairs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.edge()
	complete := newLayout(t)
	first := w.mustCopy(root, complete)
	if n := first.Copied + first.Mounted + first.Present; n != int64(len(contentItems(t, complete, root))) {
		t.Errorf("%d items counted, want %d", n, len(contentItems(t, complete, root)))
	}
	want := contentOf(t, complete, root)
	// Two signatures of the root and of a bundle each, and five texts.
	if first.Roots[0].Bundles != 2 || first.Roots[0].Images != 2 || len(first.Attached) != 4+5 {
		t.Errorf("%d bundles, %d images, %d attached", first.Roots[0].Bundles, first.Roots[0].Images, len(first.Attached))
	}
	for from, source := range kinds {
		t.Run(from, func(t *testing.T) {
			t.Parallel()
			src := source(t)
			w.mustCopy(root, src)
			equal(t, contentOf(t, src, root), want)
			for to, target := range kinds {
				t.Run(to, func(t *testing.T) {
					dst := target(t)
					report, err := transfer.Copy(t.Context(), []transfer.Source{{Store: src, Root: root, Tags: []string{"1.0.0", "latest"}}}, dst, transfer.Options{})
					if err != nil {
						t.Fatal(err)
					}
					if report.Roots[0].Closure.Digest != first.Roots[0].Closure.Digest || closureOf(t, dst, root).Digest != first.Roots[0].Closure.Digest {
						t.Errorf("closure is %s, want %s", report.Roots[0].Closure.Digest, first.Roots[0].Closure.Digest)
					}
					equal(t, contentOf(t, dst, root), want)
					for _, tag := range []string{"1.0.0", "latest"} {
						if at, err := dst.Resolve(t.Context(), tag); err != nil || at.Digest != root.Digest {
							t.Errorf("tag %s is %s, error %v", tag, at.Digest, err)
						}
					}
				})
			}
		})
	}
}

func TestTagMovesLast(t *testing.T) {
	t.Parallel()
	for _, o := range []registrytest.Options{{Kind: registrytest.Olareg}, {Kind: registrytest.GGCR, NoReferrers: true}} {
		t.Run(o.String(), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			root := w.edge()
			o.Record = true
			r := registrytest.StartRegistry(t, o)
			w.mustCopy(root, open(t, r, "krt/edge"))
			list := writes(r.Requests())
			const tag = "PUT /v2/krt/edge/manifests/1.0.0"
			if n := strings.Count(strings.Join(list, "\n"), tag); n != 1 || list[len(list)-1] != tag {
				t.Errorf("the tag was written %d times, and not last:\n%s", n, strings.Join(list, "\n"))
			}
			// For the plan, and once everything is there.
			asked := 0
			for _, request := range r.Requests() {
				switch line := request.Method + " " + request.Path; line {
				case "HEAD /v2/krt/edge/manifests/1.0.0":
					asked++
				case "GET /v2/krt/edge/manifests/" + root.Digest.String():
					t.Error("the manifest was read back to be sent again")
				}
			}
			if asked > 2 {
				t.Errorf("what the tag names was asked %d times", asked)
			}
		})
	}
}

// A second copy asks a few questions and writes nothing.
func TestSecondCopyWritesNothing(t *testing.T) {
	t.Parallel()
	for _, o := range []registrytest.Options{{Kind: registrytest.Olareg}, {Kind: registrytest.GGCR, NoReferrers: true}} {
		t.Run(o.String(), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			root := w.edge()
			o.Record = true
			r := registrytest.StartRegistry(t, o)
			first := w.mustCopy(root, open(t, r, "krt/edge"))
			before := len(r.Requests())
			second := w.mustCopy(root, open(t, r, "krt/edge"))
			requests := r.Requests()[before:]
			if list := writes(requests); len(list) > 0 {
				t.Errorf("it wrote:\n%s", strings.Join(list, "\n"))
			}
			// A HEAD each for the closure, the tag, what is attached and cosign's tags, and the
			// listings of what has referrers.
			if limit := 2 + 2*len(first.Attached) + 10; len(requests) > limit {
				t.Errorf("%d requests, want at most %d", len(requests), limit)
			}
			if second.Copied != 0 || second.CopiedBytes != 0 || second.Mounted != 0 {
				t.Errorf("it says that %d items were copied and %d mounted", second.Copied, second.Mounted)
			}
		})
	}
}

// All that is missing is named at once, and nothing is written.
func TestMissing(t *testing.T) {
	t.Parallel()
	gone := func(text string) ocispec.Descriptor {
		return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digestOf(text), Size: int64(len(text))}
	}
	for _, c := range []struct {
		name string
		root func(w *world) ocispec.Descriptor
		want []string
	}{
		{"images", func(w *world) ocispec.Descriptor {
			return w.runtime(w.bundle("a", gone("1"), w.image("there")), w.bundle("b", gone("2")))
		}, []string{"origin.example/app@" + digestOf("1").String(), "origin.example/app@" + digestOf("2").String()}},
		{"a nested bundle and an image", func(w *world) ocispec.Descriptor {
			return w.runtime(w.bundle("a", gone("1")), gone("3"))
		}, []string{"krtpkg.invalid/bundles/any@" + digestOf("3").String(), "origin.example/app@" + digestOf("1").String()}},
		{"a platform's manifest", func(w *world) ocispec.Descriptor {
			return w.bundle("a", w.index(w.image("there"), gone("4")))
		}, []string{"origin.example/app@"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			root := c.root(w)
			r := registrytest.StartRegistry(t, registrytest.Options{Record: true})
			_, err := w.copy(root, open(t, r, "krt/edge"))
			var incomplete *transfer.IncompleteError
			if !errors.As(err, &incomplete) || len(incomplete.Missing) != len(c.want) {
				t.Fatalf("got %v, want %d missing", err, len(c.want))
			}
			for i, want := range c.want {
				if got := incomplete.Missing[i].Image; !strings.HasPrefix(got, want) || !strings.Contains(err.Error(), want) {
					t.Errorf("%s is missing, want %s", got, want)
				}
			}
			if list := writes(r.Requests()); len(list) > 0 {
				t.Errorf("it wrote:\n%s", strings.Join(list, "\n"))
			}
		})
	}
}

// Images that are nowhere but next to the bundle need no origins, and are found nowhere else.
func TestNoOrigins(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.bundle("a", w.image("1"))
	_, err := transfer.Copy(t.Context(), []transfer.Source{{Store: w.dist, Root: root}}, newLayout(t), transfer.Options{})
	var incomplete *transfer.IncompleteError
	if !errors.As(err, &incomplete) || !strings.Contains(err.Error(), "not found next to the bundle") {
		t.Errorf("got %v", err)
	}
}

// A blob that images share is fetched once and sent once, whatever media type each gives it.
func TestSharedBlobsMoveOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	docker := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: dockerManifest,
		Config: put(t, w.origin, dockerConfig, []byte("{}")),
		Layers: []ocispec.Descriptor{put(t, w.origin, dockerLayer, []byte("base")), put(t, w.origin, dockerLayer, []byte("mine"))},
	}
	root := w.runtime(
		w.bundle("a", w.image("base", "1"), w.image("base", "2")),
		w.bundle("b", w.image("base", "1"), put(t, w.origin, dockerManifest, docker)))
	source := registrytest.StartRegistry(t, registrytest.Options{Record: true})
	w.mustCopy(root, open(t, source, "krt/edge"))
	target := registrytest.StartRegistry(t, registrytest.Options{Record: true})
	if _, err := transfer.Copy(t.Context(), []transfer.Source{{Store: open(t, source, "krt/edge"), Root: root}}, open(t, target, "krt/edge"), transfer.Options{}); err != nil {
		t.Fatal(err)
	}
	for _, side := range []*registrytest.Registry{source, target} {
		sent := map[string]int{}
		for _, r := range side.Requests() {
			if r.Method == http.MethodPut && r.Query.Has("digest") {
				sent[r.Query.Get("digest")]++
			}
		}
		if sent[digestOf("base").String()] != 1 {
			t.Errorf("the shared layer was sent %d times", sent[digestOf("base").String()])
		}
		for d, n := range sent {
			if n != 1 {
				t.Errorf("%s was sent %d times", d, n)
			}
		}
	}
	var fetched int
	for _, r := range source.Requests() {
		if r.Method == http.MethodGet && strings.HasSuffix(r.Path, "/blobs/"+digestOf("base").String()) {
			fetched++
		}
	}
	if fetched != 1 {
		t.Errorf("the shared layer was fetched %d times", fetched)
	}
}

// Within a registry blobs are mounted, from the source's repository and from an image's own.
func TestMount(t *testing.T) {
	t.Parallel()
	for _, refused := range []bool{false, true} {
		name := "granted"
		if refused {
			name = "refused"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			root := w.edge()
			r := registrytest.StartRegistry(t, registrytest.Options{Record: true, Middleware: func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
					if refused && req.URL.Query().Has("mount") {
						http.Error(rw, "no", http.StatusForbidden)
						return
					}
					next.ServeHTTP(rw, req)
				})
			}})
			w.mustCopy(root, open(t, r, "krt/edge"))
			src, dst := open(t, r, "krt/edge"), open(t, r, "site/edge")
			before := len(r.Requests())
			report, err := transfer.Copy(t.Context(), []transfer.Source{{Store: src, Root: root, Tags: []string{"1.0.0"}}}, dst, transfer.Options{})
			if err != nil {
				t.Fatal(err)
			}
			var uploads int64
			for _, r := range r.Requests()[before:] {
				if r.Method == http.MethodPut && strings.Contains(r.Path, "/blobs/uploads/") {
					uploads++
				}
			}
			if refused == (uploads == 0) || refused == (report.Mounted > 0) {
				t.Errorf("%d uploads, %d mounted", uploads, report.Mounted)
			}
			equal(t, contentOf(t, dst, root), contentOf(t, src, root))
		})
	}
}

func TestMountFromOrigin(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	image := w.image("1", "2")
	root := w.bundle("a", image)
	r := registrytest.StartRegistry(t, registrytest.Options{})
	upstream := open(t, r, "mirror/app")
	if err := oras.CopyGraph(t.Context(), w.origin, upstream, image, oras.CopyGraphOptions{}); err != nil {
		t.Fatal(err)
	}
	report, err := transfer.Copy(t.Context(), []transfer.Source{{Store: w.dist, Root: root}}, open(t, r, "krt/edge"), transfer.Options{Origins: origins{upstream}})
	if err != nil || report.Mounted != 3 {
		t.Errorf("%d blobs mounted, want 3; error %v", report.Mounted, err)
	}
}

// origins has every image in one place.
type origins struct{ oras.ReadOnlyTarget }

func (o origins) Origin(_ context.Context, image name.Reference) (oras.ReadOnlyTarget, string, error) {
	return o.ReadOnlyTarget, image.Identifier(), nil
}

// An index that was made for some platforms has its manifests at the origin: a copy completes it.
func TestPlatformIndex(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	child := func(arch string) ocispec.Descriptor {
		desc := w.image("app on " + arch)
		desc.Platform = &ocispec.Platform{OS: "linux", Architecture: arch}
		return desc
	}
	whole := w.index(child("amd64"), child("arm64"), child("s390x"))
	if err := w.origin.Tag(t.Context(), whole, "1.0"); err != nil {
		t.Fatal(err)
	}
	resolver, err := images.ForPlatforms(nil, w, w.dist, []string{"linux/amd64", "linux/arm64"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference("origin.example/app:1.0")
	if err != nil {
		t.Fatal(err)
	}
	locked, err := resolver.Resolve(t.Context(), ref)
	if err != nil || locked.Digest == whole.Digest {
		t.Fatalf("locked to %s, error %v", locked.Digest, err)
	}
	root := w.bundle("a", locked)
	for kind, target := range map[string]oras.GraphTarget{"registry": kinds["olareg"](t), "layout": newLayout(t), "itself": w.dist} {
		w.mustCopy(root, target)
		if n := len(contentOf(t, target, root)); n < 3+1+2*3 {
			t.Errorf("%s: only %d items", kind, n)
		}
	}
}

// A registry that lost a platform's manifest is completed from the origin too.
func TestSourceWithHoles(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	kept, lost := w.image("kept"), w.image("lost")
	root := w.bundle("a", w.index(kept, lost))
	src := kinds["ggcr"](t)
	w.mustCopy(root, src)
	if err := src.(interface {
		Delete(context.Context, ocispec.Descriptor) error
	}).Delete(t.Context(), lost); err != nil {
		t.Fatal(err)
	}
	dst := newLayout(t)
	if _, err := transfer.Copy(t.Context(), []transfer.Source{{Store: src, Root: root}}, dst, transfer.Options{Origins: w}); err != nil {
		t.Fatal(err)
	}
	contentOf(t, dst, root)
	var incomplete *transfer.IncompleteError
	if _, err := transfer.Copy(t.Context(), []transfer.Source{{Store: src, Root: root}}, newLayout(t), transfer.Options{}); !errors.As(err, &incomplete) {
		t.Errorf("without origins: %v", err)
	}
}

func TestImagesOfAllSorts(t *testing.T) {
	t.Parallel()
	type object = map[string]any
	every := []string{"olareg", "ggcr-noreferrers", "layout", "distribution3"}
	windows := func(t *testing.T, w *world) ocispec.Descriptor {
		return put(t, w.origin, dockerManifest, ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: dockerManifest,
			Config: put(t, w.origin, dockerConfig, []byte("{}")),
			Layers: []ocispec.Descriptor{
				{
					MediaType: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
					Digest:    digestOf("windows"), Size: 7, URLs: []string{"https://example.com/windows"},
				},
				put(t, w.origin, dockerLayer, []byte("1")),
				put(t, w.origin, dockerLayer, []byte("2")),
			},
		})
	}
	for _, c := range []struct {
		name  string
		image func(t *testing.T, w *world) ocispec.Descriptor
		// items are those of the image, note what must be said.
		items int
		note  string
		to    []string
	}{
		{"Docker's media types", func(t *testing.T, w *world) ocispec.Descriptor {
			child := put(t, w.origin, dockerManifest, ocispec.Manifest{
				Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: dockerManifest,
				Config: put(t, w.origin, dockerConfig, []byte("{}")),
				Layers: []ocispec.Descriptor{put(t, w.origin, dockerLayer, []byte("1"))},
			})
			return put(t, w.origin, dockerIndex, ocispec.Index{
				Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: dockerIndex, Manifests: []ocispec.Descriptor{child},
			})
		}, 4, "", every},
		{"no media type in the manifest", func(t *testing.T, w *world) ocispec.Descriptor {
			child := put(t, w.origin, ocispec.MediaTypeImageManifest, object{
				"schemaVersion": 2,
				"config":        put(t, w.origin, ocispec.MediaTypeImageConfig, []byte("{}")),
				"layers":        []ocispec.Descriptor{},
			})
			return put(t, w.origin, ocispec.MediaTypeImageIndex, object{"schemaVersion": 2, "manifests": []ocispec.Descriptor{child}})
		}, 3, "", every},
		{"an index of an index", func(_ *testing.T, w *world) ocispec.Descriptor {
			return w.index(w.index(w.image("1")), w.image("2"))
		}, 2 + 3 + 3, "", every},
		{"a subject that is not there", func(t *testing.T, w *world) ocispec.Descriptor {
			return refer(t, w.origin, ocispec.Descriptor{
				MediaType: ocispec.MediaTypeImageManifest, Digest: digestOf("nothing"), Size: 7,
			}, "text/plain", "1")
		}, 3, "", every},
		{"a foreign layer that is there", func(t *testing.T, w *world) ocispec.Descriptor {
			put(t, w.origin, dockerLayer, []byte("windows"))
			return windows(t, w)
			// Distribution takes foreign layers of URLs that its configuration allows, and no other.
		}, 5, "", []string{"olareg", "ggcr-noreferrers", "layout"}},
		// Olareg wants to have all layers.
		{"a foreign layer", windows, 4, "https://example.com/windows", []string{"ggcr", "layout"}},
		{"the same layer twice", func(_ *testing.T, w *world) ocispec.Descriptor {
			return w.image("1", "2", "1")
		}, 4, "", every},
		{"an empty layer", func(_ *testing.T, w *world) ocispec.Descriptor {
			return w.image("")
		}, 3, "", every},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			root := w.bundle("a", c.image(t, w))
			var notes []string
			var planned int
			options := transfer.Options{Origins: w, Concurrency: 1, Progress: func(e progress.Event) {
				switch e.Kind {
				case progress.Note:
					notes = append(notes, e.Detail)
				case progress.Planned:
					planned = e.Items
				}
			}}
			var closure string
			for _, kind := range c.to {
				dst := kinds[kind](t)
				report, err := transfer.Copy(t.Context(), []transfer.Source{{Store: w.dist, Root: root, Tags: []string{"1.0.0"}}}, dst, options)
				if err != nil {
					t.Fatalf("%s: %v", kind, err)
				}
				if planned != 3+1+c.items || report.Copied != int64(planned) {
					t.Errorf("%s: %d items planned and %d copied, want %d", kind, planned, report.Copied, 3+1+c.items)
				}
				// And on from there, where nobody helps.
				again, err := transfer.Copy(t.Context(), []transfer.Source{{Store: dst, Root: root}}, newLayout(t), transfer.Options{})
				if err != nil {
					t.Fatalf("from %s: %v", kind, err)
				}
				if closure == "" {
					closure = again.Roots[0].Closure.Digest.String()
				}
				if d := again.Roots[0].Closure.Digest.String(); d != report.Roots[0].Closure.Digest.String() || d != closure {
					t.Errorf("from %s the closure is %s, want %s", kind, d, closure)
				}
			}
			if got := strings.Join(notes, "\n"); !strings.Contains(got, c.note) || (c.note == "") != (got == "") {
				t.Errorf("notes are %q, want %q", got, c.note)
			}
		})
	}
}

// What cannot be understood is not copied in part.
func TestImpossibleImages(t *testing.T) {
	t.Parallel()
	const schema1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"
	for _, c := range []struct {
		name, want string
		image      func(t *testing.T, w *world) ocispec.Descriptor
	}{
		{"schema 1", schema1, func(t *testing.T, w *world) ocispec.Descriptor {
			return put(t, w.origin, schema1, map[string]any{"schemaVersion": 1, "mediaType": schema1})
		}},
		{"a digest that is a path", "invalid descriptor: digest", func(t *testing.T, w *world) ocispec.Descriptor {
			return put(t, w.origin, ocispec.MediaTypeImageManifest, json.RawMessage(
				`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"x","digest":"../../../other/blobs/sha256:1","size":1},"layers":[]}`))
		}},
		{"a negative size", "invalid descriptor: digest", func(t *testing.T, w *world) ocispec.Descriptor {
			return put(t, w.origin, ocispec.MediaTypeImageManifest, json.RawMessage(
				`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"x","digest":"`+digestOf("x").String()+`","size":-1},"layers":[]}`))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			root := w.bundle("a", c.image(t, w))
			_, err := w.copy(root, newLayout(t))
			var incomplete *transfer.IncompleteError
			if !errors.As(err, &incomplete) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// A lock that names a runtime among its bundles would leave that one's bundles behind.
func TestRuntimeInRuntime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	inner := w.runtime(w.bundle("a", w.image("1")))
	_, err := w.copy(w.runtime(inner), newLayout(t))
	if err == nil || !strings.Contains(err.Error(), inner.Digest.String()+" is not a bundle") {
		t.Errorf("got %v", err)
	}
}

func TestNotOurs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	image := w.image("1")
	_, err := transfer.Copy(t.Context(), []transfer.Source{{Store: w.origin, Root: image}}, newLayout(t), transfer.Options{})
	if err == nil || !strings.Contains(err.Error(), image.Digest.String()+" is not a krtpkg bundle or runtime") {
		t.Errorf("got %v", err)
	}
}

// A version is not set on another one, however it comes: the target is untouched.
func TestTagsAreTheSignedVersion(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.edge()
	lying := newLayout(t) // as a registry serves it, or an archive names it
	w.mustCopy(root, lying)
	if err := lying.Tag(t.Context(), root, "2.0.0"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		copy func(dst oras.GraphTarget, o transfer.Options) error
	}{
		{"a tag of the target", func(dst oras.GraphTarget, o transfer.Options) error {
			_, err := transfer.Copy(t.Context(), []transfer.Source{{Store: lying, Root: root, Tags: []string{"stable", "2.0.0"}}}, dst, o)
			return err
		}},
		{"the tag that led there", func(dst oras.GraphTarget, o transfer.Options) error {
			_, err := transfer.Copy(t.Context(), []transfer.Source{{Store: lying, Root: root, Tags: []string{"1.0.0"}, From: "2.0.0"}}, dst, o)
			return err
		}},
		{"an archive's", func(dst oras.GraphTarget, o transfer.Options) error {
			plan, err := transfer.NewPlan(t.Context(), []transfer.Source{{Store: lying, Root: root, Tags: []string{"2.0.0"}}}, transfer.Options{AllowRenamedTags: true})
			if err != nil {
				return err
			}
			_, err = transfer.Import(t.Context(), openArchive(t, export(t, plan, plan.ArchiveContents(nil, nil))), dst, o)
			return err
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dst := newLayout(t)
			err := c.copy(dst, transfer.Options{})
			var renamed *bundle.TagError
			if !errors.As(err, &renamed) || err.Error() != "tag 2.0.0 is not the version of edge 1.0.0" {
				t.Errorf("got %v", err)
			}
			if there, err := dst.Exists(t.Context(), root); there || err != nil {
				t.Errorf("the root is there: %v, %v", there, err)
			}
			if err := c.copy(dst, transfer.Options{AllowRenamedTags: true}); err != nil {
				t.Error(err)
			}
		})
	}
}

// Each item of a plan is asked about, those at their origins too, before anything is written.
func TestItemsAreAcceptedFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.edge()
	var asked []digest.Digest
	accept := func(d digest.Digest) error { asked = append(asked, d); return nil }
	if _, err := transfer.Copy(t.Context(), []transfer.Source{{Store: w.dist, Root: root, Tags: []string{"1.0.0"}}}, newLayout(t), transfer.Options{Origins: w, Accepts: accept}); err != nil {
		t.Fatal(err)
	}
	revoked := errors.New("revoked")
	for _, bad := range asked {
		dst := newLayout(t)
		_, err := transfer.Copy(t.Context(), []transfer.Source{{Store: w.dist, Root: root, Tags: []string{"1.0.0"}}}, dst, transfer.Options{Origins: w, Accepts: func(d digest.Digest) error {
			if d == bad {
				return revoked
			}
			return nil
		}})
		if !errors.Is(err, revoked) {
			t.Errorf("%s: %v", bad, err)
		}
		if there, err := dst.Exists(t.Context(), root); there || err != nil {
			t.Errorf("%s: the root is there: %v, %v", bad, there, err)
		}
	}
	if len(asked) < 10 {
		t.Errorf("only %d items", len(asked))
	}
}
