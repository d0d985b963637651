package gate_test

import (
	"os"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/internal/hack"
	"krtpkg.dev/krtpkg/internal/registrytest"
)

// The suite of the distribution-spec finds nothing wrong with the gate as a registry to pull from. It cannot see the digest
// header of manifests that it has not pushed; TestWholeRuntime does.
func TestConformance(t *testing.T) {
	t.Parallel()
	hack.SkipIfShort(t)
	w := newWorld(t, registrytest.Options{})
	repo := w.repository("krt/edge")
	r := w.pushRuntime(repo, "edge", "1.0.0", "first", "1.0.0", "stable")
	w.sign(repo, r.root)
	s := w.serve(w.quick())
	index := w.readManifest(repo, r.image)
	platform := w.readManifest(repo, index.Manifests[0])
	// It writes its result, and then panics over its report as a file: data that it was given has no name there.
	said, _ := runFailing(t, []string{
		"OCI_REGISTRY=" + strings.TrimPrefix(s.url, "http://"), "OCI_TLS=disabled", "OCI_REPO1=edge", "OCI_REPO2=edge", "OCI_VERSION=1.1",
		"OCI_API_PUSH=false", "OCI_API_BLOBS_DELETE=false", "OCI_API_MANIFESTS_DELETE=false", "OCI_API_TAGS_DELETE=false",
		"OCI_API_BLOBS_DIGEST_HEADER=true", "OCI_RESULTS_DIR=" + t.TempDir(), "OCI_CONFIGURATION=" + os.DevNull,
		"OCI_RO_DATA_TAGS=1.0.0 stable",
		"OCI_RO_DATA_MANIFESTS=" + strings.Join([]string{r.root.Digest.String(), r.inner.Digest.String(), r.image.Digest.String(), index.Manifests[0].Digest.String()}, " "),
		"OCI_RO_DATA_BLOBS=" + strings.Join([]string{r.set.Root.Manifest.Config.Digest.String(), r.set.Root.Manifest.Layers[0].Digest.String(), platform.Layers[0].Digest.String()}, " "),
		"OCI_RO_DATA_REFERRERS=" + r.root.Digest.String(),
	}, registrytest.BuildTool(t, "conformance"))
	if !strings.Contains(said, "OCI Conformance Test: Pass") {
		t.Errorf("it has not passed:\n%s", said)
	}
	for _, part := range []string{"ping", "empty", "read-only/tag-list", "read-only/head", "read-only/pull", "read-only/referrers", "missing-manifest", "invalid-digest-format"} {
		if !strings.Contains(said, "OCI Conformance Test/"+part+": Pass") {
			t.Errorf("%s has not passed:\n%s", part, said)
		}
	}
}
