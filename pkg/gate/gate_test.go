package gate_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/sign"
)

// Everything of a signed runtime is answered, whichever part is asked for first, and by a gate that was started for it.
func TestWholeRuntime(t *testing.T) {
	t.Parallel()
	w := newWorld(t, registrytest.Options{Auth: registrytest.Token, TLS: true})
	repo := w.repository("krt/edge")
	r := w.pushRuntime(repo, "edge", "1.0.0", "first", "1.0.0", "stable")
	w.sign(repo, r.root)
	index := w.readManifest(repo, r.image)
	platform := w.readManifest(repo, index.Manifests[1])
	second, data, err := bundle.ForArgoCD(&r.set.Root.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	w.push(repo, second.MediaType, data)
	w.tag(repo, second, "1.0.0.argocd")
	referrers, err := repo.Predecessors(t.Context(), r.root)
	if err != nil || len(referrers) == 0 {
		t.Fatalf("%d referrers, %v", len(referrers), err)
	}
	signature := w.readManifest(repo, referrers[0])
	legacy, err := repo.Resolve(t.Context(), sign.Tag(r.root.Digest))
	if err != nil {
		t.Fatal(err)
	}
	for what, path := range map[string]string{
		"root by tag":            manifestPath("edge", "1.0.0"),
		"root by channel":        manifestPath("edge", "stable"),
		"root":                   manifestPath("edge", r.root.Digest),
		"config of the root":     blobPath("edge", r.set.Root.Manifest.Config.Digest),
		"layer of the root":      blobPath("edge", r.set.Root.Manifest.Layers[0].Digest),
		"bundle":                 manifestPath("edge", r.inner.Digest),
		"layer of the bundle":    blobPath("edge", r.set.Bundles[0].Manifest.Layers[0].Digest),
		"image":                  manifestPath("edge", r.image.Digest),
		"platform":               manifestPath("edge", index.Manifests[1].Digest),
		"config of a platform":   blobPath("edge", platform.Config.Digest),
		"layer of a platform":    blobPath("edge", platform.Layers[0].Digest),
		"signature":              manifestPath("edge", referrers[0].Digest),
		"signature's blob":       blobPath("edge", signature.Layers[0].Digest),
		"cosign's tag":           manifestPath("edge", sign.Tag(r.root.Digest)),
		"for Argo CD, by tag":    manifestPath("edge", "1.0.0.argocd"),
		"for Argo CD, by digest": manifestPath("edge", second.Digest),
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			o := w.quick()
			o.StateDir, o.CacheDir = t.TempDir(), t.TempDir()
			s := (&world{T: t, upstream: w.upstream, client: w.client, dir: w.dir}).serve(o)
			if what == "signature's blob" { // it is known by its manifest
				s.get(manifestPath("edge", referrers[0].Digest))
			}
			head, get := s.ask(http.MethodHead, path), s.get(path)
			want := digest.FromString(get.body).String()
			if get.status != http.StatusOK || head.status != http.StatusOK || get.header.Get("Docker-Content-Digest") != want ||
				head.header.Get("Docker-Content-Digest") != want || head.header.Get("Content-Length") != get.header.Get("Content-Length") || head.body != "" {
				t.Errorf("%d and %d: %s\n%v\n%v", head.status, get.status, get.body, head.header, get.header)
			}
			last := path[strings.LastIndexByte(path, '/')+1:]
			if digest.Digest(last).Validate() == nil && last != want {
				t.Errorf("%s for %s", want, last)
			}
		})
	}
	t.Run("lists", func(t *testing.T) {
		s := w.serve(w.quick())
		s.is(s.get("/v2/edge/tags/list"), 200, `{"name":"edge","tags":["1.0.0","1.0.0.argocd","stable"]}`)
		s.is(s.get("/v2/edge/tags/list?n=1&last=1.0.0"), 200, `{"name":"edge","tags":["1.0.0.argocd"]}`)
		s.is(s.get("/v2/edge/referrers/"+r.root.Digest.String()), 200, referrers[0].Digest.String())
		s.is(s.get("/v2/edge/referrers/"+r.root.Digest.String()+"?artifactType=none"), 200, `"manifests":[]`)
		s.is(s.get("/v2/edge/referrers/"+digest.FromString("other").String()), 200, `"manifests":[]`)
		s.is(s.get(manifestPath("edge", legacy.Digest)), 200, "simplesigning")
		s.is(s.get("/v2/"), 200, "{}")
		s.is(s.get("/readyz"), 200, "ok")
		s.is(s.get("/healthz"), 200, "ok")
		s.is(s.get("/metrics"), 200, "krtpkg_gate_accepted_roots 1\n")
		a := s.get(manifestPath("edge", "1.0.0"))
		if a.header.Get("Content-Type") != ocispec.MediaTypeImageManifest {
			t.Error(a.header)
		}
		if again := s.get(manifestPath("edge", "1.0.0"), "If-None-Match", a.header.Get("ETag")); again.status != http.StatusNotModified || again.body != "" {
			t.Errorf("%d %s", again.status, again.body)
		}
	})
}
