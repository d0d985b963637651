package deploy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"krtpkg.dev/krtpkg/pkg/deploy/preflight"
)

var (
	namespacesGVR = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
	claimsGVR     = schema.GroupVersionResource{Version: "v1", Resource: "persistentvolumeclaims"}
	services      = schema.GroupVersionResource{Version: "v1", Resource: "services"}
	secrets       = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
	jobs          = schema.GroupVersionResource{Group: "batch", Version: "v1", Resource: "jobs"}
	crds          = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
)

// createObject creates an object as a user would, not through Apply.
func (r *rig) createObject(gvr schema.GroupVersionResource, namespace, manifest string) *unstructured.Unstructured {
	r.t.Helper()
	object := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(manifest), &object.Object); err != nil {
		r.t.Fatal(err)
	}
	created, err := r.dynamic.Resource(gvr).Namespace(namespace).Create(r.t.Context(), object, metav1.CreateOptions{FieldManager: "kubectl-create"})
	if err != nil {
		r.t.Fatalf("create %s: %v", object.GetName(), err)
	}
	return created
}

// getObject returns the object, or nil if it does not exist.
func (r *rig) getObject(gvr schema.GroupVersionResource, namespace, name string) *unstructured.Unstructured {
	r.t.Helper()
	object, err := r.dynamic.Resource(gvr).Namespace(namespace).Get(r.t.Context(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		r.t.Fatalf("get %s %s/%s: %v", gvr.Resource, namespace, name, err)
	}
	return object
}

// wantSameObject fails unless the object still exists, with the UID that it had.
func (r *rig) wantSameObject(gvr schema.GroupVersionResource, namespace, name string, uid types.UID) {
	r.t.Helper()
	switch object := r.getObject(gvr, namespace, name); {
	case object == nil:
		r.t.Errorf("%s %s/%s was deleted", gvr.Resource, namespace, name)
	case object.GetUID() != uid || object.GetDeletionTimestamp() != nil:
		r.t.Errorf("%s %s/%s was deleted and created again", gvr.Resource, namespace, name)
	}
}

func (r *rig) uidOf(gvr schema.GroupVersionResource, namespace, name string) types.UID {
	r.t.Helper()
	object := r.getObject(gvr, namespace, name)
	if object == nil {
		r.t.Fatalf("%s %s/%s does not exist", gvr.Resource, namespace, name)
	}
	return object.GetUID()
}

func namespaceManifest(name string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata: {name: %s}", name)
}

func claimManifest(name, namespace string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %s, namespace: %s}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 1Gi}}`, name, namespace)
}

// TestUpgradeDeletesNothingOfOthers: a version that drops a CustomResourceDefinition, a
// namespace or a whole bundle is refused while users' objects would go with them.
func TestUpgradeDeletesNothingOfOthers(t *testing.T) {
	r := newRig(t)
	space := r.namespace + "-data"
	gadgets := schema.GroupVersionResource{Group: "upgrade.example", Version: "v1", Resource: "gadgets"}
	v1 := Runtime{Name: "edge", Version: "1.0.0", Digest: "sha256:1", Units: []Unit{
		unit(1, "kinds", "1.0.0", crd("gadgets", "Gadget", gadgets.Group), configMap("kinds", "1")),
		unit(2, "space", "1.0.0", namespaceManifest(space)),
		unit(3, "app", "1.0.0", configMap("app", "1")),
	}}
	r.apply(v1)
	user := r.createObject(gadgets, r.namespace, "apiVersion: upgrade.example/v1\nkind: Gadget\nmetadata: {name: mine}")
	claim := r.createObject(claimsGVR, space, claimManifest("volume", space))

	for _, step := range []struct {
		name  string
		units []Unit
		wants []string
	}{
		{"a bundle drops the definition", []Unit{unit(1, "kinds", "2.0.0", configMap("kinds", "1")), v1.Units[1], v1.Units[2]},
			[]string{"Gadget mine", "CustomResourceDefinition gadgets.upgrade.example"}},
		{"a bundle with the namespace leaves", []Unit{v1.Units[0], v1.Units[2]},
			[]string{"PersistentVolumeClaim volume", "Namespace " + space}},
		{"both leave", []Unit{v1.Units[2]}, []string{"Gadget mine", "PersistentVolumeClaim volume"}},
	} {
		t.Run(step.name, func(t *testing.T) {
			v2 := Runtime{Name: "edge", Version: "2.0.0", Digest: "sha256:2", Units: step.units}
			_, err := r.Apply(t.Context(), v2, ApplyOptions{Options: quick()})
			var foreign *ForeignError
			if !errors.As(err, &foreign) {
				t.Fatalf("apply: %v, want a ForeignError", err)
			}
			for _, want := range step.wants {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not name %q", err, want)
				}
			}
			plan, err := r.Plan(t.Context(), v2, CheckOptions{Options: quick()})
			if err != nil {
				t.Fatal(err)
			}
			if preflight.RefuseFindings(plan.Findings) == nil {
				t.Errorf("plan has no error: %v", plan.Findings)
			}
			for _, want := range step.wants {
				if !strings.Contains(fmt.Sprint(plan.Findings), want) {
					t.Errorf("findings %v do not name %q", plan.Findings, want)
				}
			}
			if history, err := r.History(t.Context(), "edge"); err != nil || history[0].Version != "1.0.0" {
				t.Errorf("history %+v, error %v: a refused apply was recorded", history, err)
			}
			r.wantSameObject(gadgets, r.namespace, "mine", user.GetUID())
			r.wantSameObject(claimsGVR, space, "volume", claim.GetUID())
		})
	}

	t.Log("with DeleteForeign it is a warning, and is deleted")
	v2 := Runtime{Name: "edge", Version: "2.0.0", Digest: "sha256:2", Units: []Unit{v1.Units[2]}}
	plan, err := r.Plan(t.Context(), v2, CheckOptions{Options: quick(), DeleteForeign: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := preflight.RefuseFindings(plan.Findings); err != nil || !strings.Contains(fmt.Sprint(plan.Findings), "PersistentVolumeClaim volume") {
		t.Errorf("plan with DeleteForeign: %v, findings %v", err, plan.Findings)
	}
	if _, err := r.Apply(t.Context(), v2, ApplyOptions{Options: quick(), DeleteForeign: true}); err != nil {
		t.Fatal(err)
	}
	if r.getObject(namespacesGVR, "", space) != nil || r.getObject(crds, "", "gadgets.upgrade.example") != nil {
		t.Error("DeleteForeign has not deleted")
	}
}

// TestKeptResources: what says that it is to be kept stays, in an upgrade and a delete, and is
// not lost with its namespace.
func TestKeptResources(t *testing.T) {
	r := newRig(t)
	kept := func(name, annotation string) string {
		return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, annotations: {%s}}\ndata: {key: a}", name, annotation)
	}
	helm, orphan := `helm.sh/resource-policy: keep`, `kapp.k14s.io/delete-strategy: orphan`
	space := r.namespace + "-kept"
	rt := Runtime{Name: "edge", Version: "1", Units: []Unit{
		unit(1, "one", "1", kept("helm", helm), kept("orphan", orphan), configMap("gone", "1")),
		unit(2, "two", "1", kept("helm2", helm), configMap("gone2", "1")),
		unit(3, "three", "1", configMap("three", "1")),
	}}
	r.apply(rt)

	next := Runtime{Name: "edge", Version: "2", Units: []Unit{unit(1, "one", "2", configMap("new", "1")), rt.Units[2]}}
	plan, err := r.Plan(t.Context(), next, CheckOptions{Options: quick()})
	if err != nil {
		t.Fatal(err)
	}
	if got := planned(plan); got != "change one: create 1, delete 1, release 2; keep three: no changes; remove two: delete 1, release 1" {
		t.Errorf("plan: %s", got)
	}
	r.apply(next)
	for _, name := range []string{"helm", "orphan", "helm2"} {
		if !r.exists(configMaps, name) {
			t.Errorf("ConfigMap %s was deleted", name)
		}
	}
	for _, name := range []string{"gone", "gone2"} {
		if r.exists(configMaps, name) {
			t.Errorf("ConfigMap %s was not deleted", name)
		}
	}
	if _, err := r.Delete(t.Context(), "edge", DeleteOptions{Options: quick()}); err != nil {
		t.Fatal(err)
	}

	t.Log("in a namespace that is deleted")
	inside := strings.Replace(kept("inside", helm), "name: inside", "name: inside, namespace: "+space, 1)
	rt = Runtime{Name: "edge", Version: "1", Units: []Unit{unit(1, "one", "1", namespaceManifest(space), inside)}}
	r.apply(rt)
	_, err = r.Delete(t.Context(), "edge", DeleteOptions{Options: quick()})
	if err == nil || !strings.Contains(err.Error(), "ConfigMap inside") {
		t.Errorf("delete: %v, want an error that names the kept ConfigMap", err)
	}
	r.uidOf(configMaps, space, "inside")
	if _, err := r.Delete(t.Context(), "edge", DeleteOptions{Options: quick(), DeleteForeign: true}); err != nil {
		t.Fatal(err)
	}
}

// TestDeleteKeepsClaims: claims that a StatefulSet's template made hold data, and no manifest
// has them.
func TestDeleteKeepsClaims(t *testing.T) {
	r := newRig(t)
	space := r.namespace + "-db"
	rt := Runtime{Name: "edge", Version: "1", Units: []Unit{unit(1, "db", "1", namespaceManifest(space), fmt.Sprintf(`apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: %s, annotations: {kapp.k14s.io/disable-wait: ""}}
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: db, image: registry.example/db:1}]}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}`, space))}}
	r.apply(rt)
	r.eventually("the claim is there", func() error {
		if r.getObject(claimsGVR, space, "data-db-0") == nil {
			return errors.New("no claim")
		}
		return nil
	})
	_, err := r.Delete(t.Context(), "edge", DeleteOptions{Options: quick()})
	if err == nil || !strings.Contains(err.Error(), "PersistentVolumeClaim data-db-0") {
		t.Errorf("delete: %v, want an error that names the claim", err)
	}
	r.uidOf(claimsGVR, space, "data-db-0")
	if _, err := r.Delete(t.Context(), "edge", DeleteOptions{Options: quick(), DeleteForeign: true}); err != nil {
		t.Fatal(err)
	}
}

// TestOwnershipIsHandedOver: what moves to another bundle of the new version is never deleted,
// in whatever layer that is.
func TestOwnershipIsHandedOver(t *testing.T) {
	r := newRig(t)
	space := r.namespace + "-moved"
	gadgets := schema.GroupVersionResource{Group: "moved.example", Version: "v1", Resource: "gadgets"}
	inSpace := func(manifest string) string {
		return strings.Replace(manifest, "metadata: {name: web}", "metadata: {name: web, namespace: "+space+"}", 1)
	}
	moving := []string{
		namespaceManifest(space), claimManifest("volume", space), crd("gadgets", "Gadget", gadgets.Group), inSpace(deployment("web", "")),
		fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: %s}\nspec: {selector: {app: web}, ports: [{port: 80}]}", space),
	}
	v1 := Runtime{Name: "edge", Version: "1", Units: []Unit{
		unit(1, "low", "1", append(slices.Clone(moving), configMap("low", "1"))...),
		unit(3, "high", "1", configMap("high", "1")),
	}}
	r.apply(v1)
	r.createObject(gadgets, r.namespace, "apiVersion: moved.example/v1\nkind: Gadget\nmetadata: {name: mine}")
	type object struct {
		gvr             schema.GroupVersionResource
		namespace, name string
	}
	objects := []object{
		{namespacesGVR, "", space}, {claimsGVR, space, "volume"}, {crds, "", "gadgets.moved.example"}, {deployments, space, "web"},
		{services, space, "web"}, {gadgets, r.namespace, "mine"},
	}
	uids := map[object]types.UID{}
	for _, o := range objects {
		uids[o] = r.uidOf(o.gvr, o.namespace, o.name)
	}
	steps := []struct {
		name  string
		units []Unit
	}{
		{"to a higher layer", []Unit{unit(1, "low", "2", configMap("low", "1")), unit(3, "high", "2", append(slices.Clone(moving), configMap("high", "1"))...)}},
		{"back to a lower layer", v1.Units},
		{"to a bundle of another name", []Unit{unit(1, "renamed", "1", append(slices.Clone(moving), configMap("low", "1"))...), v1.Units[1]}},
		{"to a new bundle of a higher layer", []Unit{v1.Units[1], unit(5, "top", "1", append(slices.Clone(moving), configMap("low", "1"))...)}},
	}
	for i, step := range steps {
		t.Run(step.name, func(t *testing.T) {
			next := Runtime{Name: "edge", Version: fmt.Sprint(i + 2), Units: step.units}
			plan, err := r.Plan(t.Context(), next, CheckOptions{Options: quick()})
			if err != nil {
				t.Fatal(err)
			}
			if n := plan.CountChanges().Delete; n > 0 || preflight.RefuseFindings(plan.Findings) != nil {
				t.Errorf("plan deletes %d: %s; findings %v", n, planned(plan), plan.Findings)
			}
			if _, err := r.Apply(t.Context(), next, ApplyOptions{Options: quick()}); err != nil {
				t.Fatalf("apply: %v", err)
			}
			for _, o := range objects {
				r.wantSameObject(o.gvr, o.namespace, o.name, uids[o])
			}
			again, err := r.Plan(t.Context(), next, CheckOptions{Options: quick()})
			if err != nil || again.HasChanges() {
				t.Errorf("plan of the same again: %s, error %v", planned(again), err)
			}
		})
	}
	if _, err := r.Delete(t.Context(), "edge", DeleteOptions{Options: quick(), DeleteForeign: true}); err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		if o.gvr != gadgets && r.getObject(o.gvr, o.namespace, o.name) != nil {
			t.Errorf("%s %s was left behind by delete", o.gvr.Resource, o.name)
		}
	}
}
