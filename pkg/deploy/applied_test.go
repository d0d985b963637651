package deploy

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"krtpkg.dev/krtpkg/pkg/deploy/marks"
	"krtpkg.dev/krtpkg/pkg/deploy/merge"
	"krtpkg.dev/krtpkg/pkg/deploy/preflight"
)

// patchObject changes an object as a user does.
func (r *rig) patchObject(gvr schema.GroupVersionResource, name, body string) {
	r.t.Helper()
	_, err := r.dynamic.Resource(gvr).Namespace(r.namespace).Patch(r.t.Context(), name, types.MergePatchType, []byte(body), metav1.PatchOptions{FieldManager: "kubectl-edit"})
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) drift() []ResourceChange {
	r.t.Helper()
	status, err := r.Status(context.Background(), "edge", quick())
	if err != nil {
		r.t.Fatal(err)
	}
	return status[0].Bundles[0].Drift
}

// wantNoChanges fails unless an apply of the same again changes nothing.
func (r *rig) wantNoChanges(rt Runtime) {
	r.t.Helper()
	plan, err := r.Plan(r.t.Context(), rt, CheckOptions{Options: quick()})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, b := range plan.Bundles {
		for _, c := range b.Changes {
			r.t.Errorf("applied again, it would %s %s:\n%s", c.Op, c.ResourceID, c.Diff)
		}
	}
}

// TestSecretsAreNotRecorded: what was applied of a Secret is nowhere in clear, and all the same
// known: a change by hand is drift, and a key that the manifest drops goes.
func TestSecretsAreNotRecorded(t *testing.T) {
	r := newRig(t)
	encoded := base64.StdEncoding.EncodeToString([]byte("opensesame-data"))
	secret := "apiVersion: v1\nkind: Secret\nmetadata: {name: login}\nstringData: {password: opensesame-text, user: me}\ndata: {key: " + encoded + ", none: null}"
	nothing := "apiVersion: v1\nkind: Secret\nmetadata: {name: nothing, annotations: null}\ndata: {none: null}"
	rt := Runtime{Name: "edge", Version: "1", Units: []Unit{unit(1, "app", "1", secret, nothing)}}
	r.apply(rt)
	live := r.getObject(secrets, r.namespace, "login")
	for key, value := range live.GetAnnotations() {
		text := value
		if key == marks.Applied {
			text = fmt.Sprint(merge.AppliedManifest(live.Object))
		}
		for _, clear := range []string{"opensesame", encoded, base64.StdEncoding.EncodeToString([]byte("opensesame-text"))} {
			if strings.Contains(text, clear) {
				t.Errorf("annotation %s holds %q: %s", key, clear, text)
			}
		}
	}
	r.wantNoChanges(rt)
	if drift := r.drift(); len(drift) > 0 {
		t.Errorf("drift of what was just applied: %+v", drift)
	}
	r.patchObject(secrets, "login", `{"data": {"user": "eW91", "mine": "eA=="}}`)
	if drift := r.drift(); len(drift) != 1 || drift[0].Kind != "Secret" || strings.Contains(drift[0].Diff, "eW91") {
		t.Errorf("drift after a change by hand: %+v", drift)
	}
	rt = Runtime{Name: "edge", Version: "2", Units: []Unit{unit(1, "app", "2", strings.Replace(secret, "password: opensesame-text, ", "", 1), nothing)}}
	r.apply(rt)
	data := fmt.Sprint(r.getObject(secrets, r.namespace, "login").Object["data"])
	if strings.Contains(data, "password") || !strings.Contains(data, "user:bWU=") || !strings.Contains(data, "mine:eA==") {
		t.Errorf("data after the manifest drops a key, and a user added one: %s", data)
	}
	r.wantNoChanges(rt)
}

// TestLargeObjects: there is no room in annotations for what was applied of these.
func TestLargeObjects(t *testing.T) {
	r := newRig(t)
	large := func(keys ...string) string {
		text := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: large}\ndata:\n"
		for _, key := range keys {
			text += fmt.Sprintf("  %s: %s\n", key, strings.Repeat(key, 140<<10))
		}
		return text
	}
	annotated := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: annotated, annotations: {big: " + strings.Repeat("x", 200<<10) + "}}\ndata: {key: a}"
	definition := strings.Replace(crd("larges", "Large", "large.example"), "type: object,", "type: object, description: "+strings.Repeat("d", 300<<10)+",", 1)
	rt := Runtime{Name: "edge", Version: "1", Units: []Unit{unit(1, "app", "1", large("a", "b"), annotated, definition)}}
	r.apply(rt)
	r.wantNoChanges(rt)
	if drift := r.drift(); len(drift) > 0 {
		t.Errorf("drift of what was just applied: %+v", drift)
	}
	r.patchObject(configMaps, "large", `{"data": {"b": "short", "mine": "x"}}`)
	if drift := r.drift(); len(drift) != 1 || drift[0].Name != "large" {
		t.Errorf("drift after a change by hand: %d", len(drift))
	}
	rt.Units = []Unit{unit(1, "app", "2", large("a"), strings.Replace(annotated, "key: a", "other: a", 1), definition)}
	r.apply(rt)
	data, _ := r.getObject(configMaps, r.namespace, "large").Object["data"].(map[string]any)
	if data["a"] == nil || data["mine"] != "x" || len(data) != 2 && data["b"] != "short" {
		t.Errorf("%d keys after the manifest drops one, and a user added one", len(data))
	}
	if data := r.getObject(configMaps, r.namespace, "annotated").Object["data"].(map[string]any); data["key"] != nil || data["other"] == nil {
		t.Errorf("data is %v", data)
	}
	r.wantNoChanges(rt)
}

// TestJobsAreReplaced: a pod template of a Job is immutable; plan says what is done about it.
func TestJobsAreReplaced(t *testing.T) {
	r := newRig(t)
	job := func(image string) string {
		return "apiVersion: batch/v1\nkind: Job\nmetadata: {name: migrate, annotations: {kapp.k14s.io/disable-wait: ''}}\nspec: {template: {spec: {restartPolicy: Never, containers: [{name: main, image: " + image + "}]}}}"
	}
	rt := Runtime{Name: "edge", Version: "1", Units: []Unit{unit(1, "app", "1", job("registry.example/app:1"))}}
	r.apply(rt)
	r.wantNoChanges(rt)
	first := r.uidOf(jobs, r.namespace, "migrate")
	rt = Runtime{Name: "edge", Version: "2", Units: []Unit{unit(1, "app", "2", job("registry.example/app:2"))}}
	plan, err := r.Plan(t.Context(), rt, CheckOptions{Options: quick()})
	if err != nil || preflight.RefuseFindings(plan.Findings) != nil || len(plan.Bundles[0].Changes) != 1 || !plan.Bundles[0].Changes[0].Replace {
		t.Errorf("plan %+v, error %v", plan, err)
	}
	r.apply(rt)
	if r.uidOf(jobs, r.namespace, "migrate") == first {
		t.Error("the job is the same as before")
	}
	r.wantNoChanges(rt)
}
