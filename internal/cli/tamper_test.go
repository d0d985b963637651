package cli_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"krtpkg.dev/krtpkg/internal/registrytest"
)

// tampering is a way to change what was signed, or how.
type tampering struct {
	name string
	// do changes the folder of a signed runtime.
	do func(f *forger)
	// message is in the refusal. {root}, {bundle} and what else the forger names are digests.
	message string
	// with is how it was signed, and trusts are the flags to verify with; by default both
	// forms, and the policy of the site.
	with, trusts []string
}

var byKey = []string{"--key", "cosign.pub"}

// onlyBundle and onlyLegacy sign in one form, so that no other vouches for the root.
var (
	onlyBundle = []string{"--signature-format", "bundle"}
	onlyLegacy = []string{"--signature-format", "legacy"}
	byPKI      = []string{"--key", "pki.key", "--certificate", "pki.crt", "--signature-format", "bundle"}
	trustsPKI  = []string{"--certificate-identity", "release@krt.example", "--ca-roots", "ca.pem"}
)

// What was not signed as it is never reaches the cluster: exit code 3, a message that names
// the object, and not one request to the API server.
func TestApplyRefusesWhatWasTamperedWith(t *testing.T) {
	t.Parallel()
	for _, c := range tamperings {
		t.Run(strings.ReplaceAll(c.name, ",", ""), func(t *testing.T) { // folders have the test's name
			t.Parallel()
			f := newForger(t, c.with)
			requests := f.watchedCluster()
			trusts := c.trusts
			if trusts == nil {
				trusts = []string{"--policy", "trust.yaml"} // by which the very same passed before
			} else {
				f.ok(append([]string{"verify", "oci:dist:1.0.0"}, trusts...)...)
			}
			c.do(f)
			message := f.named(c.message)
			f.refused(3, message, append([]string{"apply", "oci:dist:1.0.0", "--yes"}, trusts...)...)
			f.refused(3, message, append([]string{"verify", "oci:dist:1.0.0"}, trusts...)...)
			if n := requests.Load(); n != 0 {
				t.Errorf("the API server got %d requests", n)
			}
		})
	}
}

// An index may call anything by the digest of a signed bundle: what has that digest is meant.
func TestDigestIsNoName(t *testing.T) {
	t.Parallel()
	f := newForger(t, nil)
	signed := f.ok("render", "oci:dist:1.0.0", "--policy", "trust.yaml")
	f.write("web/web.yaml", strings.ReplaceAll(web[len(web)-1], "replicas: 2", "replicas: 3"))
	f.ok("build", "-f", ".", "--to", "oci:dist:twin")
	twin, _ := artifact(t, f.site, "oci:dist:twin", "web")
	info, err := os.Stat(blob(f.site, twin))
	if err != nil {
		t.Fatal(err)
	}
	f.entries(func(all []entry) []entry {
		return append([]entry{{
			"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": twin, "size": info.Size(),
			"annotations": map[string]any{refName: f.digests["bundle"]},
		}}, all...)
	})
	if got := f.ok("render", "oci:dist:1.0.0", "--policy", "trust.yaml"); got != signed {
		t.Errorf("what was not signed is rendered:\n%s", got)
	}
}

// A registry whose storage was tampered with is caught as well.
func TestApplyRefusesTamperedRegistry(t *testing.T) {
	t.Parallel()
	s := newSite(t, "ghcr.io/example/web:1.0")
	s.write(web...)
	requests := s.watchedCluster()
	storage := t.TempDir()
	registry := registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Distribution3, Dir: storage})
	reference := registry.Host + "/krt/edge:1.0.0"
	s.ok("build", "-f", ".")
	s.ok("push", "oci:dist:1.0.0", reference)
	s.ok("sign", "--key", "cosign.key", reference)
	s.ok("verify", "--key", "cosign.pub", reference)
	_, layer := artifact(t, s, reference, "web")
	flipFile(t, stored(t, storage, layer))
	s.refused(3, layer, "apply", "--yes", "--key", "cosign.pub", reference)
	if n := requests.Load(); n != 0 {
		t.Errorf("the API server got %d requests", n)
	}
}

// Without a key nothing is applied, and --allow-unsigned says so in capitals.
func TestApplyWithoutVerifying(t *testing.T) {
	t.Parallel()
	s := newSite(t, "ghcr.io/example/web:1.0")
	s.write(web...)
	requests := s.watchedCluster()
	s.ok("build", "-f", ".")
	s.refused(2, "--allow-unsigned", "apply", "oci:dist:1.0.0", "--yes")
	if n := requests.Load(); n != 0 {
		t.Errorf("the API server got %d requests", n)
	}
	r := s.run("apply", "oci:dist:1.0.0", "--yes", "--allow-unsigned")
	if !strings.Contains(r.stderr, "WARNING: ") || requests.Load() == 0 {
		t.Errorf("no warning, or the cluster was not asked (%d requests):\n%s", requests.Load(), r.stderr)
	}
}

// watchedCluster makes the kubeconfig lead to a server that counts what reaches it.
func (s *site) watchedCluster() *atomic.Int64 {
	var requests atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		requests.Add(1)
		http.Error(w, "no cluster here", http.StatusForbidden)
	}))
	s.t.Cleanup(server.Close)
	s.write("kubeconfig", fmt.Sprintf(`
apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: %s}}]
users: [{name: u, user: {}}]
`, server.URL))
	s.env = append(s.env, "KUBECONFIG="+s.path("kubeconfig"))
	return &requests
}

// stored returns the file in which distribution keeps a blob.
func stored(t *testing.T, storage, digest string) string {
	t.Helper()
	hex := strings.TrimPrefix(digest, "sha256:")
	found, err := filepath.Glob(filepath.Join(storage, "docker/registry/v2/blobs/sha256", hex[:2], hex, "data"))
	if err != nil || len(found) != 1 {
		t.Fatalf("blob %s in %s: %v %v", digest, storage, found, err)
	}
	return found[0]
}
