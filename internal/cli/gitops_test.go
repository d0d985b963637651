package cli_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"krtpkg.dev/krtpkg/internal/argocdtest"
	"krtpkg.dev/krtpkg/internal/fluxtest"
)

// The ready enterprise runtime by the real Flux, and what Flux can't apply by krtpkg beside it.
func TestEnterpriseRuntimeByFlux(t *testing.T) {
	t.Parallel()
	r := newReady(t)
	fluxtest.Start(t, r.cluster)
	r.byController("enterprise", "flux", 31, 5, kindKustomization, fluxtest.Namespace, func(u unstructured.Unstructured) string {
		conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
		for _, condition := range conditions {
			if m, _ := condition.(map[string]any); m["type"] == "Ready" {
				if m["status"] == "True" {
					return ""
				}
				return fmt.Sprint(m["message"])
			}
		}
		return "not seen yet"
	}, "--interval", "10s")
}

// The ready edge runtime by the real Argo CD, and krtpkg beside it.
func TestEdgeRuntimeByArgoCD(t *testing.T) {
	t.Parallel()
	r := newReady(t)
	argocdtest.Start(t, r.cluster)
	newControlled(t, r.cluster).apply(r.ok("packages", "config", "--argocd", argocdtest.Namespace))
	r.byController("edge", "argocd", 9, 1, kindApplication, argocdtest.Namespace, func(u unstructured.Unstructured) string {
		sync, _, _ := unstructured.NestedString(u.Object, "status", "sync", "status")
		health, _, _ := unstructured.NestedString(u.Object, "status", "health", "status")
		if sync == "Synced" && health == "Healthy" {
			return ""
		}
		conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
		operation, _, _ := unstructured.NestedString(u.Object, "status", "operationState", "message")
		return fmt.Sprint(sync, ", ", health, ", ", conditions, ", ", operation)
	})
}

// byController has a controller install a runtime, and krtpkg the bundles that are left, until each of so
// many resources of a kind, one for each bundle and one for all, lacks nothing.
func (r *ready) byController(runtime, called string, count, left int, kind schema.GroupVersionKind, namespace string, lacks func(unstructured.Unstructured) string, more ...string) {
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
			applied = r.run("apply", "--yes", "--key", "cosign.pub", reference, "--beside", called, "--values", runtime+".yaml", "--wait-timeout", "1m").code == 0
		}
		list, err := c.at(kind, namespace).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var waits []string
		for _, u := range list.Items {
			if reason := lacks(u); reason != "" {
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
