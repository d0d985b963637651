package cli_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"krtpkg.dev/krtpkg/internal/argocdtest"
	"krtpkg.dev/krtpkg/internal/fluxtest"
)

func TestEnterpriseByFlux(t *testing.T) {
	t.Parallel()
	r := newReady(t)
	fluxtest.Start(t, r.cluster)
	c := newControlled(t, r.cluster)
	reference := r.publish("enterprise", "1.0.0", filepath.Join(r.workspace, "runtimes/enterprise"))
	c.apply(r.ok("packages", "flux", "--key", "cosign.pub", "--leave-out", reference, "--interval", "10s"))
	began := time.Now()
	for {
		list, err := c.at(kindKustomization, fluxtest.Namespace).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		wait := ""
		for _, k := range list.Items {
			conditions, _, _ := unstructured.NestedSlice(k.Object, "status", "conditions")
			for _, condition := range conditions {
				m, _ := condition.(map[string]any)
				if m["type"] == "Ready" && m["status"] != "True" {
					wait += fmt.Sprintf("%s: %v\n", k.GetName(), m["message"])
				}
			}
		}
		if wait == "" && len(list.Items) > 20 {
			t.Logf("%d ready after %s", len(list.Items), time.Since(began))
			return
		}
		if time.Since(began) > 5*time.Minute {
			t.Fatalf("%d:\n%s", len(list.Items), wait)
		}
		time.Sleep(time.Second)
	}
}

func TestEnterpriseByArgoCD(t *testing.T) {
	t.Parallel()
	r := newReady(t)
	argocdtest.Start(t, r.cluster)
	c := newControlled(t, r.cluster)
	reference := r.publish("enterprise", "1.0.0", filepath.Join(r.workspace, "runtimes/enterprise"))
	c.apply(r.ok("packages", "config", "--argocd", "argocd"))
	c.apply(r.ok("packages", "argocd", "--key", "cosign.pub", "--leave-out", reference))
	began := time.Now()
	for {
		list, err := c.at(kindApplication, argocdtest.Namespace).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		wait := ""
		for _, k := range list.Items {
			sync, _, _ := unstructured.NestedString(k.Object, "status", "sync", "status")
			health, _, _ := unstructured.NestedString(k.Object, "status", "health", "status")
			if sync != "Synced" || health != "Healthy" {
				conditions, _, _ := unstructured.NestedSlice(k.Object, "status", "conditions")
				operation, _, _ := unstructured.NestedString(k.Object, "status", "operationState", "message")
				wait += fmt.Sprintf("%s: %s %s %v %s\n", k.GetName(), sync, health, conditions, operation)
			}
		}
		if wait == "" && len(list.Items) > 20 {
			t.Logf("%d ready after %s", len(list.Items), time.Since(began))
			return
		}
		if time.Since(began) > 5*time.Minute {
			t.Fatalf("%d:\n%s", len(list.Items), wait)
		}
		time.Sleep(time.Second)
	}
}
