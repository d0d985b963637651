package deploy

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"

	"krtpkg.dev/krtpkg/pkg/deploy/marks"
)

const webService = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web}, ports: [{port: 80}]}"

// readyEndpoints returns how many pods the service "web" leads to.
func (r *rig) readyEndpoints() int {
	service := r.getObject(services, r.namespace, "web")
	selector, _, _ := unstructured.NestedStringMap(service.Object, "spec", "selector")
	pods, err := r.client.CoreV1().Pods(r.namespace).List(context.Background(), metav1.ListOptions{LabelSelector: labels.Set(selector).String()})
	if err != nil {
		return 0
	}
	ready := 0
	for _, p := range pods.Items {
		if podReason(&p) == "" && p.DeletionTimestamp == nil {
			ready++
		}
	}
	return ready
}

// watchEndpoints returns a function that ends the watch and returns the least number seen.
func (r *rig) watchEndpoints() func() int {
	var least atomic.Int64
	least.Store(int64(r.readyEndpoints()))
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
				least.Store(min(least.Load(), int64(r.readyEndpoints())))
			}
		}
	}()
	return func() int { close(stop); <-ended; return int(least.Load()) }
}

func (r *rig) wantReady() {
	r.t.Helper()
	r.eventually("the service leads to two pods", func() error {
		if n := r.readyEndpoints(); n != 2 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
}

func (r *rig) replicaSets() string {
	r.t.Helper()
	list, err := r.client.AppsV1().ReplicaSets(r.namespace).List(r.t.Context(), metav1.ListOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	names := []string{}
	for _, item := range list.Items {
		names = append(names, item.Name)
	}
	return strings.Join(names, " ")
}

// contentOf returns what someone cares about of an object: not who manages it, or when it changed.
func contentOf(object *unstructured.Unstructured) string {
	o := object.DeepCopy()
	o.SetManagedFields(nil)
	o.SetResourceVersion("")
	o.SetGeneration(0)
	unstructured.RemoveNestedField(o.Object, "status")
	annotations := maps.Clone(o.GetAnnotations())
	delete(annotations, "deployment.kubernetes.io/revision")
	o.SetAnnotations(annotations)
	return fmt.Sprint(o.Object)
}

// TestAdoption: what kubectl or Helm made is taken over without an outage, or not at all.
func TestAdoption(t *testing.T) {
	for _, test := range []struct {
		name string
		meta string
		opts ApplyOptions
	}{
		{"kubectl", "{name: web}", ApplyOptions{}},
		{"helm", `{name: web, labels: {app.kubernetes.io/managed-by: Helm}, annotations: {meta.helm.sh/release-name: shop, meta.helm.sh/release-namespace: ops}}`, ApplyOptions{TakeOver: true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t)
			foreign := func(manifest string) string {
				return strings.Replace(manifest, "metadata: {name: web}", "metadata: "+test.meta, 1)
			}
			web := r.createObject(deployments, r.namespace, foreign(deployment("web", "")))
			service := r.createObject(services, r.namespace, foreign(webService))
			r.wantReady()
			sets := r.replicaSets()
			least := r.watchEndpoints()
			opts := test.opts
			opts.Options = quick()
			rt := Runtime{Name: "edge", Version: "1", Units: []Unit{unit(1, "app", "1", deployment("web", ""), webService)}}
			if _, err := r.Apply(t.Context(), rt, opts); err != nil {
				t.Fatal(err)
			}
			if n := least(); n < 2 {
				t.Errorf("the service led to %d pods while it was adopted", n)
			}
			r.wantSameObject(deployments, r.namespace, "web", web.GetUID())
			r.wantSameObject(services, r.namespace, "web", service.GetUID())
			if now := r.replicaSets(); now != sets {
				t.Errorf("replica sets were %q and are %q: pods were restarted", sets, now)
			}
			if a := r.getObject(services, r.namespace, "web"); a.GetAnnotations()["meta.helm.sh/release-name"] != "" || a.GetLabels()[marks.App] == "" {
				t.Errorf("adopted service has labels %v, annotations %v", a.GetLabels(), a.GetAnnotations())
			}
			if plan, err := r.Plan(t.Context(), rt, CheckOptions{Options: quick()}); err != nil || plan.HasChanges() {
				t.Errorf("plan of the same again: %s, error %v", planned(plan), err)
			}
			r.deleted("edge")
			if r.exists(deployments, "web") {
				t.Error("what was adopted is not deleted with the runtime")
			}
		})
	}
}

// TestFailedAdoption: a bundle that fails owns nothing of what it was about to adopt, and has
// changed nothing of it; deleting the failed runtime deletes nothing foreign.
func TestFailedAdoption(t *testing.T) {
	r := newRig(t)
	r.createObject(deployments, r.namespace, deployment("web", ""))
	r.createObject(services, r.namespace, webService)
	r.wantReady()
	web, service := contentOf(r.getObject(deployments, r.namespace, "web")), contentOf(r.getObject(services, r.namespace, "web"))
	unchanged := func(when string) {
		t.Helper()
		if now := contentOf(r.getObject(deployments, r.namespace, "web")); now != web {
			t.Errorf("%s: the deployment was\n%s\nand is\n%s", when, web, now)
		}
		if now := contentOf(r.getObject(services, r.namespace, "web")); now != service {
			t.Errorf("%s: the service was\n%s\nand is\n%s", when, service, now)
		}
	}
	otherService := strings.Replace(webService, "app: web", "app: other", 1)
	least := r.watchEndpoints()

	t.Log("a selector that can't be changed is found before the first write")
	other := strings.ReplaceAll(deployment("web", ""), "app: web", "app: other")
	r.refused(Runtime{Name: "edge", Version: "1", Units: []Unit{unit(1, "app", "1", other, otherService)}}, "Deployment web", "immutable")
	unchanged("after a refusal")

	t.Log("a failure that nobody could know is undone")
	changed := strings.Replace(deployment("web", ""), "app:1", "app:2", 1)
	rt := Runtime{Name: "edge", Version: "1", Units: []Unit{unit(1, "app", "1", changed, webService, deployment("stuck", "no-such-label: here"))}}
	r.failing(rt, 2*time.Second, "deployment/stuck")
	unchanged("after a failure")
	if n := least(); n < 2 {
		t.Errorf("the service led to %d pods meanwhile", n)
	}
	r.deleted("edge")
	unchanged("after the delete of the failed runtime")

	t.Log("one that was killed in the middle is known")
	rt.Units = []Unit{unit(1, "app", "1", changed, webService, configMap("mine", "1"))}
	r.apply(rt)
	ids := []ResourceID{{APIVersion: "apps/v1", Kind: "Deployment", Namespace: r.namespace, Name: "web"}, {APIVersion: "v1", Kind: "Service", Namespace: r.namespace, Name: "web"}}
	if err := r.noteAdoption(t.Context(), "edge.app", ids); err != nil {
		t.Fatal(err)
	}
	r.deleted("edge")
	r.uidOf(deployments, r.namespace, "web")
	r.uidOf(services, r.namespace, "web")
	if r.exists(configMaps, "mine") {
		t.Error("the runtime's own resource was left behind")
	}
}
