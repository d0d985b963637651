package cli_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/bundles"
	"krtpkg.dev/krtpkg/internal/bundletest"
	"krtpkg.dev/krtpkg/internal/clustertest"
	"krtpkg.dev/krtpkg/internal/registrytest"
)

// The ready enterprise runtime goes the whole way: built, pushed, signed, mirrored, verified,
// applied, upgraded and deleted, on a real control plane whose pods KWOK plays.
func TestEnterpriseRuntime(t *testing.T) {
	t.Parallel()
	r := newReady(t)
	before := r.everything()
	first := r.publish("enterprise", "1.0.0", filepath.Join(r.workspace, "runtimes/enterprise"))
	r.refused(1, "privateKey", "plan", "--key", "cosign.pub", first)
	r.write("site.yaml", "github-deploy-key: {privateKey: a-key}\nopenstack-trove-database: {username: shop, password: a-password}\n"+
		"velero: {accessKey: a-name, secretKey: a-key}\n")
	r.ok("verify", "--key", "cosign.pub", first)
	r.planned(first, "--values", "site.yaml")
	r.ok("apply", "--yes", "--key", "cosign.pub", first, "--values", "site.yaml", "--wait-timeout", "2m")
	r.healthy("enterprise", 35)

	t.Run("the same again writes nothing", func(t *testing.T) {
		var view struct {
			Applied []struct {
				Bundle                 string
				Create, Update, Delete int
			}
		}
		out := r.ok("apply", "--yes", "--key", "cosign.pub", first, "-o", "json")
		if err := json.Unmarshal([]byte(out), &view); err != nil || len(view.Applied) != 35 {
			t.Fatalf("%v:\n%s", err, out)
		}
		for _, b := range view.Applied {
			if b.Create+b.Update+b.Delete != 0 {
				t.Errorf("changed: %+v", b)
			}
		}
	})
	t.Run("an upgrade adds and removes", func(t *testing.T) {
		definition := filepath.Join(r.workspace, "runtimes/enterprise/runtime.yaml")
		text, err := os.ReadFile(definition)
		if err != nil {
			t.Fatal(err)
		}
		next := strings.NewReplacer("version: 1.0.0", "version: 1.1.0",
			"conformance-and-benchmarks/kube-bench", "logging/fluentd", "demo/guestbook", "demo/hello/1.1.0").Replace(string(text))
		if err := os.WriteFile(definition, []byte(next), 0o600); err != nil {
			t.Fatal(err)
		}
		second := r.publish("enterprise", "1.1.0", filepath.Dir(definition))
		out := r.ok("apply", "--yes", "--key", "cosign.pub", second, "--wait-timeout", "2m")
		for _, gone := range []string{"guestbook", "kube-bench"} {
			if !strings.Contains(out, gone) {
				t.Errorf("lacks %s:\n%s", gone, out)
			}
		}
		r.healthy("enterprise", 35)
	})
	r.ok("delete", "enterprise", "--yes", "--delete-foreign")
	if diff := leftovers(before, r.everything()); len(diff) > 0 {
		t.Errorf("left behind or lost:\n%s", strings.Join(diff, "\n"))
	}
}

// Every other pinned bundle is applied, too, and leaves nothing when it is deleted.
func TestReadyBundlesOnCluster(t *testing.T) {
	t.Parallel()
	r := newReady(t)
	all, err := bundles.All()
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	text.WriteString("apiVersion: krtpkg.dev/v1alpha1\nkind: Runtime\nmetadata: {name: rest, version: 1.0.0}\nspec:\n" +
		"  bundles:\n" +
		"    - path: ../../1-orchestration/scheduling-and-orchestration/priority-classes\n" +
		"    - path: ../../3-cluster-services/networking/network-baseline\n")
	count := 2
	for _, b := range all {
		if bundletest.AppliedIn(t, b) == bundletest.Rest {
			fmt.Fprintf(&text, "    - path: ../../%s\n", b.Path)
			count++
		}
	}
	definition := filepath.Join(r.workspace, "runtimes/rest/runtime.yaml")
	if err := os.Mkdir(filepath.Dir(definition), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(definition, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	before := r.everything()
	reference := r.publish("rest", "1.0.0", filepath.Dir(definition))
	r.write("site.yaml", "s3-bucket: {accessKey: a-name, secretKey: a-key}\n")
	r.planned(reference, "--values", "site.yaml")
	r.ok("apply", "--yes", "--key", "cosign.pub", reference, "--values", "site.yaml", "--wait-timeout", "2m")
	r.healthy("rest", count)
	r.ok("delete", "rest", "--yes", "--delete-foreign")
	if diff := leftovers(before, r.everything()); len(diff) > 0 {
		t.Errorf("left behind or lost:\n%s", strings.Join(diff, "\n"))
	}
}

// byDigest are the bundles whose manifests name images by digest.
var byDigest = []string{"3-cluster-services/package-management/secretgen-controller", "5-platform-services/serverless/knative"}

// ready is a site that has the ready definitions, their sources, a vendor's registry with
// stand-ins for their images, a registry of its own, and a cluster.
type ready struct {
	cluster *clustertest.Cluster
	*site
	*watcher
	workspace    string
	vendor, edge *registrytest.Registry
}

func newReady(t *testing.T) *ready {
	t.Helper()
	cluster := clustertest.Start(t)
	r := &ready{
		cluster: cluster, site: newSite(t), watcher: newWatcher(t, cluster), workspace: bundletest.Workspace(t),
		vendor: registrytest.Start(t, registrytest.Options{Kind: registrytest.Distribution3}),
		edge:   registrytest.Start(t, registrytest.Options{Kind: registrytest.Olareg}),
	}
	r.env = append(r.env, "KUBECONFIG="+cluster.Kubeconfig, bundletest.Variable(t), "KRTPKG_IMAGE_MIRROR=*="+r.vendor.Host+"/mirror")
	// Of the rest, no image is named by a digest that a stand-in could not have.
	if loose := bundletest.Loosen(t, r.workspace); !slices.Equal(loose, byDigest) {
		t.Errorf("bundles that name images by digest: %q, want %q", loose, byDigest)
	}
	r.playLoadBalancer()
	r.playStorage()
	r.playOperators()
	return r
}

// publish builds, pushes and signs a runtime, and mirrors it to the site.
func (r *ready) publish(name, version, definition string) string {
	t := r.site.t
	t.Helper()
	r.standIn(r.vendor.Host+"/mirror", definition)
	published, mirrored := r.vendor.Host+"/krt/"+name+":"+version, r.edge.Host+"/site/"+name+":"+version
	r.ok("build", "-f", definition)
	r.ok("push", "oci:dist:"+version, published)
	r.ok("sign", "--key", "cosign.key", published)
	r.ok("copy", published, mirrored)
	return mirrored
}

// planned checks that a plan finds nothing wrong.
func (r *ready) planned(reference string, values ...string) {
	t := r.site.t
	t.Helper()
	var plan struct {
		Findings []struct{ Severity, Check, Bundle, Message string }
	}
	out := r.ok(append([]string{"plan", "--key", "cosign.pub", reference, "-o", "json"}, values...)...)
	if err := json.Unmarshal([]byte(out), &plan); err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	for _, f := range plan.Findings {
		if f.Severity != "warning" {
			t.Errorf("finding %+v", f)
		}
	}
}

// healthy checks that all bundles of a runtime are healthy and as they were applied.
func (r *ready) healthy(name string, count int) {
	t := r.site.t
	t.Helper()
	result := r.run("status", name, "--exit-code", "--no-registry")
	if n := strings.Count(result.stdout, "  healthy "); result.code != 0 || n != count {
		t.Errorf("exit code %d, %d of %d bundles are healthy:\n%s%s", result.code, n, count, result.stdout, result.stderr)
	}
}
