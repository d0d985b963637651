package cli_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"

	"krtpkg.dev/krtpkg/internal/clustertest"
	"krtpkg.dev/krtpkg/internal/kappctrltest"
	"krtpkg.dev/krtpkg/internal/registrytest"
)

// carvel is a cluster with kapp-controller, as its user sees it.
type carvel struct {
	t       testing.TB
	cluster *clustertest.Cluster
	dynamic dynamic.Interface
	mapper  *restmapper.DeferredDiscoveryRESTMapper
}

func newCarvel(t testing.TB) *carvel {
	t.Helper()
	c := newControlled(t, clustertest.Start(t))
	kappctrltest.Start(t, c.cluster)
	return c
}

func newControlled(t testing.TB, cluster *clustertest.Cluster) *carvel {
	t.Helper()
	c := &carvel{t: t, cluster: cluster}
	config, err := c.cluster.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	client, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	c.mapper = restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client))
	if c.dynamic, err = dynamic.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *carvel) at(kind schema.GroupVersionKind, namespace string) dynamic.ResourceInterface {
	c.t.Helper()
	mapping, err := c.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		c.t.Fatal(err)
	}
	if mapping.Scope.Name() == "root" {
		return c.dynamic.Resource(mapping.Resource)
	}
	return c.dynamic.Resource(mapping.Resource).Namespace(namespace)
}

// apply makes the cluster hold manifests, as kubectl apply --server-side does.
func (c *carvel) apply(manifests string) {
	c.t.Helper()
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(manifests), 4096)
	for {
		var u unstructured.Unstructured
		err := decoder.Decode(&u.Object)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			c.t.Fatalf("%v:\n%s", err, manifests)
		}
		if len(u.Object) == 0 {
			continue
		}
		data, err := json.Marshal(u.Object)
		if err != nil {
			c.t.Fatal(err)
		}
		force := true
		_, err = c.at(u.GroupVersionKind(), u.GetNamespace()).Patch(c.t.Context(), u.GetName(), types.ApplyPatchType, data,
			metav1.PatchOptions{FieldManager: "site", Force: &force})
		if err != nil {
			c.t.Fatalf("%s %s: %v", u.GetKind(), u.GetName(), err)
		}
	}
}

var (
	kindRepository = schema.GroupVersionKind{Group: "packaging.carvel.dev", Version: "v1alpha1", Kind: "PackageRepository"}
	kindInstall    = schema.GroupVersionKind{Group: "packaging.carvel.dev", Version: "v1alpha1", Kind: "PackageInstall"}
	kindPackage    = schema.GroupVersionKind{Group: "data.packaging.carvel.dev", Version: "v1alpha1", Kind: "Package"}
	kindNamespace  = schema.GroupVersionKind{Version: "v1", Kind: "Namespace"}
	kindDeployment = schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}
)

func (c *carvel) get(kind schema.GroupVersionKind, namespace, name string) (*unstructured.Unstructured, error) {
	return c.at(kind, namespace).Get(context.Background(), name, metav1.GetOptions{})
}

// reconciled waits for kapp-controller to have come to an end with a resource's last change, and
// gives the resource.
func (c *carvel) reconciled(kind schema.GroupVersionKind, namespace, name string, succeeded bool) *unstructured.Unstructured {
	c.t.Helper()
	wanted := map[bool]string{true: "ReconcileSucceeded", false: "ReconcileFailed"}[succeeded]
	var u *unstructured.Unstructured
	c.eventually(fmt.Sprintf("%s %s %s", kind.Kind, name, wanted), func() (err error) {
		if u, err = c.get(kind, namespace, name); err != nil {
			return err
		}
		if observed, _, _ := unstructured.NestedInt64(u.Object, "status", "observedGeneration"); observed != u.GetGeneration() {
			return errors.New("its last change has not been seen")
		}
		if status, _ := condition(u, wanted); status == "True" {
			return nil
		}
		return fmt.Errorf("%v", u.Object["status"])
	})
	return u
}

// condition returns the status and the message of one of a resource's conditions; "" where it is not there.
func condition(u *unstructured.Unstructured, kind string) (status, message string) {
	all, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, one := range all {
		if m, _ := one.(map[string]any); m["type"] == kind {
			status, _ = m["status"].(string)
			message, _ = m["message"].(string)
		}
	}
	return status, message
}

func (c *carvel) eventually(what string, done func() error) {
	c.t.Helper()
	began := time.Now()
	for {
		err := done()
		if err == nil {
			c.t.Logf("%s after %s", what, time.Since(began).Round(time.Millisecond))
			return
		}
		if time.Since(began) > 90*time.Second {
			c.t.Fatalf("%s: not after 90 s: %v", what, err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// gone waits until a resource does not exist.
func (c *carvel) gone(kind schema.GroupVersionKind, namespace, name string) {
	c.t.Helper()
	c.eventually(kind.Kind+" "+name+" is gone", func() error {
		_, err := c.get(kind, namespace, name)
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("it is there: %w", err)
	})
}

// shop is a runtime of a namespace and a workload with values, in a version of its own.
func (s *site) shop(version string) {
	s.write(
		version+"/runtime.yaml", "apiVersion: krtpkg.dev/v1alpha1\nkind: Runtime\nmetadata: {name: shop, version: "+version+"}\n"+
			"spec: {bundles: [{path: ../base}, {path: ../web-"+version+"}]}\n",
		"base/bundle.yaml", `apiVersion: krtpkg.dev/v1alpha1
kind: Bundle
metadata: {name: base, version: 1.0.0, description: Where the shop is, licenses: Apache-2.0}
spec: {layer: 3, category: networking, releaseNotes: The namespace is new., sources: [{file: base.yaml}]}
`,
		"base/base.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: base, namespace: shop}\ndata: {plain: \"#@ no template\"}\n",
		"web-"+version+"/bundle.yaml", `apiVersion: krtpkg.dev/v1alpha1
kind: Bundle
metadata: {name: web, version: `+version+`, description: What the shop shows, licenses: MIT, source: "https://git.example/web", revision: abc}
spec:
  layer: 6
  requires: [base]
  kubernetes: ">=1.29, <2"
  maintainers: [{name: The web team}]
  support: Ask the web team
  iconFile: web.svg
  sources:
    - {dir: config, template: ytt, values: {greeting: of the bundle}}
    - {file: account.yaml}
`,
		"web-"+version+"/web.svg", "<svg xmlns=\"http://www.w3.org/2000/svg\"><path d=\"M0 0h1\"/></svg>\n",
		"web-"+version+"/account.yaml", "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: web, namespace: shop}\n---\n"+
			"apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: web, namespace: shop}\nrules: [{apiGroups: [\"\"], resources: [configmaps], verbs: [get]}]\n",
		"web-"+version+"/config/schema.yaml", "#@data/values-schema\n---\nreplicas: 1\ngreeting: hello\n#@schema/nullable\nhost: \"\"\n",
		"web-"+version+"/config/web.yaml", `#@ load("@ytt:data", "data")
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop, annotations: {version: "`+version+`"}}
spec:
  replicas: #@ data.values.replicas
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {serviceAccountName: web, containers: [{name: main, image: "ghcr.io/example/web:1.0", env: [{name: GREETING, value: #@ data.values.greeting
      }]}]}
`)
	s.ok("build", "-f", version)
}

// A runtime as kapp-controller has it, from the registry of its vendor and then from that of the
// site, behind a login and a private authority, with the vendor's stopped.
func TestKappController(t *testing.T) {
	t.Parallel()
	c := newCarvel(t)
	vendor := registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Distribution3})
	mirror := registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Olareg, TLS: true, Auth: registrytest.Basic})
	s := newSite(t, "ghcr.io/example/web:1.0")
	s.env = append(s.env, "KUBECONFIG="+c.cluster.Kubeconfig)
	reference := func(version string) string { return vendor.Host + "/krt/shop:" + version }
	for _, version := range []string{"1.0.0", "1.1.0"} {
		s.shop(version)
		s.ok("push", "oci:dist:"+version, reference(version))
		s.ok("sign", "--key", "cosign.key", reference(version))
	}
	s.write("site.yaml", "web: {replicas: 3}\n")
	install := func(reference string, more ...string) {
		t.Helper()
		c.apply(s.ok(append([]string{"packages", "install", "--key", "cosign.pub", reference, "--values", "site.yaml"}, more...)...))
	}
	step := func(name string, do func(*testing.T)) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			outer := c.t
			c.t, s.t = t, t
			defer func() { c.t, s.t = outer, outer.(*testing.T) }()
			do(t)
		})
		if t.Failed() {
			t.FailNow() // what follows goes on from here
		}
	}
	web := func(version, image string) *unstructured.Unstructured {
		t.Helper()
		var d *unstructured.Unstructured
		c.eventually("web "+version+" is ready", func() (err error) {
			if d, err = c.get(kindDeployment, "shop", "web"); err != nil {
				return err
			}
			ready, _, _ := unstructured.NestedInt64(d.Object, "status", "readyReplicas")
			containers, _, _ := unstructured.NestedSlice(d.Object, "spec", "template", "spec", "containers")
			if got := containers[0].(map[string]any)["image"].(string); d.GetAnnotations()["version"] != version || ready != 3 || !strings.HasPrefix(got, image+"@sha256:") {
				return fmt.Errorf("version %s, %d ready, image %s", d.GetAnnotations()["version"], ready, got)
			}
			return nil
		})
		return d
	}
	if r := s.run("packages", "install", reference("1.0.0")); r.code != 2 {
		t.Errorf("without a trusted signer: exit code %d\n%s", r.code, r.stderr)
	}

	install(reference("1.0.0"), "--constraints", ">=1.0.0 <2.0.0")
	c.reconciled(kindRepository, "default", "shop", true)
	step("packages are listed with their metadata", func(t *testing.T) {
		list, err := c.at(kindPackage, "default").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range list.Items {
			got = append(got, p.GetName())
		}
		if fmt.Sprint(got) != "[base.shop.krtpkg.dev.1.0.0 web.shop.krtpkg.dev.1.0.0]" {
			t.Errorf("packages %v", got)
		}
		p, err := c.get(kindPackage, "default", "web.shop.krtpkg.dev.1.0.0")
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []struct {
			value string
			path  []string
		}{
			{"1", []string{"spec", "valuesSchema", "openAPIv3", "properties", "replicas", "default"}},
			{">=1.29.0 <2.0.0", []string{"spec", "kubernetesVersionSelection", "constraints"}},
			{"[MIT]", []string{"spec", "licenses"}},
			{"https://git.example/web at abc", []string{"spec", "releaseNotes"}},
		} {
			if got, _, _ := unstructured.NestedFieldNoCopy(p.Object, want.path...); fmt.Sprint(got) != want.value {
				t.Errorf("%v is %v, want %s", want.path, got, want.value)
			}
		}
		included, _, _ := unstructured.NestedSlice(p.Object, "spec", "includedSoftware")
		if got := fmt.Sprint(included); len(included) != 1 || !strings.HasPrefix(got, "[map[description:pkg:oci/web@sha256%3A") ||
			!strings.HasSuffix(got, "?repository_url=ghcr.io%2Fexample%2Fweb&tag=1.0 displayName:ghcr.io/example/web version:1.0]]") {
			t.Errorf("included software %s", got)
		}
		if base, err := c.get(kindPackage, "default", "base.shop.krtpkg.dev.1.0.0"); err != nil {
			t.Error(err)
		} else if got, _, _ := unstructured.NestedString(base.Object, "spec", "releaseNotes"); got != "The namespace is new." {
			t.Errorf("release notes %q", got)
		}
		meta, err := c.get(schema.GroupVersionKind{Group: "data.packaging.carvel.dev", Version: "v1alpha1", Kind: "PackageMetadata"}, "default", "web.shop.krtpkg.dev")
		if err != nil {
			t.Fatal(err)
		}
		if got, _, _ := unstructured.NestedString(meta.Object, "spec", "shortDescription"); got != "What the shop shows" {
			t.Errorf("metadata %v", meta.Object)
		}
		if got, _, _ := unstructured.NestedString(meta.Object, "spec", "supportDescription"); got != "Ask the web team" {
			t.Errorf("support %q", got)
		}
		icon, _, _ := unstructured.NestedString(meta.Object, "spec", "iconSVGBase64")
		svg, err := os.ReadFile(s.path("web-1.0.0/web.svg"))
		if err != nil || icon != base64.StdEncoding.EncodeToString(svg) {
			t.Errorf("icon %q of %q (%v)", icon, svg, err)
		}
		if got, _, _ := unstructured.NestedSlice(meta.Object, "spec", "maintainers"); fmt.Sprint(got) != "[map[name:The web team]]" {
			t.Errorf("maintainers %v", got)
		}
	})
	c.reconciled(kindInstall, "default", "shop.base", true)
	c.reconciled(kindInstall, "default", "shop.web", true)
	web("1.0.0", vendor.Host+"/krt/shop")

	step("a value that the schema refuses changes nothing", func(t *testing.T) {
		c.apply("{apiVersion: v1, kind: Secret, metadata: {name: shop-web-values, namespace: default}, stringData: {values.yaml: 'replicas: many'}}")
		u := c.reconciled(kindInstall, "default", "shop.web", false)
		if message, _, _ := unstructured.NestedString(u.Object, "status", "usefulErrorMessage"); !strings.Contains(message, "expected: integer") {
			t.Errorf("message: %s", message)
		}
		web("1.0.0", vendor.Host+"/krt/shop")
		install(reference("1.0.0"), "--constraints", ">=1.0.0 <2.0.0")
		c.reconciled(kindInstall, "default", "shop.web", true)
	})
	step("a newer version that the constraint allows", func(t *testing.T) {
		install(reference("1.1.0"), "--constraints", ">=1.0.0 <2.0.0")
		web("1.1.0", vendor.Host+"/krt/shop")
	})
	step("back to the version before", func(t *testing.T) {
		install(reference("1.0.0"), "--downgradable")
		web("1.0.0", vendor.Host+"/krt/shop")
		c.reconciled(kindInstall, "default", "shop.web", true)
	})
	step("what is removed is gone", func(t *testing.T) {
		for _, name := range []string{"shop.web", "shop.base"} {
			if err := c.at(kindInstall, "default").Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			c.gone(kindInstall, "default", name)
		}
		c.gone(kindDeployment, "shop", "web")
		c.gone(kindNamespace, "", "shop")
	})

	step("a catalogue of both versions", func(t *testing.T) {
		c.apply(s.ok("packages", "repo", "--key", "cosign.pub", "--tag", "packages", reference("1.1.0"), reference("1.0.0")))
		c.reconciled(kindRepository, "default", "shop", true)
		c.eventually("packages of both versions are listed", func() error {
			list, err := c.at(kindPackage, "default").List(t.Context(), metav1.ListOptions{})
			if err != nil {
				return err
			}
			var got []string
			for _, p := range list.Items {
				got = append(got, p.GetName())
			}
			if fmt.Sprint(got) != "[base.shop.krtpkg.dev.1.0.0 web.shop.krtpkg.dev.1.0.0 web.shop.krtpkg.dev.1.1.0]" {
				return fmt.Errorf("packages %v", got)
			}
			return nil
		})
		install(reference("1.0.0"), "--without-repository")
		c.reconciled(kindInstall, "default", "shop.web", true)
		web("1.0.0", vendor.Host+"/krt/shop")
		install(reference("1.0.0"), "--without-repository", "--constraints", ">=1.0.0")
		web("1.1.0", vendor.Host+"/krt/shop")
		for _, name := range []string{"shop.web", "shop.base"} {
			if err := c.at(kindInstall, "default").Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			c.gone(kindInstall, "default", name)
		}
		if out := registrytest.RunTool(t, nil, registrytest.BuildTool(t, "imgpkg"), "describe", "-b", vendor.Host+"/krt/shop:packages", "--registry-insecure"); strings.Count(out, "Type: Bundle") < 3 {
			t.Errorf("imgpkg describes\n%s", out)
		}
	})

	// The site is another cluster: kapp-controller's cache of what it has fetched goes by digests.
	c = newCarvel(t)
	s.env = append(append(s.env, mirror.Env(t)...), "KUBECONFIG="+c.cluster.Kubeconfig)
	env := []string{"KUBECONFIG=" + c.cluster.Kubeconfig}
	at := mirror.Host + "/mirror/shop"
	step("the same from the site's registry alone", func(t *testing.T) {
		s.ok("copy", reference("1.0.0"), at+":1.0.0")
		if err := vendor.Close(); err != nil {
			t.Fatal(err)
		}
		c.apply(fmt.Sprintf("{apiVersion: v1, kind: Secret, type: kubernetes.io/dockerconfigjson, metadata: {name: login, namespace: default}, stringData: {.dockerconfigjson: '{\"auths\": {%q: {\"username\": %q, \"password\": %q}}}'}}",
			mirror.Host, mirror.Username, mirror.Password))
		c.apply(s.ok("packages", "config", "--ca", mirror.CAFile))
		// kapp applies the rest, in the order of the layers, and waits until each is installed.
		s.ok("packages", "install", "--key", "cosign.pub", at+":1.0.0", "--values", "site.yaml", "-o", "packages",
			"--pull-secret", "login", "--sync-period", "30s")
		said := registrytest.RunTool(t, env, registrytest.BuildTool(t, "kapp"), "deploy", "-a", "shop", "-f", s.path("packages"), "--yes")
		base, web1 := strings.Index(said, "ok: reconcile packageinstall/shop.base"), strings.Index(said, "reconcile packageinstall/shop.web")
		if base < 0 || web1 < base {
			t.Errorf("kapp did not wait for the layer below:\n%s", said)
		}
		c.reconciled(kindRepository, "default", "shop", true)
		web("1.0.0", at)
		c.reconciled(kindInstall, "default", "shop.web", true)
	})
	w := newWatcher(t, c.cluster)
	byController := w.normal()
	registrytest.RunTool(t, env, registrytest.BuildTool(t, "kapp"), "delete", "-a", "shop", "--yes")
	c.gone(kindInstall, "default", "shop.base")
	c.gone(kindNamespace, "", "shop")
	step("krtpkg gives it to the cluster by itself, and takes it away", func(t *testing.T) {
		apply := []string{"packages", "install", "--key", "cosign.pub", at + ":1.0.0", "--pull-secret", "login", "--apply", "--wait-timeout", "1m"}
		s.refused(2, "--yes", apply...)
		said := s.ok(append(apply, "--yes", "--values", "site.yaml")...)
		if fields := strings.Fields(said); strings.Count(said, "package-repository") != 1 || slices.Index(fields, "base") > slices.Index(fields, "web") {
			t.Errorf("it says:\n%s", said)
		}
		web("1.0.0", at)
		if status := s.run("status", "shop-by-kapp-controller", "--exit-code", "--no-registry"); status.code != 0 || strings.Count(status.stdout, "  healthy ") != 3 {
			t.Errorf("status:\n%s%s", status.stdout, status.stderr)
		}
		again := s.ok(append(apply, "--yes")...) // with the values of the last time
		if values := s.ok("values", "shop-by-kapp-controller"); !strings.Contains(values, "replicas: 3") || strings.Count(again, "no changes") != 3 {
			t.Errorf("again:\n%svalues:\n%s", again, values)
		}
		s.refused(2, "packages install --apply", "rollback", "shop-by-kapp-controller", "--yes", "--key", "cosign.pub", "--to", "1")
		s.ok("delete", "shop-by-kapp-controller", "--yes")
		c.gone(kindInstall, "default", "shop.base")
		c.gone(kindNamespace, "", "shop")
	})
	step("krtpkg apply makes the same resources", func(t *testing.T) {
		s.ok("apply", "--yes", "--key", "cosign.pub", at+":1.0.0", "--values", "site.yaml", "--wait-timeout", "1m")
		w.t = t
		w.sameAs(byController, "shop", "Namespace /shop", "ConfigMap shop/base", "Deployment shop/web", "ServiceAccount shop/web", "Role shop/web")
	})
}

var outage = flag.Duration("outage", time.Second, "how long the registry is down that kapp-controller fetches from")

// What goes wrong at a registry changes nothing that runs.
func TestKappControllerFaults(t *testing.T) {
	t.Parallel()
	c := newCarvel(t)
	var down atomic.Bool
	vendor := registrytest.StartRegistry(t, registrytest.Options{Middleware: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if down.Load() {
				http.Error(w, "down", http.StatusServiceUnavailable)
				return
			}
			next.ServeHTTP(w, r)
		})
	}})
	s := newSite(t, "ghcr.io/example/web:1.0")
	reference := func(version string) string { return vendor.Host + "/krt/shop:" + version }
	for _, version := range []string{"1.0.0", "1.1.0", "1.2.0", "1.3.0"} {
		s.shop(version)
		s.ok("push", "oci:dist:"+version, reference(version))
		if version != "1.2.0" {
			s.ok("sign", "--key", "cosign.key", reference(version))
		}
	}
	install := func(version, period string) string {
		t.Helper()
		return s.ok("packages", "install", "--key", "cosign.pub", reference(version), "--constraints", ">=1.0.0", "--sync-period", period)
	}
	version := func() string {
		t.Helper()
		d, err := c.get(kindDeployment, "shop", "web")
		if err != nil {
			t.Fatal(err)
		}
		return d.GetAnnotations()["version"]
	}
	manifests := install("1.1.0", "30s")
	c.apply(manifests)
	c.reconciled(kindInstall, "default", "shop.web", true)

	// An unsigned version: not a line is written.
	if r := s.run("packages", "install", "--key", "cosign.pub", reference("1.2.0"), "-o", "unsigned"); r.code != 3 || r.stdout != "" {
		t.Errorf("unsigned: exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	if _, err := os.Stat(s.path("unsigned")); err == nil {
		t.Error("unsigned: files were written")
	}
	// It takes the tag of what is installed, and the cluster goes by the digest.
	s.ok("copy", "--allow-renamed-tag", reference("1.2.0"), reference("1.1.0"))
	c.apply(strings.ReplaceAll(manifests, "syncPeriod: 30s", "syncPeriod: 31s"))
	c.reconciled(kindRepository, "default", "shop", true)
	c.reconciled(kindInstall, "default", "shop.web", true)
	if got := version(); got != "1.1.0" {
		t.Errorf("after the tag moved: version %s", got)
	}
	// The repository goes back, which withdraws what is installed: that stays, and is reported.
	c.apply(install("1.0.0", "32s"))
	c.eventually("the install asks for --downgradable", func() error {
		u := c.reconciled(kindInstall, "default", "shop.web", false)
		if message, _, _ := unstructured.NestedString(u.Object, "status", "usefulErrorMessage"); !strings.Contains(message, "downgradable") {
			return fmt.Errorf("it says %q", message)
		}
		return nil
	})
	if got := version(); got != "1.1.0" {
		t.Errorf("withdrawn: version %s", got)
	}
	// A repository that goes by a tag, which krtpkg writes none of, takes whatever the tag comes to be,
	// unsigned or older.
	c.apply("{apiVersion: v1, kind: Namespace, metadata: {name: by-tag}}")
	for i, moved := range []string{"1.3.0", "1.2.0", "1.0.0"} {
		s.ok("copy", "--move-tags", reference(moved), reference("channel"))
		c.apply(fmt.Sprintf("{apiVersion: packaging.carvel.dev/v1alpha1, kind: PackageRepository, metadata: {name: shop, namespace: by-tag}, spec: {syncPeriod: %ds, fetch: {imgpkgBundle: {image: %q}}}}",
			30+i, reference("channel")))
		c.eventually("packages of "+moved+" by tag", func() error {
			_, err := c.get(kindPackage, "by-tag", "web.shop.krtpkg.dev."+moved)
			return err
		})
	}
	// Through a gate it takes what is signed, and nothing older.
	c.followsThroughGate(s, vendor.Host, reference)
	// The registry is down when the next version comes: what runs, runs on, and the controller
	// tries again by itself.
	next := install("1.3.0", "30s")
	down.Store(true)
	c.apply(next)
	c.reconciled(kindRepository, "default", "shop", false)
	time.Sleep(*outage)
	c.reconciled(kindRepository, "default", "shop", false)
	if got := version(); got != "1.1.0" {
		t.Errorf("registry down: version %s", got)
	}
	down.Store(false)
	c.reconciled(kindRepository, "default", "shop", true)
	c.eventually("the next version is installed", func() error {
		if got := version(); got != "1.3.0" {
			return fmt.Errorf("version %s", got)
		}
		return nil
	})
}

// normal returns all that kapp has applied, without what the cluster and kapp have added, by kind,
// namespace and name.
func (w *watcher) normal() map[string]string {
	w.t.Helper()
	all := map[string]string{}
	for kind, u := range w.objects() {
		labels := u.GetLabels()
		if labels["kapp.k14s.io/app"] == "" || labels["kapp.k14s.io/is-app-change"] != "" || len(u.GetOwnerReferences()) > 0 {
			continue
		}
		delete(u.Object, "status")
		plain := plainOf(u.Object).(map[string]any)
		metadata := plain["metadata"].(map[string]any)
		for _, field := range []string{"uid", "resourceVersion", "generation", "creationTimestamp", "managedFields"} {
			delete(metadata, field)
		}
		data, err := json.MarshalIndent(plain, "", "  ")
		if err != nil {
			w.t.Fatal(err)
		}
		all[kind] = string(data)
	}
	return all
}

// sameAs checks that what krtpkg applies is what kapp-controller has applied, which besides has what it
// was given, whose names begin with the runtime's; and that some are among it.
func (w *watcher) sameAs(byController map[string]string, runtime string, some ...string) {
	w.t.Helper()
	byApply := w.normal()
	for name, applied := range byApply {
		if byController[name] != applied {
			w.t.Errorf("%s: by kapp-controller\n%s\nby krtpkg apply\n%s", name, byController[name], applied)
		}
	}
	for name := range byController {
		kind, own, _ := strings.Cut(name, "/")
		if byApply[name] == "" && !strings.Contains(kind, "Package") && !strings.HasPrefix(strings.TrimPrefix(own, "krtpkg:"), runtime) {
			w.t.Errorf("%s is applied by kapp-controller alone", name)
		}
	}
	for _, name := range some {
		if byApply[name] == "" {
			w.t.Errorf("%s is not there", name)
		}
	}
	w.t.Logf("%d resources are the same", len(byApply))
}

// given are fields that the cluster fills in again each time.
var given = []string{"batch.kubernetes.io/controller-uid", "controller-uid", "clusterIP", "clusterIPs", "nodePort", "healthCheckNodePort", "volumeName"}

// plainOf takes out the keys by which kapp, kbld and the controllers of Kubernetes know resources.
func plainOf(value any) any {
	switch v := value.(type) {
	case map[string]any:
		out := map[string]any{}
		for key, inner := range v {
			own := strings.HasPrefix(key, "kapp.k14s.io/") || key == "kbld.k14s.io/images" || strings.HasPrefix(key, "krtpkg.dev/") || key == "deployment.kubernetes.io/revision" || slices.Contains(given, key)
			if plain := plainOf(inner); !own && !(key == "annotations" || key == "labels") || !own && len(plain.(map[string]any)) > 0 {
				out[key] = plain
			}
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = plainOf(v[i])
		}
		return out
	}
	return value
}
