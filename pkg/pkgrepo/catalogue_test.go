package pkgrepo_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"oras.land/oras-go/v2/content/memory"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/pkgrepo"
)

// version returns a runtime of one bundle, which its lock names so.
func version(t *testing.T, version, image string) *bundle.Artifact {
	t.Helper()
	at, err := name.NewDigest(image)
	if err != nil {
		t.Fatal(err)
	}
	b := one(t, "  layer: 6\n  sources: [{dir: m}]\n", file("config/m/a.yaml", pod))
	b.Image = at
	files, left, err := pkgrepo.PackageFiles(t.Context(), "edge", []pkgrepo.Bundle{b}, time.Time{})
	if err != nil || len(left) > 0 {
		t.Fatal(left, err)
	}
	content := &bundle.Content{
		Runtime: &bundle.RuntimeLock{
			APIVersion: bundle.APIVersion, Kind: bundle.KindRuntimeLock,
			Metadata: bundle.Metadata{Name: "edge", Version: version},
			Bundles:  []bundle.LockedBundle{{Name: "web", Version: "1.2.3", Layer: 6, Digest: at.DigestStr()}},
		},
		Files: files, Images: images.Lock{{Image: at, Reference: at.Name()}},
	}
	store := memory.New()
	desc, err := content.Pack(t.Context(), store, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	artifact, err := bundle.Open(t.Context(), store, desc)
	if err != nil {
		t.Fatal(err)
	}
	return artifact
}

// A package is the same where its bundle is, by digest: a runtime may name a bundle that was built
// before by its repository, and another one that is built along with it by none.
func TestCatalogueMergesByDigest(t *testing.T) {
	const other = "@sha256:1111111111111111111111111111111111111111111111111111111111111111"
	nested := version(t, "1.0.0", "krtpkg.invalid/bundles/web"+digest)
	made, err := pkgrepo.BuildCatalogue([]*bundle.Artifact{nested, version(t, "1.1.0", "registry.example/krt/web"+digest)})
	if err != nil {
		t.Fatal(err)
	}
	if len(made.Files) != 2 || len(made.Images) != 2 || made.Catalogue.Metadata.Version != "1.1.0" {
		t.Errorf("%d files, images %v, runtimes %+v", len(made.Files), made.Images, made.Catalogue)
	}
	_, err = pkgrepo.BuildCatalogue([]*bundle.Artifact{nested, version(t, "1.1.0", "krtpkg.invalid/bundles/web"+other)})
	const want = "web.edge.krtpkg.dev/1.2.3 is sha256:f91f2ba0eb19 in edge 1.0.0, but sha256:111111111111 in 1.1.0: a version cannot have different content"
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
}
