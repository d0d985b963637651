package cli_test

import (
	"encoding/json"
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

// What was not signed as it is never reaches the cluster: exit code 3, a message that names
// the object, and not one request to the API server.
func TestApplyRefusesWhatWasTamperedWith(t *testing.T) {
	t.Parallel()
	// parts are the digests of a layout's content by role.
	type parts struct{ root, layer, bundle, bundleLayer string }
	for _, c := range []struct {
		name    string
		tamper  func(t *testing.T, s *site, p parts)
		args    []string
		message func(p parts) string
	}{
		{"wrong key", func(t *testing.T, s *site, p parts) { s.ok("keygen", "--output-key-prefix", "other") },
			[]string{"--key", "other.pub"}, func(p parts) string { return p.root + ": 2 signatures, none valid" }},
		{"unsigned", func(t *testing.T, s *site, p parts) { drop(t, s, p.root) },
			nil, func(p parts) string { return p.root + ": no signature found" }},
		{"signature of another digest", func(t *testing.T, s *site, p parts) { move(t, s, p.root) },
			nil, func(p parts) string { return p.root + ": 1 signature, not valid" }},
		{"root manifest", func(t *testing.T, s *site, p parts) { flip(t, s, p.root) },
			nil, func(p parts) string { return p.root }},
		{"root layer", func(t *testing.T, s *site, p parts) { flip(t, s, p.layer) },
			nil, func(p parts) string { return p.layer }},
		{"nested bundle's manifest", func(t *testing.T, s *site, p parts) { flip(t, s, p.bundle) },
			nil, func(p parts) string { return p.bundle }},
		{"nested bundle's layer", func(t *testing.T, s *site, p parts) { flip(t, s, p.bundleLayer) },
			nil, func(p parts) string { return p.bundleLayer }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, "ghcr.io/example/web:1.0")
			s.write(web...)
			requests := s.watchedCluster()
			s.ok("build", "-f", ".")
			s.ok("sign", "--key", "cosign.key", "oci:dist:1.0.0")
			p := parts{}
			p.root, p.layer = artifact(t, s, "oci:dist:1.0.0", "")
			p.bundle, p.bundleLayer = artifact(t, s, "oci:dist:1.0.0", "web")
			c.tamper(t, s, p)
			args := c.args
			if args == nil {
				args = []string{"--key", "cosign.pub"}
			}
			s.refused(3, c.message(p), append([]string{"apply", "oci:dist:1.0.0", "--yes"}, args...)...)
			s.refused(3, c.message(p), append([]string{"verify", "oci:dist:1.0.0"}, args...)...)
			if n := requests.Load(); n != 0 {
				t.Errorf("the API server got %d requests", n)
			}
		})
	}
}

// A registry whose storage was tampered with is caught as well.
func TestApplyRefusesTamperedRegistry(t *testing.T) {
	t.Parallel()
	s := newSite(t, "ghcr.io/example/web:1.0")
	s.write(web...)
	requests := s.watchedCluster()
	storage := t.TempDir()
	registry := registrytest.Start(t, registrytest.Options{Kind: registrytest.Distribution3, Dir: storage})
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

// artifact gives the digests of the manifest and the layer of a reference, or of a nested
// bundle of it.
func artifact(t *testing.T, s *site, reference, bundle string) (manifest, layer string) {
	t.Helper()
	var view struct {
		Digest  string
		Bundles []struct{ Name, Digest string }
	}
	if err := json.Unmarshal([]byte(s.ok("inspect", "-o", "json", reference)), &view); err != nil {
		t.Fatal(err)
	}
	manifest = view.Digest
	for _, b := range view.Bundles {
		if b.Name == bundle {
			manifest = b.Digest
		}
	}
	data, err := os.ReadFile(blob(s, manifest))
	if err != nil {
		t.Fatal(err)
	}
	var m struct{ Layers []struct{ Digest string } }
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	return manifest, m.Layers[0].Digest
}

func blob(s *site, digest string) string {
	return s.path("dist/blobs/sha256/" + strings.TrimPrefix(digest, "sha256:"))
}

// flip changes one byte in the middle of a blob of the layout, whose size stays.
func flip(t *testing.T, s *site, digest string) {
	t.Helper()
	flipFile(t, blob(s, digest))
}

func flipFile(t *testing.T, name string) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.Chmod(name, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// drop takes everything but the root's own tag out of the layout's index.
func drop(t *testing.T, s *site, root string) {
	t.Helper()
	editIndex(t, s, func(entry map[string]any) bool { return entry["digest"] == root })
}

// move signs another artifact and puts its signature under the root's tag.
func move(t *testing.T, s *site, root string) {
	t.Helper()
	drop(t, s, root)
	s.ok("build", "-f", "base", "--to", "oci:dist:base")
	s.ok("sign", "--key", "cosign.key", "--signature-format", "legacy", "oci:dist:base")
	editIndex(t, s, func(entry map[string]any) bool {
		annotations, _ := entry["annotations"].(map[string]any)
		name, _ := annotations["org.opencontainers.image.ref.name"].(string)
		if strings.HasSuffix(name, ".sig") {
			annotations["org.opencontainers.image.ref.name"] = strings.ReplaceAll(root, ":", "-") + ".sig"
		}
		return true
	})
}

func editIndex(t *testing.T, s *site, keep func(entry map[string]any) bool) {
	t.Helper()
	name := s.path("dist/index.json")
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var index map[string]any
	if err := json.Unmarshal(data, &index); err != nil {
		t.Fatal(err)
	}
	var kept []any
	for _, entry := range index["manifests"].([]any) {
		if keep(entry.(map[string]any)) {
			kept = append(kept, entry)
		}
	}
	index["manifests"] = kept
	if data, err = json.Marshal(index); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// stored is the file in which distribution keeps a blob.
func stored(t *testing.T, storage, digest string) string {
	t.Helper()
	hex := strings.TrimPrefix(digest, "sha256:")
	found, err := filepath.Glob(filepath.Join(storage, "docker/registry/v2/blobs/sha256", hex[:2], hex, "data"))
	if err != nil || len(found) != 1 {
		t.Fatalf("blob %s in %s: %v %v", digest, storage, found, err)
	}
	return found[0]
}
