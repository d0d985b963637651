package cli_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/internal/clustertest"
	"krtpkg.dev/krtpkg/internal/registrytest"
)

// stack is a runtime of many small bundles in three layers, with a kind of its own.
func (s *site) stack(version string) {
	s.t.Helper()
	runtime := "apiVersion: krtpkg.dev/v1alpha1\nkind: Runtime\nmetadata: {name: stack, version: " + version + "}\nspec:\n  bundles:\n"
	for i := range 6 {
		name := fmt.Sprintf("part-%d", i)
		runtime += "    - path: " + name + "\n"
		var docs strings.Builder
		if i == 0 {
			docs.WriteString("apiVersion: v1\nkind: Namespace\nmetadata: {name: stack}\n---\napiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: bricks.stack.example}\n" +
				"spec: {group: stack.example, scope: Namespaced, names: {plural: bricks, kind: Brick}, versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]}\n")
		} else {
			for k := range 2 {
				fmt.Fprintf(&docs, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c-%d-%d, namespace: stack}\ndata: {version: %q}\n---\n", i, k, version)
			}
			fmt.Fprintf(&docs, "apiVersion: stack.example/v1\nkind: Brick\nmetadata: {name: b-%d, namespace: stack}\n---\n", i)
			fmt.Fprintf(&docs, "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d-%[1]d, namespace: stack}\nspec:\n  replicas: 1\n  selector: {matchLabels: {app: d-%[1]d}}\n"+
				"  template:\n    metadata: {labels: {app: d-%[1]d}}\n    spec: {containers: [{name: main, image: ghcr.io/example/web:1.0}]}\n", i)
		}
		s.write(name+"/bundle.yaml", fmt.Sprintf("apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: %s, version: %s}\nspec: {layer: %d, sources: [{file: all.yaml}]}\n", name, version, 1+(i+2)/3),
			name+"/all.yaml", docs.String())
	}
	s.write("runtime.yaml", runtime)
	s.ok("build", "-f", ".")
	s.ok("sign", "--key", "cosign.key", "oci:dist:"+version)
}

// reachable waits for the API server.
func (w *watcher) reachable() {
	w.t.Helper()
	var err error
	for range 100 {
		if _, err = w.client.CoreV1().Nodes().List(w.t.Context(), metav1.ListOptions{}); err == nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	w.t.Fatal(err)
}

// What comes from Secrets is in Secrets, and nowhere else: not in what is printed, not in what is
// recorded, not in logs.
func TestSecretValues(t *testing.T) {
	t.Parallel()
	cluster := clustertest.Borrow(t)
	s := newSite(t)
	s.env = append(s.env, "KUBECONFIG="+cluster.Kubeconfig)
	s.write("bundle.yaml", "apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: db, version: 1.0.0}\nspec: {layer: 5, sources: [{dir: config, template: ytt}]}\n",
		"config/schema.yaml", "#@data/values-schema\n---\npassword: ''\nlabel: fine\nhost: localhost\nport: 5432\n",
		"config/db.yaml", "#@ load(\"@ytt:data\", \"data\")\n---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: db\n  labels: {kind: #@ data.values.label\n    }\nstringData:\n  url: #@ \"postgres://app:{}@{}\".format(data.values.password, data.values.host)\n"+
			"---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: db}\ndata: {host: #@ data.values.host\n  }\n")
	s.ok("build", "-f", ".")
	s.ok("sign", "--key", "cosign.key", "oci:dist:1.0.0")
	const secret = "correct-horse-battery"
	w := newWatcher(t, cluster)
	w.secret("db-values", "values.yaml", "db: {password: "+secret+"}\n")
	w.secret("db-wrong", "values.yaml", "db: {port: "+secret+"}\n")

	w.secret("db-refused", "values.yaml", "db: {label: "+secret+" is no label}\n")

	var said strings.Builder
	run := func(code int, args ...string) string {
		t.Helper()
		r := s.run(args...)
		said.WriteString(r.stdout + r.stderr)
		if r.code != code {
			t.Errorf("krtpkg %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), r.code, code, r.stdout, r.stderr)
		}
		return r.stdout + r.stderr
	}
	apply := func(more ...string) []string {
		return append([]string{"apply", "--key", "cosign.pub", "oci:dist:1.0.0", "--yes"}, more...)
	}
	run(0, "plan", "--key", "cosign.pub", "oci:dist:1.0.0", "--values-from", "secret/db-values", "--full")
	run(0, "plan", "--key", "cosign.pub", "oci:dist:1.0.0", "--values-from", "secret/db-values", "-o", "json")
	run(0, apply("--values-from", "secret/db-values", "--data-value", "db.host=one")...)
	run(1, apply("--values-from", "secret/db-wrong")...)
	// The API server quotes what it refuses.
	if got := run(1, apply("--values-from", "secret/db-refused")...); !strings.Contains(got, "a valid label must be") {
		t.Errorf("refused for another reason:\n%s", got)
	}
	// So it does of a file.
	s.write("refused.yaml", "db: {label: "+secret+" is no label}\n", "wrong.yaml", "db: {port: "+secret+"}\n")
	run(1, apply("--values", "wrong.yaml")...)
	if got := run(1, apply("--values", "refused.yaml")...); !strings.Contains(got, "a valid label must be") {
		t.Errorf("refused for another reason:\n%s", got)
	}
	looked := s.run("plan", "--key", "cosign.pub", "oci:dist:1.0.0", "--values", "refused.yaml")
	// On standard output is the difference, with the value.
	if said.WriteString(looked.stderr); !strings.Contains(looked.stderr, "error (dry-run)") || looked.code != 1 {
		t.Errorf("plan, exit code %d:\n%s%s", looked.code, looked.stdout, looked.stderr)
	}
	run(0, apply("--values-from", "secret/db-values")...)
	run(0, apply("--data-value", "db.host=two", "--progress", "json")...)
	if got := run(0, "values", "db"); !strings.Contains(got, "password: (from a Secret)") || !strings.Contains(got, "host: two") {
		t.Errorf("values:\n%s", got)
	}
	for _, args := range [][]string{{"status", "db", "--full", "-o", "yaml"}, {"history", "db", "-o", "json"}} {
		run(0, args...)
	}
	if strings.Contains(said.String(), secret) {
		t.Errorf("the secret was printed:\n%s", &said)
	}
	if got := s.ok("values", "db", "--show-secrets"); !strings.Contains(got, "password: "+secret) {
		t.Errorf("values with --show-secrets:\n%s", got)
	}
	for name, text := range w.contents() {
		if strings.Contains(text, secret) && !strings.HasPrefix(name, "Secret ") {
			t.Errorf("%s holds the secret", name)
		}
	}
	layout := s.path("dist")
	if err := filepath.Walk(layout, func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			var data []byte
			if data, err = os.ReadFile(path); err == nil && strings.Contains(string(data), secret) {
				t.Errorf("%s holds the secret", path)
			}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	run(0, apply("--reset-values")...)
	if got := run(0, "values", "db"); !strings.Contains(got, "applied without values") {
		t.Errorf("values after a reset:\n%s", got)
	}
}

func (w *watcher) secret(name, key, value string) {
	w.t.Helper()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: map[string]string{key: value}}
	if _, err := w.client.CoreV1().Secrets("default").Create(w.t.Context(), secret, metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

// contents returns every object of the default namespace as JSON.
func (w *watcher) contents() map[string]string {
	w.t.Helper()
	lists, err := w.discovery.ServerPreferredNamespacedResources()
	if err != nil {
		w.t.Fatal(err)
	}
	found := map[string]string{}
	for _, list := range lists {
		for _, r := range list.APIResources {
			if !slices.Contains(r.Verbs, "list") {
				continue
			}
			gv, _, _ := strings.Cut(list.GroupVersion, "/")
			group, version := gv, strings.TrimPrefix(list.GroupVersion, gv+"/")
			if !strings.Contains(list.GroupVersion, "/") {
				group, version = "", gv
			}
			objects, err := w.dynamic.Resource(gvr(group, version, r.Name)).Namespace("default").List(w.t.Context(), metav1.ListOptions{})
			if err != nil {
				w.t.Fatalf("list %s: %v", r.Name, err)
			}
			for _, o := range objects.Items {
				data, err := json.Marshal(o.Object)
				if err != nil {
					w.t.Fatal(err)
				}
				found[r.Kind+" "+o.GetName()] = string(data)
			}
		}
	}
	return found
}

// From an archive to a site's registry and several clusters in one step.
func TestApplyToSeveralClusters(t *testing.T) {
	t.Parallel()
	north, south := clustertest.Borrow(t), clustertest.Borrow(t)
	registry := registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Distribution3})
	s := newSite(t, "ghcr.io/example/web:1.0")
	s.stack("0.9.0")
	s.ok("export", "oci:dist:0.9.0", "older.tar")
	s.stack("1.0.0")
	s.ok("export", "oci:dist:1.0.0", "stack.tar")
	s.contexts(map[string]*clustertest.Cluster{"north": north, "south": south})
	s.env = append(s.env, "KUBECONFIG="+s.path("kubeconfig"), "KRTPKG_IMAGE_MIRROR=")

	apply := []string{"apply", "stack.tar", "--registry", registry.Host + "/site", "--key", "cosign.pub", "--yes", "--wait-timeout", "1m", "-o", "json"}
	var views struct {
		Clusters []struct{ Context, State, Reason string }
	}
	r := s.run(append(apply, "--contexts", "nowhere,north,south", "--max-unavailable", "0")...)
	if err := json.Unmarshal([]byte(r.stdout), &views); err != nil || r.code != 1 {
		t.Fatalf("exit code %d, %v\n%s%s", r.code, err, r.stdout, r.stderr)
	}
	if clusters := views.Clusters; clusters[0].State != "failed" || clusters[1].State != "not begun" || clusters[2].State != "not begun" {
		t.Errorf("%+v", views)
	}
	views.Clusters = nil
	out := s.ok(append(apply, "--contexts", "north,south", "--max-parallel", "2", "--receipt", "receipts", "--receipt-key", "cosign.key")...)
	if err := json.Unmarshal([]byte(out), &views); err != nil || len(views.Clusters) != 2 || views.Clusters[0].State != "applied" || views.Clusters[1].State != "applied" {
		t.Errorf("%v\n%s", err, out)
	}
	for _, cluster := range []*clustertest.Cluster{north, south} {
		web, err := newWatcher(t, cluster).client.AppsV1().Deployments("stack").Get(t.Context(), "d-1", metav1.GetOptions{})
		if err != nil || !strings.HasPrefix(web.Spec.Template.Spec.Containers[0].Image, registry.Host+"/site/stack@sha256:") {
			t.Errorf("%v, image %s", err, web.Spec.Template.Spec.Containers[0].Image)
		}
	}
	status := s.ok("status", "stack", "--context", "south", "-o", "json")
	if !strings.Contains(status, `"reference": "`+registry.Host+`/site/stack@sha256:`) || !strings.Contains(status, `"health": "healthy"`) {
		t.Errorf("status:\n%s", status)
	}
	// What a cluster refuses is refused before it is imported, if no cluster may fail.
	older := []string{"apply", "older.tar", "--registry", registry.Host + "/older", "--key", "cosign.pub", "--yes", "--contexts", "nowhere,south,north"}
	s.refused(3, "cluster south: the cluster has a newer version or another build: stack 0.9.0 (", older...)
	if isTagged(t, "http://"+registry.Host+"/v2/older/stack/manifests/0.9.0") {
		t.Error("a refused version was imported")
	}
	s.refused(2, "--context cannot be used with --contexts", append(apply, "--contexts", "north", "--context", "south")...)
	s.receipts(north, south, apply)

	// What runs came by a channel that nobody renewed: status says so if a policy is configured.
	s.ok("promote", "--trust-key", "cosign.pub", "--key", "cosign.key", "--to", "stable", "--expires", "1s", registry.Host+"/site/stack:1.0.0")
	s.ok("trust", "init", "--key", "cosign.pub", "--output", "policy.yaml")
	time.Sleep(time.Second)
	if r := s.run("status", "stack", "--context", "south"); strings.Contains(r.stderr, "stale") {
		t.Errorf("stale without a policy:\n%s", r.stderr)
	}
	s.env = append(s.env, "KRTPKG_TRUST_POLICY="+s.path("policy.yaml"))
	r = s.run("status", "stack", "--context", "south", "-o", "json")
	if r.code != 0 || !strings.Contains(r.stderr, "WARNING: "+registry.Host+"/site/stack@sha256:") || !strings.Contains(r.stdout, `"stale": "channel stable is stale: its newest promotion`) {
		t.Errorf("exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	s.refused(2, "--registry is for archives", "apply", "oci:dist:1.0.0", "--registry", "x/y", "--key", "cosign.pub", "--yes")
}

// receipts has two clusters tell what runs on them, and verifies that.
func (s *site) receipts(north, south *clustertest.Cluster, apply []string) {
	s.t.Helper()
	id := func(c *clustertest.Cluster) string {
		namespace, err := newWatcher(s.t, c).client.CoreV1().Namespaces().Get(s.t.Context(), "kube-system", metav1.GetOptions{})
		if err != nil {
			s.t.Fatal(err)
		}
		return string(namespace.UID)
	}
	s.write("fleet.yaml", fmt.Sprintf("apiVersion: krtpkg.dev/v1alpha1\nkind: Fleet\nclusters:\n- {name: north, id: %s}\n- {name: south, id: %s, runtimes: [stack]}\n", id(north), id(south)))
	verify := []string{"receipts", "verify", "receipts", "--key", "cosign.pub", "--fleet", "fleet.yaml"}
	var view struct {
		Receipts []struct {
			Cluster, ClusterID, Name, Version, Digest, State, Outcome, Failure string
			Policies                                                           []struct{ Name, Digest string }
			Bundles                                                            struct{ Applied []string }
		}
	}
	last := s.ok(append(verify, "-o", "json")...)
	if err := json.Unmarshal([]byte(last), &view); err != nil || len(view.Receipts) != 2 {
		s.t.Fatalf("%v\n%s", err, last)
	}
	public, err := os.ReadFile(s.path("cosign.pub"))
	if err != nil {
		s.t.Fatal(err)
	}
	for i, name := range []string{"north", "south"} {
		r := view.Receipts[i]
		if r.Cluster != name || r.Name != "stack" || r.Version != "1.0.0" || r.State != "current" || r.Outcome != "applied" || len(r.Bundles.Applied) == 0 ||
			len(r.Policies) != 1 || r.Policies[0].Digest != digest.FromBytes(public).String() {
			s.t.Errorf("%+v", r)
		}
	}
	s.write("last.json", last)
	older, err := os.ReadFile(s.path("receipts/north.json"))
	if err != nil {
		s.t.Fatal(err)
	}
	// An apply that fails says so, too, and is newer.
	one := append(slices.Clone(apply), "--context", "north", "--receipt", "receipts/north.json", "--receipt-key", "cosign.key")
	s.refused(1, "nowhere", append(one, "--data-value", "nowhere.key=value")...)
	table := s.ok(append(verify, "--previous", "last.json")...)
	if !regexp.MustCompile(`(?m)^north +stack +1\.0\.0 .* failed +\d+s +current$`).MatchString(table) || !regexp.MustCompile(`(?m)^south .* applied `).MatchString(table) {
		s.t.Errorf("table:\n%s", table)
	}
	s.write("last.json", s.ok(append(verify, "-o", "json")...))
	s.write("receipts/north.json", string(older))
	s.refused(3, "was already seen", append(verify, "--previous", "last.json")...)
	s.write("receipts/north.json", strings.Replace(string(older), "eyJ", "eyA", 1))
	s.refused(3, "the signature is not valid", verify...)
	s.write("receipts/south.json", string(older))
	s.refused(3, "receipts/south.json: receipt names cluster north, but south is", verify...)
	s.refused(2, "not a receipt", append(slices.Clone(apply), "--context", "north", "--receipt", "cosign.pub", "--receipt-key", "cosign.key")...)
	s.refused(3, "not signed by a trusted key", "receipts", "verify", "receipts/south.json", "--key", s.otherKey())
	if err := os.RemoveAll(s.path("receipts/south.json")); err != nil {
		s.t.Fatal(err)
	}
	s.write("receipts/north.json", string(older))
	s.refused(4, "1 missing, the first of cluster south", verify...)
	s.refused(4, "older than 1s", "receipts", "verify", "receipts", "--key", "cosign.pub", "--max-age", "1s")
}

// contexts writes a kubeconfig of several clusters, and of one that is not there.
func (s *site) contexts(clusters map[string]*clustertest.Cluster) {
	s.t.Helper()
	merged := clientcmdapi.NewConfig()
	for name, cluster := range clusters {
		one, err := clientcmd.LoadFromFile(cluster.Kubeconfig)
		if err != nil {
			s.t.Fatal(err)
		}
		at := one.Contexts[one.CurrentContext]
		merged.Clusters[name], merged.AuthInfos[name] = one.Clusters[at.Cluster], one.AuthInfos[at.AuthInfo]
		merged.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	}
	merged.Clusters["nowhere"] = &clientcmdapi.Cluster{Server: "https://127.0.0.1:1"}
	merged.Contexts["nowhere"] = &clientcmdapi.Context{Cluster: "nowhere"}
	if err := clientcmd.WriteToFile(*merged, s.path("kubeconfig")); err != nil {
		s.t.Fatal(err)
	}
}

func gvr(group, version, resource string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: group, Version: version, Resource: resource}
}

// TestRollbackFromCleanedRegistry: what an earlier revision needs was deleted from the registry, as a
// clean-up by tags or by age does. A rollback says what is missing, and writes nothing.
func TestRollbackFromCleanedRegistry(t *testing.T) {
	t.Parallel()
	cluster := clustertest.Borrow(t)
	registry := registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Olareg})
	s := newSite(t, "ghcr.io/example/web:1.0", "ghcr.io/example/web:2.0")
	s.env = append(s.env, "KUBECONFIG="+cluster.Kubeconfig)
	w := newWatcher(t, cluster)
	repository, err := registry.Repository("site/shop")
	if err != nil {
		t.Fatal(err)
	}
	images := map[string]string{} // digests by version
	for _, version := range []string{"1.0", "2.0"} {
		s.write("shop/bundle.yaml", "apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: shop, version: "+version+".0}\nspec: {layer: 6, sources: [{file: all.yaml}]}\n",
			"shop/all.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: default}\nspec:\n  selector: {matchLabels: {app: web}}\n"+
				"  template:\n    metadata: {labels: {app: web}}\n    spec: {containers: [{name: main, image: ghcr.io/example/web:"+version+"}]}\n")
		s.ok("build", "-f", "shop")
		reference := registry.Host + "/site/shop:" + version + ".0"
		s.ok("push", "oci:dist:"+version+".0", reference)
		s.ok("sign", "--key", "cosign.key", reference)
		s.ok("apply", reference, "--key", "cosign.pub", "--yes", "--wait-timeout", "1m")
		deployed, err := w.client.AppsV1().Deployments("default").Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		_, images[version], _ = strings.Cut(deployed.Spec.Template.Spec.Containers[0].Image, registry.Host+"/site/shop@")
	}
	// The origin gives no answer, wherever the test runs.
	s.env = append(s.env, "KRTPKG_IMAGE_MIRROR=", "HTTPS_PROXY=http://127.0.0.1:1", "NO_PROXY=127.0.0.1")
	before := w.everything()
	remove := func(digest string) {
		t.Helper()
		desc, err := repository.Resolve(t.Context(), digest)
		if err == nil {
			err = repository.Delete(t.Context(), desc)
		}
		if err != nil {
			t.Fatalf("delete %s: %v", digest, err)
		}
	}
	refused := func(what string, code int, wants ...string) {
		t.Helper()
		r := s.run("rollback", "shop", "--key", "cosign.pub", "--yes")
		t.Logf("%s: exit code %d\n%s%s", what, r.code, r.stdout, r.stderr)
		for _, want := range wants {
			if r.code != code || !strings.Contains(r.stderr+r.stdout, want) {
				t.Errorf("%s: exit code %d, want %d and %q", what, r.code, code, want)
			}
		}
		if diff := written(before, w.everything()); len(diff) > 0 {
			t.Errorf("%s: the cluster was written to:\n%s", what, strings.Join(diff, "\n"))
		}
	}
	digest := images["1.0"]
	desc, err := repository.Resolve(t.Context(), digest)
	if err != nil {
		t.Fatal(err)
	}
	children, err := content.Successors(t.Context(), repository, desc)
	if err != nil {
		t.Fatal(err)
	}
	for _, child := range children {
		remove(child.Digest.String())
	}
	refused("manifests that the image's index lists", 1, digest)
	remove(digest)
	refused("an image", 1, digest, "is not in "+registry.Host+"/site/shop")
	var history struct {
		Revisions []struct{ Version, Digest string }
	}
	if err := json.Unmarshal([]byte(s.ok("history", "shop", "-o", "json")), &history); err != nil {
		t.Fatal(err)
	}
	for _, h := range history.Revisions {
		if h.Version == "1.0.0" {
			remove(h.Digest)
			refused("the bundle", 1, h.Digest)
		}
	}
}
