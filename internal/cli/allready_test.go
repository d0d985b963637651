package cli_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"krtpkg.dev/krtpkg/bundles"
	"krtpkg.dev/krtpkg/internal/bundletest"
	"krtpkg.dev/krtpkg/internal/clustertest"
	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/pkg/layers"
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
				Name                   string
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
	t.Run("a diff tells of changes of every kind", func(t *testing.T) { r.diffPlanted() })
	r.ok("delete", "enterprise", "--yes", "--delete-foreign")
	if diff := r.leftovers(before); len(diff) > 0 {
		t.Errorf("left behind or lost:\n%s", strings.Join(diff, "\n"))
	}
}

// The ready runtimes that have no test of their own are applied, and leave nothing when they are deleted.
func TestReadyRuntimesOnCluster(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"observability", "delivery"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all, err := bundles.All()
			if err != nil {
				t.Fatal(err)
			}
			uses, err := bundles.Runtime(name, all)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, use := range uses {
				names = append(names, use.Name)
			}
			r := newReady(t)
			before := r.everything()
			r.applyReady(name, "1.0.0", names)
			r.deleted(before, name)
			for _, b := range all {
				if where, _ := bundletest.AppliedIn(t, b); where == bundletest.Alone && name == "delivery" {
					r.applyRest(b.Name, "1.0.0", []bundles.Ready{b})
					r.deleted(before, b.Name)
				}
			}
		})
	}
}

// Every ready bundle that is in no applied ready runtime is applied, those of which an older version is at hand as
// an upgrade of that, and leaves nothing when it is deleted. What requires something of a layer above comes in a
// runtime of its own, after that.
func TestReadyBundlesOnCluster(t *testing.T) {
	t.Parallel()
	r := newReady(t)
	r.labelNodes("node-role.kubernetes.io/control-plane", "") // where controllers of networks run
	rest, later := restBundles(t)
	before := r.everything()
	older := bundletest.AddOlder(t, r.workspace, rest)
	r.applyRest("rest", "0.9.0", older)
	upgraded := r.applyRest("rest", "1.0.0", rest)
	for _, b := range older {
		if changed := upgraded[b.Name]; changed.Update == 0 && changed.Delete == 0 {
			t.Errorf("the upgrade of %s from %s did %+v", b.Name, b.Version, changed)
		}
	}
	if len(older) < 5 {
		t.Errorf("only %d bundles were upgraded", len(older))
	}
	r.checkGate()
	r.applyRest("later", "1.0.0", later)
	// Its chart says helm.sh/resource-policy: keep.
	r.deleted(before, "later", "rest", "+ CSIDriver /efs.csi.aws.com")
}

// deleted deletes runtimes, and checks that this leaves nothing but what is said to be left, with a + before it.
func (r *ready) deleted(before map[string]string, names ...string) {
	r.site.t.Helper()
	var left []string
	for _, name := range names {
		if strings.HasPrefix(name, "+ ") {
			left = append(left, name)
			continue
		}
		r.ok("delete", name, "--yes", "--delete-foreign")
	}
	if diff := r.leftovers(before, left...); !slices.Equal(diff, left) {
		r.site.t.Errorf("%s: left behind or lost:\n%s\nwant\n%s", names, strings.Join(diff, "\n"), strings.Join(left, "\n"))
	}
}

// restBundles returns the bundles that no applied ready runtime has, with those that they require; later
// are the ones that require what only a layer above provides.
func restBundles(t *testing.T) (rest, later []bundles.Ready) {
	t.Helper()
	all, err := bundles.All()
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range all {
		if where, _ := bundletest.AppliedIn(t, b); where == bundletest.Rest {
			rest = append(rest, b)
		}
	}
	for i := 0; i < len(rest); i++ { // it grows
		for _, required := range rest[i].Requires {
			provides := func(b bundles.Ready) bool { return provides(b, required) }
			if slices.ContainsFunc(rest, provides) {
				continue
			}
			k := slices.IndexFunc(all, provides)
			if k < 0 {
				t.Fatalf("%s requires %s, which no ready bundle provides", rest[i].Name, required)
			}
			rest = append(rest, all[k])
		}
	}
	early := func(b bundles.Ready) bool {
		return slices.ContainsFunc(b.Requires, func(required string) bool {
			return !slices.ContainsFunc(rest, func(p bundles.Ready) bool { return p.Layer <= b.Layer && provides(p, required) })
		})
	}
	for _, b := range rest {
		if early(b) {
			later = append(later, b)
		}
	}
	return slices.DeleteFunc(slices.Clone(rest), early), later
}

func provides(b bundles.Ready, what string) bool {
	return b.Name == what || slices.Contains(b.Provides, what)
}

// applyRest applies a version of a runtime of bundles, and returns what that did. Several of them may provide what
// a runtime has once, and some may require what is on the cluster already.
func (r *ready) applyRest(name, version string, list []bundles.Ready) map[string]changed {
	t := r.site.t
	t.Helper()
	model, err := layers.LoadModel()
	if err != nil {
		t.Fatal(err)
	}
	text := "apiVersion: krtpkg.dev/v1alpha1\nkind: Runtime\nmetadata: {name: " + name + ", version: " + version + "}\nspec:\n  bundles:\n"
	var names, provided, exceptions []string
	for i, b := range list {
		names = append(names, b.Name)
		text += "    - path: ../../" + b.Path + "\n"
		for _, p := range b.Provides {
			c, ruled := model.FindCapability(p)
			if ruled && c.Exclusive && !slices.Contains(exceptions, p) && slices.ContainsFunc(list[:i], func(b bundles.Ready) bool { return provides(b, p) }) {
				exceptions = append(exceptions, p)
			}
		}
		for _, required := range b.Requires {
			if !slices.Contains(provided, required) && !slices.ContainsFunc(list, func(p bundles.Ready) bool { return provides(p, required) }) {
				provided = append(provided, required)
			}
		}
	}
	if !slices.ContainsFunc(list, func(b bundles.Ready) bool { return provides(b, "cni") }) {
		provided = append(provided, "cni")
	}
	for i, e := range exceptions {
		exceptions[i] = "{capability: " + e + ", reason: none of them does anything here}"
	}
	text += "  provided: [" + strings.Join(provided, ", ") + "]\n  exceptions: [" + strings.Join(exceptions, ", ") + "]\n"
	definition := filepath.Join(r.workspace, "runtimes", name, "runtime.yaml")
	if err := errors.Join(os.MkdirAll(filepath.Dir(definition), 0o700), os.WriteFile(definition, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
	return r.applyReady(name, version, names)
}

// changed counts what an apply did to a bundle.
type changed struct {
	Name                   string
	Create, Update, Delete int
}

// applyReady brings a version of a runtime of the workspace onto the cluster, with what its bundles ask of a site,
// and returns what that did by the names of bundles.
func (r *ready) applyReady(name, version string, names []string) map[string]changed {
	r.site.t.Helper()
	reference := r.publish(name, version, filepath.Join(r.workspace, "runtimes", name))
	values := []string{"--values", name + ".values.yaml"}
	r.write(values[1], bundletest.SiteValues(names...))
	// It refuses what a plan finds wrong.
	out := r.ok(append([]string{"apply", "--yes", "--key", "cosign.pub", reference, "--wait-timeout", "2m", "-o", "json"}, values...)...)
	r.healthy(name, len(names))
	var view struct{ Applied []changed }
	if err := json.Unmarshal([]byte(out), &view); err != nil {
		r.site.t.Fatalf("%v:\n%s", err, out)
	}
	did := map[string]changed{}
	for _, b := range view.Applied {
		did[b.Name] = b
	}
	return did
}

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
		cluster: cluster, site: newSite(t), watcher: newWatcher(t, cluster), workspace: t.TempDir(),
		vendor: registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Distribution3}),
		edge:   registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Olareg}),
	}
	r.env = append(r.env, "KUBECONFIG="+cluster.Kubeconfig, bundletest.MirrorsVariable(t), "KRTPKG_IMAGE_MIRROR=*="+r.vendor.Host+"/mirror")
	if err := os.CopyFS(r.workspace, readyDefinitions(t)); err != nil {
		t.Fatal(err)
	}
	r.playLoadBalancer()
	r.playStorage()
	r.playOperators()
	return r
}

var loosened struct {
	sync.Mutex
	files fs.FS
}

// readyDefinitions returns the ready definitions that stand-ins do for; all tests share them.
func readyDefinitions(t *testing.T) fs.FS {
	t.Helper()
	loosened.Lock()
	defer loosened.Unlock()
	if loosened.files == nil {
		dir := bundletest.CopyDefinitions(t)
		bundletest.LoosenDigests(t, dir)
		loosened.files = readFolder(t, dir)
	}
	return loosened.files
}

// publish builds, pushes and signs a runtime, and mirrors it to the site.
func (r *ready) publish(name, version, definition string) string {
	t := r.site.t
	t.Helper()
	r.standIn(r.vendor.Host+"/mirror", definition)
	published, mirrored := r.vendor.Host+"/krt/"+name+":"+version, r.edge.Host+"/site/"+name+":"+version
	built := "oci:dist:" + name + "-" + version
	r.ok("build", "-f", definition, "--to", built)
	r.ok("push", built, published)
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
