package gate_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/internal/signtest"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/gate"
	"krtpkg.dev/krtpkg/pkg/registry"
	"krtpkg.dev/krtpkg/pkg/sign"
)

// scene is a signed runtime, edge 1.0.0, with the tags 1.0.0 and stable, and a gate that has answered nothing yet.
type scene struct {
	*server
	repo *registry.Repository
	good runtime
}

// pushEvil makes a runtime that nobody signed.
func (s *scene) pushEvil(tags ...string) runtime {
	return s.pushRuntime(s.repo, "edge", "6.6.6", "evil", tags...)
}

// isEdge fails unless stable and 1.0.0 lead to the signed runtime.
func (s *scene) isEdge() {
	s.Helper()
	s.leadsTo(manifestPath("edge", "1.0.0"), s.good.root.Digest)
	s.leadsTo(manifestPath("edge", "stable"), s.good.root.Digest)
}

// replace answers requests of which the path ends with something.
func (s *scene) replace(method, suffix string, with func(http.ResponseWriter, *http.Request)) {
	s.setFault(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != method || !strings.HasSuffix(r.URL.Path, suffix) {
			return false
		}
		with(w, r)
		return true
	})
}

// fails fails unless a request is answered as one that upstream is to blame for.
func (s *scene) fails(a answer) {
	s.Helper()
	if a.status != http.StatusBadGateway && a.status != http.StatusServiceUnavailable {
		s.Errorf("%+v", a)
	}
}

func send(mediaType, text string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", mediaType)
		io.WriteString(w, text)
	}
}

func hang(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
	w.Header().Set("Content-Length", "1000")
	w.WriteHeader(200)
	w.(http.Flusher).Flush()
	<-r.Context().Done()
}

func down(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }

// layerOf returns the layer of the first platform of an image.
func (s *scene) layerOf(image ocispec.Descriptor) ocispec.Descriptor {
	s.Helper()
	return s.readManifest(s.repo, s.readManifest(s.repo, image).Manifests[0]).Layers[0]
}

const denied, unnamed = http.StatusForbidden, "no verified root names it"

// tampering is a row: what somebody does who can write upstream, or is upstream, or the network, and what the gate says.
type tampering struct {
	name string
	do   func(s *scene)
}

var tamperings = []tampering{
	// What nobody signed.
	{"unsigned root by tag", func(s *scene) {
		s.pushEvil("6.6.6")
		s.is(s.get(manifestPath("edge", "6.6.6")), denied, "krt/edge:6.6.6: sha256:")
		s.is(s.get(manifestPath("edge", "6.6.6")), denied, sign.ErrUnsigned.Error())
		if e := s.findEvent(gate.EventRefused); e.Reference != "6.6.6" || e.Client != "127.0.0.1" || e.Err == nil || !strings.HasSuffix(e.Repository, "/krt/edge") {
			s.Errorf("%+v", e)
		}
		s.is(s.get("/metrics"), 200, `krtpkg_gate_refusals_total{reason="unsigned"} 2`)
	}},
	{"unsigned root by digest", func(s *scene) {
		s.is(s.get(manifestPath("edge", s.pushEvil().root.Digest)), denied, sign.ErrUnsigned.Error())
	}},
	{"unsigned root by HEAD", func(s *scene) {
		if a := s.ask(http.MethodHead, manifestPath("edge", s.pushEvil().root.Digest)); a.status != denied || a.body != "" || a.header.Get("Docker-Content-Digest") != "" {
			s.Errorf("%+v", a)
		}
	}},
	{"signed by a stranger", func(s *scene) {
		evil := s.pushEvil("6.6.6")
		s.signer, _ = signtest.NewSignerWithKey(s)
		s.sign(s.repo, evil.root)
		s.is(s.get(manifestPath("edge", "6.6.6")), denied, "none valid")
	}},
	{"signature of another root under its tag", func(s *scene) {
		evil := s.pushEvil("6.6.6")
		at, err := s.repo.Resolve(s.Context(), sign.Tag(s.good.root.Digest))
		if err != nil {
			s.Fatal(err)
		}
		s.tag(s.repo, at, sign.Tag(evil.root.Digest))
		s.is(s.get(manifestPath("edge", "6.6.6")), denied, "signed digest "+s.good.root.Digest.String()+", want "+evil.root.Digest.String())
	}},
	{"image in no lock, by digest", func(s *scene) {
		s.is(s.get(manifestPath("edge", s.pushImage(s.repo, "evil").Digest)), denied, unnamed)
	}},
	{"image in no lock, by tag", func(s *scene) {
		s.tag(s.repo, s.pushImage(s.repo, "evil"), "latest")
		s.is(s.get(manifestPath("edge", "latest")), denied, unnamed)
	}},
	{"index with an extra platform", func(s *scene) {
		index := s.readManifest(s.repo, s.good.image)
		more := s.pushPlatform(s.repo, "evil")
		evil := s.pushJSON(s.repo, ocispec.MediaTypeImageIndex, ocispec.Index{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: append(index.Manifests, more),
		})
		s.tag(s.repo, evil, "web")
		s.isEdge()
		s.is(s.get(manifestPath("edge", "web")), denied, unnamed)
		s.is(s.get(manifestPath("edge", evil.Digest)), denied, unnamed)
		s.is(s.get(manifestPath("edge", more.Digest)), denied, unnamed)
		s.is(s.get(manifestPath("edge", index.Manifests[0].Digest)), 200, "layers")
	}},
	{"what only a refused root names", func(s *scene) {
		evil := s.pushEvil("6.6.6")
		s.isEdge()
		s.is(s.get(manifestPath("edge", evil.inner.Digest)), denied, sign.ErrUnsigned.Error())
		s.is(s.get(manifestPath("edge", evil.image.Digest)), denied, unnamed)
		s.is(s.get(blobPath("edge", s.layerOf(evil.image).Digest)), denied, unnamed)
		s.is(s.get(blobPath("edge", evil.set.Root.Manifest.Layers[0].Digest)), denied, unnamed)
		s.is(s.get(blobPath("edge", evil.set.Bundles[0].Manifest.Config.Digest)), denied, unnamed)
	}},
	{"blob that nothing names", func(s *scene) {
		s.is(s.get(blobPath("edge", s.push(s.repo, "text/plain", []byte("evil")).Digest)), denied, unnamed)
		s.is(s.ask(http.MethodHead, blobPath("edge", s.push(s.repo, "text/plain", []byte("evil")).Digest)), denied, "")
	}},
	{"blob as a manifest", func(s *scene) {
		s.isEdge()
		layer := s.layerOf(s.good.image)
		s.is(s.get(blobPath("edge", layer.Digest)), 200, "layer of")
		if a := s.get(manifestPath("edge", layer.Digest)); a.status == 200 {
			s.Errorf("%+v", a)
		}
	}},
	{"manifest as a blob", func(s *scene) {
		s.isEdge()
		s.is(s.get(blobPath("edge", s.good.root.Digest)), denied, unnamed)
	}},
	{"catalogue", func(s *scene) {
		s.tag(s.repo, s.attach(s.repo, s.good.root, bundle.TypeCatalogue, "application/json", "{}"), "packages")
		s.is(s.get(manifestPath("edge", "packages")), denied, "a catalogue, which is not signed: name a runtime")
	}},
	{"signed root of which a bundle is missing", func(s *scene) {
		s.replace(http.MethodGet, s.good.inner.Digest.String(), func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) })
		s.is(s.get(manifestPath("edge", "1.0.0")), denied, "bundle web 1.0.0")
	}},

	// What is attached to something.
	{"image with an accepted subject", func(s *scene) {
		evil := s.attach(s.repo, s.good.root, "application/vnd.example.sbom", ocispec.MediaTypeImageLayerGzip, "a file system")
		s.isEdge()
		s.is(s.get(manifestPath("edge", evil.Digest)), denied, "which may be a file system")
		if a := s.get("/v2/edge/referrers/" + s.good.root.Digest.String()); strings.Contains(a.body, evil.Digest.String()) || !strings.Contains(a.body, "sigstore") {
			s.Errorf("%+v", a)
		}
	}},
	{"image with an accepted subject, by tag", func(s *scene) {
		s.isEdge()
		evil := s.attach(s.repo, s.good.root, "application/vnd.example.sbom", "application/json", "{}")
		s.is(s.get(manifestPath("edge", evil.Digest)), 200, "sbom")
		s.tag(s.repo, evil, "stable")
		s.leadsTo(manifestPath("edge", "stable"), s.good.root.Digest)
	}},
	{"layer with an unknown type", func(s *scene) {
		evil := s.attach(s.repo, s.good.root, "", "application/vnd.example", "what is it")
		s.isEdge()
		s.is(s.get(manifestPath("edge", evil.Digest)), denied, "which may be a file system")
	}},
	{"layers with suffixes that runtimes unpack", func(s *scene) {
		s.isEdge()
		for _, mediaType := range []string{
			ocispec.MediaTypeImageLayer + "+json", ocispec.MediaTypeImageLayerZstd + "+json", "Application/vnd.oci.image.layer.v1.tar+xml; x=y",
			"application/vnd.docker.image.rootfs.diff.tar.gzip+json", "application/vnd.erofs.layer.v1+json",
		} {
			evil := s.attach(s.repo, s.good.root, "application/vnd.example.sbom", mediaType, "a file system of "+mediaType)
			s.is(s.get(manifestPath("edge", evil.Digest)), denied, "which may be a file system")
		}
	}},
	{"runtime with an accepted subject", func(s *scene) {
		evil := s.attach(s.repo, s.good.root, bundle.TypeRuntime, "application/json", "{}")
		s.isEdge()
		s.is(s.get(manifestPath("edge", evil.Digest)), denied, sign.ErrUnsigned.Error())
		if a := s.get("/v2/edge/referrers/" + s.good.root.Digest.String()); strings.Contains(a.body, evil.Digest.String()) {
			s.Errorf("%+v", a)
		}
	}},
	{"referrer of a refused root", func(s *scene) {
		root := s.pushEvil("6.6.6").root
		evil := s.attach(s.repo, root, "application/vnd.example.sbom", "application/json", "{}")
		s.is(s.get(manifestPath("edge", evil.Digest)), denied, "is not served")
		s.is(s.get("/v2/edge/referrers/"+root.Digest.String()), 200, `"manifests":[]`)
	}},
	{"referrer of another subject in the list", func(s *scene) {
		evil := s.attach(s.repo, s.pushEvil().root, "application/vnd.example.sbom", "application/json", "{}")
		evil.ArtifactType = "application/vnd.example.sbom"
		list, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{evil}})
		if err != nil {
			s.Fatal(err)
		}
		s.isEdge()
		s.replace(http.MethodGet, "/referrers/"+s.good.image.Digest.String(), send(ocispec.MediaTypeImageIndex, string(list)))
		s.is(s.get("/v2/edge/referrers/"+s.good.image.Digest.String()), 200, `"manifests":[]`)
	}},
	{"list with another size and type", func(s *scene) {
		sbom := s.attach(s.repo, s.good.root, "application/vnd.example.sbom", "application/json", "{}")
		wrong := sbom
		wrong.Size, wrong.MediaType, wrong.ArtifactType = 1, "application/evil", "application/evil"
		list, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{wrong}})
		if err != nil {
			s.Fatal(err)
		}
		s.isEdge()
		s.replace(http.MethodGet, "/referrers/"+s.good.image.Digest.String(), send(ocispec.MediaTypeImageIndex, string(list)))
		s.is(s.get("/v2/edge/referrers/"+s.good.image.Digest.String()), 200, `"manifests":[]`) // of the root, not of the image
		s.replace(http.MethodGet, "/referrers/"+s.good.root.Digest.String(), send(ocispec.MediaTypeImageIndex, string(list)))
		s.until("a list of the content", func() bool {
			a := s.get("/v2/edge/referrers/" + s.good.root.Digest.String())
			return !strings.Contains(a.body, "evil") && strings.Contains(a.body, fmt.Sprintf(`"size":%d`, sbom.Size))
		})
	}},
	{"image under cosign's tag", func(s *scene) {
		s.tag(s.repo, s.pushPlatform(s.repo, "evil"), sign.AttestationTag(s.good.root.Digest))
		s.isEdge()
		s.is(s.get(manifestPath("edge", sign.AttestationTag(s.good.root.Digest))), denied, "which may be a file system")
	}},
	{"cosign's tag of a refused root", func(s *scene) {
		evil := s.pushEvil("6.6.6").root
		s.tag(s.repo, s.attach(s.repo, evil, "", "application/json", "{}"), sign.AttestationTag(evil.Digest))
		s.is(s.get(manifestPath("edge", sign.AttestationTag(evil.Digest))), denied, "not valid")
	}},
	{"list under the fallback tag", func(s *scene) {
		tag := strings.Replace(s.good.root.Digest.String(), ":", "-", 1)
		s.tag(s.repo, s.pushImage(s.repo, "evil"), tag)
		s.isEdge()
		s.is(s.get(manifestPath("edge", tag)), 404, "MANIFEST_UNKNOWN")
	}},
	{"closure that names more", func(s *scene) {
		subject := ocispec.Descriptor{MediaType: s.good.root.MediaType, Digest: s.good.root.Digest, Size: s.good.root.Size}
		closure := ocispec.Index{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, ArtifactType: bundle.TypeClosure,
			Subject: &subject, Manifests: []ocispec.Descriptor{s.good.root, s.good.inner, s.good.image},
		}
		right := s.pushJSON(s.repo, closure.MediaType, closure)
		closure.Manifests = append(closure.Manifests, s.pushImage(s.repo, "evil"))
		wrong := s.pushJSON(s.repo, closure.MediaType, closure)
		s.isEdge()
		s.is(s.get(manifestPath("edge", right.Digest)), 200, "closure")
		s.is(s.get(manifestPath("edge", wrong.Digest)), denied, ", which it names")
	}},
	{"index and image in one", func(s *scene) {
		subject := ocispec.Descriptor{MediaType: s.good.root.MediaType, Digest: s.good.root.Digest, Size: s.good.root.Size}
		evil := s.pushJSON(s.repo, ocispec.MediaTypeImageIndex, map[string]any{
			"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageIndex, "subject": subject, "manifests": []any{},
			"layers": []ocispec.Descriptor{s.layerOf(s.good.image)},
		})
		s.isEdge()
		s.is(s.get(manifestPath("edge", evil.Digest)), denied, "both an image and an index")
	}},
	{"Argo CD's manifest over another layer", func(s *scene) {
		second, _, err := bundle.ForArgoCD(&s.pushEvil().set.Root.Manifest)
		if err != nil {
			s.Fatal(err)
		}
		_, data, _ := bundle.ForArgoCD(&s.pushEvil().set.Root.Manifest)
		s.push(s.repo, second.MediaType, data)
		s.tag(s.repo, second, "1.0.0.argocd")
		s.isEdge()
		s.is(s.get(manifestPath("edge", "1.0.0.argocd")), denied, unnamed)
		s.is(s.get(manifestPath("edge", second.Digest)), denied, "belongs to no verified root")
	}},
	{"Argo CD's manifest with another config", func(s *scene) {
		m := s.good.set.Root.Manifest
		m.Config = s.push(s.repo, ocispec.MediaTypeImageConfig, []byte(`{"config":{"Cmd":["evil"]}}`))
		second, data, err := bundle.ForArgoCD(&m)
		if err != nil {
			s.Fatal(err)
		}
		s.push(s.repo, second.MediaType, data)
		s.isEdge()
		s.is(s.get(manifestPath("edge", second.Digest)), denied, "belongs to no verified root")
	}},
	{"Argo CD's tag of another version", func(s *scene) {
		second, data, err := bundle.ForArgoCD(&s.good.set.Root.Manifest)
		if err != nil {
			s.Fatal(err)
		}
		s.push(s.repo, second.MediaType, data)
		s.tag(s.repo, second, "2.0.0.argocd")
		s.isEdge()
		s.is(s.get(manifestPath("edge", "2.0.0.argocd")), denied, "tag 2.0.0 is not the version of edge 1.0.0")
	}},

	// Tags that move.
	{"version's tag on another version", func(s *scene) {
		s.tag(s.repo, s.good.root, "2.0.0")
		s.is(s.get(manifestPath("edge", "2.0.0")), denied, "tag 2.0.0 is not the version of edge 1.0.0")
	}},
	{"tag moves to what nobody signed", func(s *scene) {
		s.isEdge()
		s.pushEvil("stable")
		a := s.leadsTo(manifestPath("edge", "stable"), s.good.root.Digest)
		if warning := a.header.Get("Warning"); !strings.HasPrefix(warning, `299 - "tag stable stays at 1.0.0 (sha256:`) || !strings.Contains(warning, sign.ErrUnsigned.Error()) {
			s.Errorf("it warns: %s", warning)
		}
		if e := s.findEvent(gate.EventKept); e.Reference != "stable" || e.Version != "1.0.0" || e.Err == nil {
			s.Errorf("%+v", e)
		}
	}},
	{"tag moves back", func(s *scene) {
		newer := s.pushRuntime(s.repo, "edge", "1.1.0", "newer", "stable")
		s.sign(s.repo, newer.root)
		s.leadsTo(manifestPath("edge", "stable"), newer.root.Digest)
		s.tag(s.repo, s.good.root, "stable")
		a := s.leadsTo(manifestPath("edge", "stable"), newer.root.Digest)
		if !strings.Contains(a.header.Get("Warning"), "edge 1.0.0, "+s.good.root.Digest.String()+" is older than edge 1.1.0, "+newer.root.Digest.String()+", which the tag has") {
			s.Error(a.header)
		}
		s.leadsTo(manifestPath("edge", s.good.root.Digest), s.good.root.Digest) // pinned it is answered
		s.stop()
		s.server = s.world.serve(s.quick())
		s.leadsTo(manifestPath("edge", "stable"), newer.root.Digest) // over a restart, too
		s.stop()
		o := s.quick()
		o.AllowDowngrade = true
		s.server = s.world.serve(o)
		s.leadsTo(manifestPath("edge", "stable"), s.good.root.Digest)
	}},
	{"same version with another digest", func(s *scene) {
		s.isEdge()
		again := s.pushRuntime(s.repo, "edge", "1.0.0", "again", "1.0.0")
		s.sign(s.repo, again.root)
		a := s.leadsTo(manifestPath("edge", "1.0.0"), s.good.root.Digest)
		if !strings.Contains(a.header.Get("Warning"), "is another build of edge 1.0.0, "+s.good.root.Digest.String()) {
			s.Error(a.header)
		}
	}},
	{"same version with other build metadata", func(s *scene) {
		first := s.pushRuntime(s.repo, "edge", "1.2.0+2", "first", "stable")
		s.sign(s.repo, first.root)
		s.leadsTo(manifestPath("edge", "stable"), first.root.Digest)
		for _, version := range []string{"1.2.0+1", "1.2.0+3", "1.2.0"} {
			other := s.pushRuntime(s.repo, "edge", version, "other", "stable")
			s.sign(s.repo, other.root)
			a := s.leadsTo(manifestPath("edge", "stable"), first.root.Digest)
			if !strings.Contains(a.header.Get("Warning"), "is another build of edge 1.2.0+2, "+first.root.Digest.String()) {
				s.Error(a.header)
			}
		}
	}},
	{"signed runtime of another name", func(s *scene) {
		s.isEdge()
		shop := s.pushRuntime(s.repo, "shop", "9.0.0", "shop", "stable")
		s.sign(s.repo, shop.root)
		a := s.leadsTo(manifestPath("edge", "stable"), s.good.root.Digest)
		if !strings.Contains(a.header.Get("Warning"), "has another name than edge 1.0.0, "+s.good.root.Digest.String()+", which the tag has") {
			s.Error(a.header)
		}
	}},
	{"tag removed, and set to an older version", func(s *scene) {
		newer := s.pushRuntime(s.repo, "edge", "1.1.0", "newer", "stable")
		s.sign(s.repo, newer.root)
		s.leadsTo(manifestPath("edge", "stable"), newer.root.Digest)
		s.replace(http.MethodHead, "/manifests/stable", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) })
		s.is(s.get(manifestPath("edge", "stable")), 404, "MANIFEST_UNKNOWN")
		s.setFault(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(500); return true })
		s.is(s.get(manifestPath("edge", "stable")), 503, "") // what was removed does not come back while upstream is down
		s.setFault(func(http.ResponseWriter, *http.Request) bool { return false })
		s.tag(s.repo, s.good.root, "stable")
		s.leadsTo(manifestPath("edge", "stable"), newer.root.Digest)
	}},
	{"tag that moves between HEAD and GET", func(s *scene) {
		evil := s.pushEvil()
		evilData := s.readBytes(evil.root)
		// HEAD leads to the signed root, and GET, of the tag or the digest, gives the other.
		s.setFault(func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/manifests/1.0.0") && !strings.HasSuffix(r.URL.Path, s.good.root.Digest.String()) {
				return false
			}
			send(ocispec.MediaTypeImageManifest, evilData)(w, r)
			return true
		})
		s.fails(s.get(manifestPath("edge", "1.0.0")))
		s.setFault(func(http.ResponseWriter, *http.Request) bool { return false })
		s.until("the right one", func() bool { return s.get(manifestPath("edge", "1.0.0")).status == 200 })
		s.isEdge()
	}},
	{"HEAD that leads elsewhere than GET", func(s *scene) {
		s.isEdge()
		s.pushEvil("6.6.6")
		s.replace(http.MethodHead, "/manifests/stable", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
			w.Header().Set("Content-Length", "5")
			w.Header().Set("Docker-Content-Digest", s.good.root.Digest.String())
		})
		s.tag(s.repo, s.pushEvil().root, "stable")
		s.leadsTo(manifestPath("edge", "stable"), s.good.root.Digest)
	}},
	{"kept version is revoked", func(s *scene) {
		s.isEdge()
		s.pushEvil("stable")
		s.leadsTo(manifestPath("edge", "stable"), s.good.root.Digest)
		s.write("trust.yaml", policyText+"revoked: {digests: ['"+s.good.root.Digest.String()+"']}\n")
		s.until("a refusal", func() bool { return s.get(manifestPath("edge", "stable")).status == denied })
		s.is(s.get(manifestPath("edge", "stable")), denied, "is revoked by")
	}},
	{"damaged state", func(s *scene) {
		s.isEdge()
		s.stop()
		files, err := filepath.Glob(filepath.Join(s.dir, "state", "*.json"))
		if err != nil || len(files) != 1 {
			s.Fatal(files, err)
		}
		if err := os.WriteFile(files[0], []byte("{"), 0o600); err != nil {
			s.Fatal(err)
		}
		s.server = s.world.serve(s.quick())
		s.is(s.get(manifestPath("edge", "stable")), http.StatusServiceUnavailable, "state of ")
	}},
	{"state that cannot be written", func(s *scene) {
		s.isEdge()
		newer := s.pushRuntime(s.repo, "edge", "1.1.0", "newer", "stable")
		s.sign(s.repo, newer.root)
		if err := os.Rename(filepath.Join(s.dir, "state"), filepath.Join(s.dir, "gone")); err != nil {
			s.Fatal(err)
		}
		s.leadsTo(manifestPath("edge", "stable"), s.good.root.Digest)
		s.is(s.get("/readyz"), http.StatusServiceUnavailable, "state folder")
		if e := s.findEvent(gate.EventState); e.Err == nil {
			s.Errorf("%+v", e)
		}
		if err := os.Rename(filepath.Join(s.dir, "gone"), filepath.Join(s.dir, "state")); err != nil {
			s.Fatal(err)
		}
		s.leadsTo(manifestPath("edge", "stable"), newer.root.Digest)
	}},

	// An upstream that is not what it should be.
	{"other bytes for a manifest", func(s *scene) {
		s.replace(http.MethodGet, "/manifests/"+s.good.image.Digest.String(), send(ocispec.MediaTypeImageIndex, s.readBytes(s.pushEvil().image)))
		s.leadsTo(manifestPath("edge", "1.0.0"), s.good.root.Digest)
		s.fails(s.get(manifestPath("edge", s.good.image.Digest)))
	}},
	{"other bytes for a blob", func(s *scene) {
		s.isEdge()
		layer := s.layerOf(s.good.image)
		s.replace(http.MethodGet, "/blobs/"+layer.Digest.String(), send("application/octet-stream", strings.Repeat("e", int(layer.Size))))
		if a := s.get(blobPath("edge", layer.Digest)); a.status == 200 && a.err == nil || strings.Contains(a.body, "eee") {
			s.Errorf("%+v", a)
		}
		s.is(s.get(blobPath("edge", layer.Digest), "Range", "bytes=0-3"), http.StatusBadGateway, "")
		s.setFault(func(http.ResponseWriter, *http.Request) bool { return false })
		s.is(s.get(blobPath("edge", layer.Digest)), 200, "layer of first amd64")
	}},
	{"longer blob", func(s *scene) {
		s.isEdge()
		layer := s.layerOf(s.good.image)
		s.replace(http.MethodGet, "/blobs/"+layer.Digest.String(), send("application/octet-stream", "layer of first amd64 and more"))
		if a := s.get(blobPath("edge", layer.Digest)); a.status == 200 && a.err == nil {
			s.Errorf("%+v", a)
		}
	}},
	{"shorter blob", func(s *scene) {
		s.isEdge()
		layer := s.layerOf(s.good.image)
		s.replace(http.MethodGet, "/blobs/"+layer.Digest.String(), send("application/octet-stream", "layer"))
		if a := s.get(blobPath("edge", layer.Digest)); a.status == 200 && a.err == nil {
			s.Errorf("%+v", a)
		}
	}},
	{"other media type", func(s *scene) {
		data := s.readBytes(s.good.root)
		s.replace(http.MethodGet, "/manifests/"+s.good.root.Digest.String(), send("application/vnd.evil+json", data))
		if a := s.get(manifestPath("edge", "1.0.0")); a.status != 200 || a.header.Get("Content-Type") != ocispec.MediaTypeImageManifest {
			s.Errorf("%+v", a)
		}
	}},
	{"huge manifest", func(s *scene) {
		s.replace(http.MethodGet, "/manifests/"+s.good.root.Digest.String(), send(ocispec.MediaTypeImageManifest, strings.Repeat(" ", 5<<20)))
		s.is(s.get(manifestPath("edge", "1.0.0")), http.StatusBadGateway, "")
	}},
	{"manifest without end", func(s *scene) {
		s.replace(http.MethodGet, "/manifests/"+s.good.root.Digest.String(), func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
			for range 64 { // of 1 MiB
				if _, err := io.WriteString(w, strings.Repeat(" ", 1<<20)); err != nil {
					return
				}
			}
		})
		s.is(s.get(manifestPath("edge", "1.0.0")), http.StatusBadGateway, "")
	}},
	{"slow upstream", func(s *scene) {
		o := s.quick()
		o.Timeout = 100 * time.Millisecond
		o.StateDir = s.TempDir()
		other := s.world.serve(o)
		s.replace(http.MethodGet, "/manifests/"+s.good.root.Digest.String(), hang)
		started := time.Now()
		s.is(other.get(manifestPath("edge", "1.0.0")), http.StatusServiceUnavailable, "no answer within 100ms")
		if took := time.Since(started); took > 4*time.Second {
			s.Errorf("it takes %s", took)
		}
	}},
	{"upstream that is down, for a gate that knows nothing", func(s *scene) {
		s.setFault(down)
		s.is(s.get(manifestPath("edge", "1.0.0")), http.StatusServiceUnavailable, "UNAVAILABLE")
		s.is(s.get(manifestPath("edge", s.good.root.Digest)), http.StatusServiceUnavailable, "UNAVAILABLE")
		s.is(s.get("/v2/edge/tags/list"), http.StatusServiceUnavailable, "UNAVAILABLE")
	}},
	{"upstream that is down, for a gate that has seen it", func(s *scene) {
		s.isEdge()
		layer := s.layerOf(s.good.image)
		s.is(s.get(manifestPath("edge", s.good.image.Digest)), 200, "")
		s.is(s.get(manifestPath("edge", s.readManifest(s.repo, s.good.image).Manifests[0].Digest)), 200, "")
		s.is(s.get(blobPath("edge", layer.Digest)), 200, "layer")
		s.setFault(down)
		s.stop()
		s.server = s.world.serve(s.quick())
		a := s.leadsTo(manifestPath("edge", "stable"), s.good.root.Digest)
		if !strings.Contains(a.header.Get("Warning"), "upstream "+s.upstream.Host+"/krt/edge: ") {
			s.Error(a.header)
		}
		s.is(s.get(blobPath("edge", layer.Digest)), 200, "layer")
		s.is(s.get("/v2/edge/tags/list"), 200, `["1.0.0","stable"]`)
		if a := s.get("/metrics"); strings.Contains(a.body, "krtpkg_gate_upstream_failing_since_seconds{upstream=\""+s.upstream.Host+"/krt\"} 0.000") {
			s.Errorf("it is not said that upstream fails: %s", a.body)
		}
		if e := s.findEvent(gate.EventUpstream); e.Err == nil {
			s.Errorf("%+v", e)
		}
	}},
	{"upstream that refuses", func(s *scene) {
		s.replace(http.MethodHead, "/manifests/1.0.0", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) })
		s.setFault(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(403); return true })
		s.is(s.get(manifestPath("edge", "1.0.0")), http.StatusServiceUnavailable, "UNAVAILABLE")
	}},
	{"redirect to another host", func(s *scene) {
		s.isEdge()
		layer := s.layerOf(s.good.image)
		var leaked atomic.Value
		elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			leaked.Store(r.Header.Get("Authorization") + r.Header.Get("Cookie"))
			io.WriteString(w, "layer of first amd64")
		}))
		defer elsewhere.Close()
		s.setFault(func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, "/blobs/"+layer.Digest.String()) {
				return false
			}
			http.Redirect(w, r, strings.Replace(elsewhere.URL, "127.0.0.1", "localhost", 1), http.StatusTemporaryRedirect)
			return true
		})
		s.is(s.get(blobPath("edge", layer.Digest), "Authorization", "Basic Y2xpZW50OnNlY3JldA==", "Cookie", "a=b"), 200, "layer of first amd64")
		if got, asked := leaked.Load().(string); !asked || got != "" {
			s.Errorf("asked %v, with %q", asked, got)
		}
	}},
	{"client's login", func(s *scene) {
		var leaked atomic.Bool
		s.setFault(func(_ http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.Header.Get("Authorization"), "Y2xpZW50OnNlY3JldA==") || r.Header.Get("X-Secret") != "" {
				leaked.Store(true)
			}
			return false
		})
		s.is(s.get(manifestPath("edge", "1.0.0"), "Authorization", "Basic Y2xpZW50OnNlY3JldA==", "X-Secret", "1"), 200, "")
		if leaked.Load() {
			s.Error("upstream has seen it")
		}
	}},

	// The policy.
	{"root is revoked", func(s *scene) {
		s.isEdge()
		s.write("trust.yaml", policyText+"revoked: {digests: ['"+s.good.root.Digest.String()+"']}\n")
		s.until("a refusal", func() bool { return s.get(manifestPath("edge", "1.0.0")).status == denied })
		s.is(s.get(manifestPath("edge", s.good.root.Digest)), denied, "is revoked by")
		s.is(s.get(manifestPath("edge", s.good.image.Digest)), denied, unnamed)
		s.is(s.get(blobPath("edge", s.layerOf(s.good.image).Digest)), denied, unnamed)
	}},
	{"image is revoked", func(s *scene) {
		s.isEdge()
		s.is(s.get(manifestPath("edge", s.good.image.Digest)), 200, "")
		s.write("trust.yaml", policyText+"revoked: {digests: ['"+s.good.image.Digest.String()+"']}\n")
		s.until("a refusal", func() bool { return s.get(manifestPath("edge", s.good.image.Digest)).status == denied })
		s.is(s.get(manifestPath("edge", "1.0.0")), denied, "image ghcr.io/example/web:1.0.0: "+s.good.image.Digest.String()+" is revoked by")
	}},
	{"key is revoked", func(s *scene) {
		s.isEdge()
		s.write("trust.yaml", policyText+"revoked: {keys: ["+s.signer.Key().ID()+"]}\n")
		s.until("a refusal", func() bool { return s.get(manifestPath("edge", "1.0.0")).status == denied })
		s.is(s.get(manifestPath("edge", "1.0.0")), denied, "which is revoked")
		s.is(s.get("/metrics"), 200, "krtpkg_gate_policy_valid 1\n")
	}},
	{"policy's key is another one", func(s *scene) {
		s.isEdge()
		_, public := signtest.NewSignerWithKey(s)
		s.write("release.pub", string(public))
		s.until("a refusal", func() bool { return s.get(manifestPath("edge", "1.0.0")).status == denied })
	}},
	{"policy is removed", func(s *scene) {
		s.isEdge()
		if err := os.Remove(filepath.Join(s.dir, "trust.yaml")); err != nil {
			s.Fatal(err)
		}
		s.until("a refusal", func() bool { return s.get(manifestPath("edge", "1.0.0")).status == denied })
		s.is(s.get(blobPath("edge", s.good.set.Root.Manifest.Config.Digest)), denied, "trust policy")
		s.is(s.get("/v2/edge/tags/list"), denied, "trust policy")
		s.is(s.get("/v2/edge/referrers/"+s.good.root.Digest.String()), denied, "trust policy")
		s.is(s.get("/readyz"), http.StatusServiceUnavailable, "everything is refused")
		s.is(s.get("/metrics"), 200, "krtpkg_gate_policy_valid 0\n")
		s.write("trust.yaml", policyText)
		s.until("an answer", func() bool { return s.get(manifestPath("edge", "1.0.0")).status == 200 })
	}},
	{"policy is damaged", func(s *scene) {
		s.isEdge()
		s.write("trust.yaml", policyText+"unknown: 1\n")
		s.until("a refusal", func() bool { return s.get(manifestPath("edge", "1.0.0")).status == denied })
	}},
	{"policy is for other repositories", func(s *scene) {
		s.isEdge()
		s.write("trust.yaml", strings.Replace(policyText, "*/krt/**", "*/shop/**", 1))
		s.until("a refusal", func() bool { return s.get(manifestPath("edge", "1.0.0")).status == denied })
		s.is(s.get(manifestPath("edge", "1.0.0")), denied, "no rule of")
	}},
	{"policy's time is over", func(s *scene) {
		s.isEdge()
		end := time.Now().Add(1500 * time.Millisecond).UTC()
		s.write("trust.yaml", strings.Replace(policyText, "key: release.pub", "key: release.pub, notAfter: "+end.Format(time.RFC3339Nano), 1))
		s.until("the new policy", func() bool { return s.findEvent(gate.EventPolicy).Kind != "" })
		s.is(s.get(manifestPath("edge", "1.0.0")), 200, "")
		s.until("a refusal", func() bool { return s.get(manifestPath("edge", "1.0.0")).status == denied })
		if time.Now().Before(end) {
			s.Error("it is refused before its time")
		}
	}},

	// Requests that are not what they should be.
	{"names that are none", func(s *scene) {
		s.isEdge()
		for _, path := range []string{
			"/v2/edge/../edge/manifests/1.0.0", "/v2/edge/%2e%2e/manifests/1.0.0", "/v2/..%2fkrt%2fedge/manifests/1.0.0", "/v2/Edge/manifests/1.0.0",
			"/v2//edge/manifests/1.0.0", "/v2/edge//manifests/1.0.0", "/v2/edge/manifests/", "/v2/edge/manifests/1.0.0/", "/v2/edge/manifests/..",
			"/v2/edge/manifests/%2e%2e%2f%2e%2e", "/v2/edge%00/manifests/1.0.0", "/v2/edge/manifests/1.0.0%0d%0aX:1", "/v2/edge%3fa/manifests/1.0.0",
			"/v2/edge/manifests/sha256:abc", "/v2/edge/manifests/" + strings.ToUpper(s.good.root.Digest.String()), "/v2/edge/manifests/md5:d41d8cd98f00b204e9800998ecf8427e",
			"/v2/edge/blobs/1.0.0", "/v2/edge/blobs/..", "/v2/edge/referrers/1.0.0", "/v2/_catalog", "/v2/edge/_catalog", "/v2/edge/tags", "/v2/edge/tags/list/x",
			"/v2/edge/blobs/uploads/", "/v1/_ping", "/", "/v2x/edge/manifests/1.0.0", "/v2/" + strings.Repeat("a", 256) + "/manifests/1", "/v2/edge/manifests/" + strings.Repeat("a", 129),
			"/v2/registry.example:5000/krt/edge/manifests/1.0.0", "/v2/@/manifests/1", "/v2/edge\\..\\x/manifests/1",
		} {
			s.countRequests()
			if a := s.get(path); a.err == nil && a.status != 400 && a.status != 404 && a.status != 405 || s.countRequests() > 0 {
				s.Errorf("%s: %d %s", path, a.status, a.body)
			}
		}
	}},
	{"encoded spelling", func(s *scene) {
		s.leadsTo("/v2/%65dge/manifests/1.0.0", s.good.root.Digest) // the same name
		s.leadsTo("/v2/edge/manifests/"+strings.Replace(s.good.root.Digest.String(), ":", "%3A", 1), s.good.root.Digest)
		s.is(s.get("/v2/edge%2fmanifests%2f6.6.6%2f../manifests/1.0.0"), 400, "NAME_INVALID")
	}},
	{"requests that write", func(s *scene) {
		s.countRequests()
		for _, method := range []string{"PUT", "POST", "PATCH", "DELETE", "OPTIONS", "TRACE"} {
			s.is(s.ask(method, manifestPath("edge", "1.0.0")), http.StatusMethodNotAllowed, "UNSUPPORTED")
		}
		if n := s.countRequests(); n > 0 {
			s.Errorf("%d requests upstream", n)
		}
	}},
	{"what the client has already", func(s *scene) {
		evil := s.pushEvil("6.6.6")
		s.is(s.get(manifestPath("edge", "6.6.6"), "If-None-Match", `"`+evil.root.Digest.String()+`"`), denied, "")
	}},
	{"parts of a blob", func(s *scene) {
		s.isEdge()
		layer := s.layerOf(s.good.image)
		s.is(s.get(blobPath("edge", layer.Digest), "Range", "bytes=0-4"), http.StatusPartialContent, "layer")
		s.is(s.get(blobPath("edge", layer.Digest), "Range", "bytes=6-"), http.StatusPartialContent, "of first")
		s.is(s.get(blobPath("edge", layer.Digest), "Range", "bytes=100-"), http.StatusRequestedRangeNotSatisfiable, "")
		o := s.quick()
		o.StateDir, o.CacheDir = s.TempDir(), ""
		s.is(s.world.serve(o).get(blobPath("edge", layer.Digest), "Range", "bytes=0-4"), 200, "layer of first")
	}},
	{"cache that was changed on disk", func(s *scene) {
		s.isEdge()
		layer := s.layerOf(s.good.image)
		s.is(s.get(blobPath("edge", layer.Digest)), 200, "layer")
		s.is(s.get(manifestPath("edge", s.good.image.Digest)), 200, "")
		change := func(d digest.Digest) {
			file := filepath.Join(s.dir, "cache", "sha256", d.Encoded())
			data, err := os.ReadFile(file)
			for began := time.Now(); err != nil && time.Since(began) < 5*time.Second; data, err = os.ReadFile(file) {
				time.Sleep(10 * time.Millisecond) // it is stored beside the answer
			}
			if err == nil {
				err = os.WriteFile(file, []byte(strings.Repeat("e", len(data))), 0o600)
			}
			if err != nil {
				s.Fatal(err)
			}
		}
		change(layer.Digest)
		s.is(s.get(blobPath("edge", layer.Digest)), 200, "layer of first")
		change(layer.Digest)
		change(s.good.image.Digest)
		change(s.good.root.Digest)
		s.stop()
		s.server = s.world.serve(s.quick())
		s.is(s.get(blobPath("edge", layer.Digest), "Range", "bytes=0-4"), http.StatusPartialContent, "layer")
		s.is(s.get(manifestPath("edge", s.good.image.Digest)), 200, "manifests")
		s.isEdge()
	}},

	// Other repositories.
	{"root in a repository of another rule", func(s *scene) {
		s.write("trust.yaml", strings.Replace(policyText, "*/krt/**", "*/krt/edge", 1))
		s.until("the new policy", func() bool { return s.findEvent(gate.EventPolicy).Kind != "" })
		s.isEdge()
		other := s.repository("krt/other")
		again := s.pushRuntime(other, "edge", "1.0.0", "first", "1.0.0")
		if again.root.Digest != s.good.root.Digest {
			s.Fatal("it is another runtime")
		}
		s.sign(other, again.root)
		s.is(s.get(manifestPath("other", "1.0.0")), denied, "no rule of")
		s.is(s.get(manifestPath("other", again.root.Digest)), denied, "no rule of")
		s.is(s.get(blobPath("other", again.set.Root.Manifest.Layers[0].Digest)), denied, unnamed)
		s.is(s.get(manifestPath("other", again.image.Digest)), 200, "manifests") // an image is what it is
	}},
	{"image under upstream's name", func(s *scene) {
		mirror := s.repository("krt/ghcr.io/example/web")
		image := s.pushImage(mirror, "first")
		other := s.pushImage(mirror, "evil")
		s.tag(mirror, image, "1.0.0")
		s.tag(mirror, other, "1.0.1")
		s.tag(mirror, image, "latest")
		s.tag(mirror, image, "digest-"+image.Digest.Encoded())
		s.tag(mirror, other, "digest-"+other.Digest.Encoded())
		s.isEdge()
		s.stop()
		s.server = s.world.serve(s.quick()) // which knows by its state that there is edge
		s.leadsTo(manifestPath("ghcr.io/example/web", "1.0.0"), image.Digest)
		s.leadsTo(manifestPath("ghcr.io/example/web", "digest-"+image.Digest.Encoded()), image.Digest)
		s.is(s.get(manifestPath("ghcr.io/example/web", "1.0.1")), denied, unnamed)
		s.is(s.get(manifestPath("ghcr.io/example/web", "latest")), denied, unnamed)
		s.is(s.get(manifestPath("ghcr.io/example/web", "digest-"+other.Digest.Encoded())), denied, unnamed)
		s.is(s.get(manifestPath("ghcr.io/example/web", other.Digest)), denied, unnamed)
		s.tag(mirror, other, "1.0.0")
		s.leadsTo(manifestPath("ghcr.io/example/web", "1.0.0"), image.Digest)
	}},
	{"lists of what is refused", func(s *scene) {
		s.pushEvil("6.6.6", "latest")
		s.tag(s.repo, s.good.root, "3.0.0")
		s.is(s.get("/v2/edge/tags/list"), 200, `"tags":["1.0.0","stable"]`)
	}},
}

// readBytes reads a manifest upstream, past the gate.
func (s *scene) readBytes(desc ocispec.Descriptor) string {
	s.Helper()
	_, body, err := s.repo.FetchReference(s.Context(), desc.Digest.String())
	if err != nil {
		s.Fatal(err)
	}
	defer body.Close()
	data, err := io.ReadAll(body)
	if err != nil {
		s.Fatal(err)
	}
	return string(data)
}

func TestTampering(t *testing.T) {
	t.Parallel()
	if len(tamperings) < 40 {
		t.Errorf("only %d rows", len(tamperings))
	}
	for _, c := range slices.Concat(tamperings, hostilities) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, registrytest.Options{})
			repo := w.repository("krt/edge")
			s := &scene{nil, repo, w.pushRuntime(repo, "edge", "1.0.0", "first", "1.0.0", "stable")}
			w.sign(repo, s.good.root)
			s.server = w.serve(w.quick())
			c.do(s)
		})
	}
}
