package deploy

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

const autoscaled = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web, annotations: {deployment.kubernetes.io/revision: "1"}} # as kubectl get prints it
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: main
        image: registry.example/app:%s
        env: [{name: MODE, value: "%[2]s"}]`

// TestClusterOwnedFieldsAreKept: what an autoscaler, the API server or an injector has set, and
// the manifest does not, stays as it is, and a diff shows only what the manifest changes.
func TestClusterOwnedFieldsAreKept(t *testing.T) {
	r := newRig(t)
	runtime := func(version, mode string) Runtime {
		return Runtime{Name: "edge", Version: version, Units: []Unit{unit(1, "app", version,
			fmt.Sprintf(autoscaled, version, mode),
			"apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {type: NodePort, selector: {app: web}, ports: [{name: http, port: 80}]}")}}
	}
	r.apply(runtime("1", "a"))
	ports := func() string {
		return fmt.Sprint(r.getObject(services, r.namespace, "web").Object["spec"].(map[string]any)["ports"])
	}
	before := ports()

	t.Log("an autoscaler scales, an injector adds a container, a user restarts and annotates")
	patch := func(subresource, manager, body string) {
		t.Helper()
		var subresources []string
		if subresource != "" {
			subresources = []string{subresource}
		}
		if _, err := r.dynamic.Resource(deployments).Namespace(r.namespace).Patch(t.Context(), "web", types.StrategicMergePatchType,
			[]byte(body), metav1.PatchOptions{FieldManager: manager}, subresources...); err != nil {
			t.Fatal(err)
		}
	}
	patch("scale", "horizontal-pod-autoscaler", `{"spec": {"replicas": 3}}`)
	patch("", "injector", `{"spec": {"template": {"spec": {"containers": [{"name": "proxy", "image": "registry.example/proxy:1"}]}}}}`)
	patch("", "kubectl-rollout", `{"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}}}}`)
	patch("", "kubectl-annotate", `{"metadata": {"annotations": {"team.example/owner": "me"}, "labels": {"team.example/owner": "me"}, "finalizers": ["team.example/hold"]}}`)

	patch("", "deployment-controller", `{"metadata": {"annotations": {"deployment.kubernetes.io/revision": "5"}}}`)

	plan, err := r.Plan(t.Context(), runtime("1", "a"), CheckOptions{Options: quick()})
	if err != nil || plan.HasChanges() {
		t.Errorf("plan of the same: %s, error %v", planned(plan), err)
		for _, c := range plan.Bundles[0].Changes {
			t.Logf("%s\n%s", c.ResourceID, c.Diff)
		}
	}
	status, err := r.Status(t.Context(), "edge", quick())
	if err != nil || status[0].HasDrifted() {
		t.Errorf("status: %+v, error %v: what the manifest does not set is no drift", status[0].Bundles[0].Drift, err)
	}

	plan, err = r.Plan(t.Context(), runtime("2", "b"), CheckOptions{Options: quick()})
	if err != nil || len(plan.Bundles[0].Changes) != 1 {
		t.Fatalf("plan of a change: %s, error %v", planned(plan), err)
	}
	var changed []string
	for line := range strings.Lines(plan.Bundles[0].Changes[0].Diff) {
		if strings.HasPrefix(line, "+") || strings.HasPrefix(line, "-") {
			changed = append(changed, strings.TrimSpace(line[1:]))
		}
	}
	if got := strings.Join(changed, "; "); got != `value: a; value: b; image: registry.example/app:1; image: registry.example/app:2` &&
		got != `value: a; image: registry.example/app:1; value: b; image: registry.example/app:2` {
		t.Errorf("the diff shows %q", got)
	}
	r.apply(runtime("2", "b"))
	web := r.getObject(deployments, r.namespace, "web")
	replicas, _, _ := unstructured.NestedInt64(web.Object, "spec", "replicas")
	containers, _, _ := unstructured.NestedSlice(web.Object, "spec", "template", "spec", "containers")
	restarted, _, _ := unstructured.NestedString(web.Object, "spec", "template", "metadata", "annotations", "kubectl.kubernetes.io/restartedAt")
	if replicas != 3 || len(containers) != 2 || restarted != "now" || web.GetAnnotations()["team.example/owner"] != "me" ||
		web.GetLabels()["team.example/owner"] != "me" || len(web.GetFinalizers()) != 1 {
		t.Errorf("after an upgrade: %d replicas, %d containers, restarted %q, annotations %v, labels %v, finalizers %v", replicas,
			len(containers), restarted, web.GetAnnotations(), web.GetLabels(), web.GetFinalizers())
	}
	if after := ports(); after != before {
		t.Errorf("ports were %s and are %s", before, after)
	}

	t.Log("what the manifest has set, and sets no more, goes")
	v3 := runtime("3", "b")
	v3.Units[0] = unit(1, "app", "3", strings.Replace(fmt.Sprintf(autoscaled, "3", "b"), `env: [{name: MODE, value: "b"}]`, "env: [{name: OTHER, value: c}]", 1))
	r.apply(v3)
	web = r.getObject(deployments, r.namespace, "web")
	if got := fmt.Sprint(web.Object["spec"].(map[string]any)["template"].(map[string]any)["spec"]); strings.Contains(got, "MODE") || !strings.Contains(got, "OTHER") {
		t.Errorf("env after the manifest drops MODE: %s", got)
	}
	if r.exists(services, "web") {
		t.Error("the service that the manifest dropped is still there")
	}
}
