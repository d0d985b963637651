package gate_test

import (
	"testing"
	"time"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"krtpkg.dev/krtpkg/internal/registrytest"
)

// Whoever may push attaches what gives the blob of a signature another size. It is answered anyway.
func TestDisputedSize(t *testing.T) {
	t.Parallel()
	w := newWorld(t, registrytest.Options{})
	repo := w.repository("krt/edge")
	r := w.pushRuntime(repo, "edge", "1.0.0", "first", "1.0.0")
	w.sign(repo, r.root)
	document := w.attach(repo, r.root, "application/vnd.example.sbom", "application/json", `{"a": 1}`)
	blob := w.readManifest(repo, document).Layers[0]
	for _, cached := range []bool{false, true} {
		o := w.quick()
		o.StateDir, o.Recheck = t.TempDir(), time.Minute
		if !cached {
			o.CacheDir = ""
		}
		s := w.serve(o)
		s.leadsTo(manifestPath("edge", "1.0.0"), r.root.Digest)
		s.leadsTo(manifestPath("edge", document.Digest), document.Digest)
		for _, size := range []int64{1, 1 << 20} {
			wrong := blob
			wrong.Size = size
			evil := w.pushJSON(repo, ocispec.MediaTypeImageManifest, ocispec.Manifest{
				Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/vnd.example.sbom",
				Config: w.push(repo, ocispec.MediaTypeEmptyJSON, []byte("{}")), Layers: []ocispec.Descriptor{wrong}, Subject: &r.root,
			})
			s.leadsTo(manifestPath("edge", evil.Digest), evil.Digest)
			s.is(s.get(blobPath("edge", blob.Digest)), 200, `{"a": 1}`)
		}
	}
}
