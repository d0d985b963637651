package cli_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/internal/clustertest"
	"krtpkg.dev/krtpkg/internal/imagetest"
	"krtpkg.dev/krtpkg/internal/registrytest"
	results "krtpkg.dev/krtpkg/pkg/result"
)

// shopVersion writes the definition of a version of the bundle shop, with an image of its own.
func (s *site) shopVersion(version, image string, more ...string) {
	s.t.Helper()
	if err := imagetest.FillLayout(s.path("img"), image); err != nil {
		s.t.Fatal(err)
	}
	s.write("shop/bundle.yaml", "apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: shop, version: "+version+"}\nspec:\n  layer: 6\n  sources: [{file: all.yaml}]\n"+strings.Join(more, ""),
		"shop/all.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: default}\nspec:\n  selector: {matchLabels: {app: web}}\n"+
			"  template:\n    metadata: {labels: {app: web}}\n    spec: {containers: [{name: main, image: "+image+"}]}\n")
}

// What operators of a site do every week, on one cluster.
func TestUpkeepOfSite(t *testing.T) {
	t.Parallel()
	cluster := clustertest.Start(t)
	edge := registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Distribution3})
	s := newSite(t)
	s.env = append(s.env, "KUBECONFIG="+cluster.Kubeconfig)
	repository := edge.Host + "/site/shop"
	for _, version := range []string{"0.9.0", "1.0.0", "2.0.0", "3.0.0"} {
		s.shopVersion(version, "ghcr.io/example/web:"+version)
		s.ok("build", "-f", "shop")
		s.ok("push", "oci:dist:"+version, repository)
		s.ok("sign", "--key", "cosign.key", repository+":"+version)
		if version == "1.0.0" || version == "2.0.0" {
			s.ok("apply", repository+":"+version, "--key", "cosign.pub", "--yes", "--wait-timeout", "1m")
		}
	}
	t.Run("prune", func(t *testing.T) { pruneSite(t, s, edge, repository) })
}

// pruneSite deletes what neither the cluster nor anybody else needs: what stays works with every tool.
func pruneSite(t *testing.T, s *site, edge *registrytest.Registry, repository string) {
	before, err := edge.DiskBytes()
	if err != nil {
		t.Fatal(err)
	}
	s.refused(2, "--keep PATTERN", "prune", repository, "--yes")
	s.refused(2, "--yes", "prune", repository, "--keep-versions", "1")
	s.refused(1, "stabel", "prune", repository, "--keep", "stabel", "--yes")
	var plan results.Prune
	dry := s.ok("prune", repository, "--keep-versions", "1", "--cluster", "--dry-run", "-o", "json")
	if err := json.Unmarshal([]byte(dry), &plan); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, v := range plan.Versions {
		reason := strings.Join(v.Reasons, ", ")
		if i := strings.Index(reason, " on http"); i >= 0 {
			reason = reason[:i]
		}
		lines = append(lines, v.Version+": "+reason)
	}
	if got, want := strings.Join(lines, "; "), "3.0.0: newest version; 2.0.0: revision 2 of shop; 1.0.0: revision 1 of shop; 0.9.0: "; got != want {
		t.Errorf("plan %s, want %s", got, want)
	}
	text := s.ok("prune", repository, "--keep-versions", "1", "--cluster", "--yes")
	if !strings.Contains(text, "delete") || !strings.Contains(text, "0.9.0") {
		t.Errorf("it printed:\n%s", text)
	}
	if left, _ := filepath.Glob(s.path("cache/krtpkg/prunes/*")); len(left) > 0 {
		t.Errorf("records are left: %q", left)
	}
	if err := edge.CollectGarbage(t.Context()); err != nil {
		t.Fatal(err)
	}
	after, err := edge.DiskBytes()
	if err != nil {
		t.Fatal(err)
	}
	if before-after < plan.Bytes || plan.Bytes == 0 {
		t.Errorf("%d bytes before, %d after, the plan has %d", before, after, plan.Bytes)
	}
	s.refused(1, "", "verify", "--key", "cosign.pub", repository+":0.9.0")
	for _, version := range []string{"1.0.0", "2.0.0", "3.0.0"} {
		s.ok("check", repository+":"+version)
		s.ok("verify", "--key", "cosign.pub", repository+":"+version)
	}
	registrytest.RunTool(t, nil, registrytest.BuildTool(t, "imgpkg"), "copy", "-b", repository+":3.0.0", "--to-tar", s.path("shop.tar"), "--registry-insecure")
	registrytest.RunTool(t, append(edge.Env(t), "COSIGN_PASSWORD=secret"), registrytest.BuildTool(t, "cosign2"), "verify", "--key", s.path("cosign.pub"), "--insecure-ignore-tlog", "--new-bundle-format=false", "--allow-http-registry", repository+":1.0.0")
	s.ok("rollback", "shop", "--key", "cosign.pub", "--to", "1.0.0", "--yes", "--wait-timeout", "1m")
	if out := s.ok("prune", repository, "--keep-versions", "1", "--cluster", "--yes", "-o", "json"); !strings.Contains(out, `"tags": []`) {
		t.Errorf("there is more to delete:\n%s", out)
	}
	// A folder frees its disk space at once.
	s.ok("prune", "oci:dist", "--keep", "3.0.0", "--yes")
	s.ok("check", "oci:dist:3.0.0")
	if entries, err := os.ReadDir(s.path("dist/blobs/sha256")); err != nil || len(entries) > 12 {
		t.Errorf("%d files are left, %v", len(entries), err)
	}
}
