package cli_test

import (
	"cmp"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"krtpkg.dev/krtpkg/internal/argocdtest"
	"krtpkg.dev/krtpkg/internal/fluxtest"
	"krtpkg.dev/krtpkg/internal/kappctrltest"
)

// The ready enterprise runtime by the real Flux, and what Flux cannot apply by krtpkg next to it.
func TestEnterpriseRuntimeByFlux(t *testing.T) {
	t.Parallel()
	r := newReady(t)
	fluxtest.Start(t, r.cluster)
	r.byController("enterprise", "flux", 33, 5, kindKustomization, fluxtest.Namespace, func(u *unstructured.Unstructured) string {
		status, message := condition(u, "Ready")
		if status == "True" {
			return ""
		}
		return cmp.Or(message, "not seen yet")
	}, "--interval", "10s")
}

// The ready edge runtime by the real Argo CD, and krtpkg next to it.
func TestEdgeRuntimeByArgoCD(t *testing.T) {
	t.Parallel()
	r := newReady(t)
	argocdtest.Start(t, r.cluster)
	newControlled(t, r.cluster).apply(r.ok("packages", "config", "--argocd", argocdtest.Namespace))
	r.byController("edge", "argocd", 9, 1, kindApplication, argocdtest.Namespace, outOfSync)
}

// The ready edge runtime by the real kapp-controller, with a chart that the controller renders by itself with
// the site's values, is the same as by krtpkg apply.
func TestEdgeRuntimeByKappController(t *testing.T) {
	t.Parallel()
	r := newReady(t)
	kappctrltest.Start(t, r.cluster)
	before := r.everything()
	chart := filepath.Join(r.workspace, "4-security-and-observability/logging/fluent-bit")
	copied, err := filepath.Glob(filepath.Join(chart, "source-*"))
	if err != nil || len(copied) != 1 {
		t.Fatalf("copies of the chart: %q, %v", copied, err)
	}
	for name, text := range map[string]string{
		"namespace.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: logging}\n",
		"bundle.yaml": `apiVersion: krtpkg.dev/v1alpha1
kind: Bundle
metadata: {name: fluent-bit, version: 0.58.1}
spec:
  layer: 4
  category: logging
  sources:
    - file: namespace.yaml
    - dir: ` + filepath.Base(copied[0]) + `
      template: helm
      render: target
      values: {testFramework: {enabled: false}, podLabels: {of: the-bundle}}
      helm: {namespace: logging}
`} {
		if err := os.WriteFile(filepath.Join(chart, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	reference := r.publish("edge", "1.0.0", filepath.Join(r.workspace, "runtimes/edge"))
	r.write("site.yaml", "fluent-bit: {logLevel: debug, podLabels: {at: the-site}}\n")
	install := []string{"--yes", "--key", "cosign.pub", reference, "--values", "site.yaml", "--wait-timeout", "2m"}
	r.ok(append([]string{"packages", "install", "--apply", "--leave-out"}, install...)...)
	r.ok(append([]string{"apply", "--left-out-by", "kapp-controller"}, install...)...)
	r.healthy("edge-by-kapp-controller", 9)
	r.workloadsReady(strings.TrimSuffix(reference, ":1.0.0") + "@sha256:")
	byController := r.normal()
	r.ok("delete", "edge-beside-kapp-controller", "--yes", "--delete-foreign")
	r.ok("delete", "edge-by-kapp-controller", "--yes")
	if diff := r.leftovers(before); len(diff) > 0 {
		t.Errorf("left behind or lost:\n%s", strings.Join(diff, "\n"))
	}
	r.ok(append([]string{"apply"}, install...)...)
	r.sameAs(byController, "edge", "Deployment cert-manager/cert-manager", "Deployment projectcontour/contour", "DaemonSet kube-flannel/kube-flannel-ds",
		"Deployment metallb-system/controller", "DaemonSet logging/fluent-bit", "CustomResourceDefinition /bgppeers.metallb.io")
	if pods := r.normal()["DaemonSet logging/fluent-bit"]; !strings.Contains(pods, `"of": "the-bundle"`) || !strings.Contains(pods, `"at": "the-site"`) {
		t.Errorf("without the values:\n%s", pods)
	}
}

// byController has a controller install a runtime, and krtpkg the bundles that are left, until each of so
// many resources of a kind, one for each bundle and one for all, lacks nothing.
func (r *ready) byController(runtime, called string, count, left int, kind schema.GroupVersionKind, namespace string, lacks func(*unstructured.Unstructured) string, more ...string) {
	t := r.site.t
	t.Helper()
	c := newControlled(t, r.cluster)
	reference := r.publish(runtime, "1.0.0", filepath.Join(r.workspace, "runtimes", runtime))
	r.write("enterprise.yaml", "github-deploy-key: {privateKey: a-key}\nopenstack-trove-database: {username: shop, password: a-password}\n"+
		"velero: {accessKey: a-name, secretKey: a-key}\n", "edge.yaml", "{}\n")
	c.apply(r.ok(append([]string{"packages", called, "--key", "cosign.pub", "--leave-out", reference}, more...)...))
	applied, began := false, time.Now()
	for {
		if !applied { // what it needs is there once the controller has been at it
			applied = r.run("apply", "--yes", "--key", "cosign.pub", reference, "--left-out-by", called, "--values", runtime+".yaml", "--wait-timeout", "1m").code == 0
		}
		list, err := c.at(kind, namespace).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var waits []string
		for _, u := range list.Items {
			if reason := lacks(&u); reason != "" {
				waits = append(waits, u.GetName()+": "+reason)
			}
		}
		switch {
		case applied && len(waits) == 0 && len(list.Items) == count:
			t.Logf("all is there after %s", time.Since(began).Round(time.Second))
			r.healthy(runtime+"-beside-"+called, left)
			return
		case time.Since(began) > 5*time.Minute:
			t.Fatalf("applied beside it: %t; %d resources, of which these are not ready:\n%s", applied, len(list.Items), strings.Join(waits, "\n"))
		}
		time.Sleep(time.Second)
	}
}
