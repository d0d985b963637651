package deploy

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"k8s.io/klog/v2"

	"krtpkg.dev/krtpkg/internal/clustertest"
)

// TestMain watches that nothing is logged behind the caller's back: client-go does it with
// klog, which writes on standard error by default.
func TestMain(m *testing.M) {
	var logged bytes.Buffer
	klog.LogToStderr(false)
	klog.SetOutput(&logged)
	code := clustertest.Main(m)
	if klog.Flush(); logged.Len() > 0 {
		fmt.Fprintf(os.Stderr, "this was logged:\n%s", &logged)
		code = max(code, 1)
	}
	os.Exit(code)
}

// rig is a cluster for one test, with a namespace of its own.
type rig struct {
	*Cluster
	t            testing.TB
	controlPlane *clustertest.Cluster
	kubeconfig   string
	dynamic      dynamic.Interface
}

// rigNamespaces holds the namespaces of all rigs. Controllers go on working in those of tests that
// have ended: an autoscaler may add a pod at any time.
var rigNamespaces sync.Map

// newRig has the test run in parallel with others.
func newRig(t *testing.T) *rig {
	t.Helper()
	reserved := clustertest.Reserve(t)
	name := strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-"))
	c, err := Connect(Config{Kubeconfig: reserved.Kubeconfig, Namespace: name})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{Cluster: c, t: t, controlPlane: reserved, kubeconfig: reserved.Kubeconfig, dynamic: dynamic.NewForConfigOrDie(c.config)}
	rigNamespaces.Store(name, true)
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if _, err := c.client.CoreV1().Namespaces().Create(t.Context(), namespace, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	r.eventually("the namespace has what controllers put there", func() error {
		_, err := c.client.CoreV1().ServiceAccounts(name).Get(t.Context(), "default", metav1.GetOptions{})
		if err != nil {
			return err
		}
		_, err = c.client.CoreV1().ConfigMaps(name).Get(t.Context(), "kube-root-ca.crt", metav1.GetOptions{})
		return err
	})
	return r
}

func (r *rig) eventually(what string, done func() error) {
	r.t.Helper()
	var err error
	for began := time.Now(); time.Since(began) < 30*time.Second; time.Sleep(50 * time.Millisecond) {
		if err = done(); err == nil {
			return
		}
	}
	r.t.Fatalf("waited for this: %s; but: %v", what, err)
}

// objects returns all objects of the cluster, with their resource versions, except those that
// come and go by themselves and those in the namespaces of other tests.
func (r *rig) objects() map[string]string {
	r.t.Helper()
	names, err := metadata.NewForConfig(r.config)
	if err != nil {
		r.t.Fatal(err)
	}
	all, err := clustertest.ListObjects(r.t.Context(), r.client.Discovery(), names, func(_ string, resource metav1.APIResource) bool {
		return slices.Contains([]string{"events", "leases", "nodes", "componentstatuses", "ipaddresses", "endpoints"}, resource.Name)
	})
	if err != nil {
		r.t.Fatal(err)
	}
	found := map[string]string{}
	for o, m := range all {
		if _, ok := rigNamespaces.Load(o.Namespace); !ok || o.Namespace == r.namespace {
			found[o.String()] = m.ResourceVersion
		}
	}
	return found
}

// wantBack waits until the cluster holds the objects that it held before, and no more.
func (r *rig) wantBack(before map[string]string) {
	r.t.Helper()
	r.eventually("the cluster is as before", func() error {
		now := r.objects()
		maps.DeleteFunc(now, func(key, _ string) bool { _, ok := before[key]; return ok })
		if len(now) > 0 {
			return fmt.Errorf("left behind: %v", slices.Sorted(maps.Keys(now)))
		}
		return nil
	})
}

func (r *rig) exists(gvr schema.GroupVersionResource, name string) bool {
	r.t.Helper()
	_, err := r.dynamic.Resource(gvr).Namespace(r.namespace).Get(r.t.Context(), name, metav1.GetOptions{})
	return err == nil
}

func (r *rig) apply(rt Runtime) *Report {
	r.t.Helper()
	report, err := r.Apply(r.t.Context(), rt, ApplyOptions{Options: quick()})
	if err != nil {
		r.t.Fatalf("apply: %v", err)
	}
	return report
}

func (r *rig) list(name string) []string {
	r.t.Helper()
	all, err := r.List(r.t.Context(), name)
	if err != nil {
		r.t.Fatal(err)
	}
	var lines []string
	for _, i := range all {
		state := "complete"
		if !i.Complete {
			state = "incomplete"
		}
		lines = append(lines, fmt.Sprintf("%d %s %s %s", i.Layer, i.App, cmp.Or(i.Version, "-"), state))
	}
	return lines
}

func quick() Options {
	return Options{PollInterval: 50 * time.Millisecond, WaitTimeout: 30 * time.Second}
}

var (
	configMaps  = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	deployments = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
)

// unit returns a bundle of one file.
func unit(layer int, bundle, version string, docs ...string) Unit {
	return Unit{
		Bundle: bundle, Version: version, Layer: layer, Digest: "sha256:" + strings.Repeat("a", 64),
		Manifests: fstest.MapFS{"config/all.yaml": {Data: []byte(strings.Join(docs, "\n---\n"))}},
	}
}

func configMap(name, value string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\ndata: {key: %q}", name, value)
}

func crd(plural, kind, group string) string {
	return fmt.Sprintf(`apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: %[1]s.%[3]s}
spec:
  group: %[3]s
  scope: Namespaced
  names: {plural: %[1]s, kind: %[2]s}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}`, plural, kind, group)
}

// deployment is ready as soon as KWOK sees its pods; where selects nodes.
func deployment(name, where string) string {
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  replicas: 2
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      nodeSelector: {%[2]s}
      containers: [{name: main, image: registry.example/app:1}]`, name, where)
}

func TestLife(t *testing.T) {
	r := newRig(t)
	before := r.objects()
	v1 := Runtime{Name: "edge", Version: "1.0.0", Digest: "sha256:1", Units: []Unit{
		unit(1, "crds", "1.0.0", crd("gadgets", "Gadget", "life.example")),
		unit(3, "old", "0.1.0", configMap("old", "old")),
		unit(4, "app", "2.0.0",
			"apiVersion: life.example/v1\nkind: Gadget\nmetadata: {name: one}",
			configMap("settings", "1"),
			deployment("web", "")),
	}}

	t.Log("install")
	report := r.apply(v1)
	if got, want := outcomes(report.Applied), []string{"crds: create 1", "old: create 1", "app: create 3"}; !slices.Equal(got, want) {
		t.Errorf("applied %q, want %q", got, want)
	}
	web, err := r.client.AppsV1().Deployments(r.namespace).Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil || web.Status.AvailableReplicas != 2 {
		t.Errorf("kapp did not wait: %v, error %v", web.Status, err)
	}
	want := []string{"1 edge.crds 1.0.0 complete", "3 edge.old 0.1.0 complete", "4 edge.app 2.0.0 complete"}
	if got := r.list("edge"); !slices.Equal(got, want) {
		t.Errorf("list %q, want %q", got, want)
	}

	t.Log("again")
	installed := r.objects()
	report = r.apply(v1)
	if got, want := outcomes(report.Applied), []string{"crds: no changes", "old: no changes", "app: no changes"}; !slices.Equal(got, want) {
		t.Errorf("applied again: %q, want %q", got, want)
	}
	for key, version := range r.objects() {
		if installed[key] != version {
			t.Errorf("%s was written by an apply without changes", key)
		}
	}

	t.Log("upgrade: one comes first, so that others move, one changes, one leaves")
	v2 := Runtime{Name: "edge", Version: "2.0.0", Digest: "sha256:2", Units: []Unit{
		unit(0, "base", "1.0.0", configMap("base", "base")),
		v1.Units[0],
		unit(4, "app", "2.1.0",
			"apiVersion: life.example/v1\nkind: Gadget\nmetadata: {name: one}",
			configMap("settings", "2"),
			deployment("web", "")),
	}}
	report = r.apply(v2)
	if got, want := outcomes(report.Applied), []string{"base: create 1", "crds: no changes", "app: update 1"}; !slices.Equal(got, want) {
		t.Errorf("upgraded %q, want %q", got, want)
	}
	if got, want := outcomes(report.Deleted), []string{"old: delete 1"}; !slices.Equal(got, want) {
		t.Errorf("deleted %q, want %q", got, want)
	}
	want = []string{"0 edge.base 1.0.0 complete", "1 edge.crds 1.0.0 complete", "4 edge.app 2.1.0 complete"}
	if got := r.list(""); !slices.Equal(got, want) {
		t.Errorf("list %q, want %q", got, want)
	}
	all, _ := r.List(t.Context(), "edge")
	if all[1].RuntimeVersion != "2.0.0" || all[1].RuntimeDigest != "sha256:2" || all[1].Digest != v1.Units[0].Digest {
		t.Errorf("recorded of a bundle that did not change: %+v", all[1])
	}
	if r.exists(configMaps, "old") {
		t.Error("the resources of a bundle that left are still there")
	}

	t.Log("delete")
	var order []string
	report, err = r.Delete(t.Context(), "edge", DeleteOptions{Options: Options{
		PollInterval: 50 * time.Millisecond,
		OnEvent: func(e Event) {
			if e.Message != (Message{}) {
				return
			}
			t.Log(e.Phase, e.Bundle, e.Elapsed)
			order = append(order, string(e.Phase)+" "+e.Bundle)
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	want = []string{"deleting app", "deleted app", "deleting crds", "deleted crds", "deleting base", "deleted base"}
	if !slices.Equal(order, want) || len(report.Deleted) != 3 {
		t.Errorf("events %q, want %q; report %+v", order, want, report.Deleted)
	}
	r.wantBack(before)

	if _, err := r.Delete(t.Context(), "edge", DeleteOptions{}); !errors.Is(err, ErrNotInstalled) {
		t.Errorf("delete of nothing: %v", err)
	}
}

func outcomes(all []Outcome) []string {
	var lines []string
	for _, o := range all {
		lines = append(lines, fmt.Sprintf("%s: %v", o.Bundle, Changes{Create: o.Changes.Create, Update: o.Changes.Update, Delete: o.Changes.Delete}))
	}
	return lines
}

func TestConfirm(t *testing.T) {
	r := newRig(t)
	before := r.objects()
	rt := Runtime{Name: "edge", Version: "1.0.0", Units: []Unit{
		unit(1, "one", "1.0.0", configMap("one", "1"), "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {password: opensesame}"),
		unit(2, "crds", "1.0.0", crd("plans", "Planned", "confirm.example")),
		unit(3, "two", "", "apiVersion: confirm.example/v1\nkind: Planned\nmetadata: {name: first}", configMap("two", "1")),
	}}
	var asked []*Plan
	answer := false
	options := ApplyOptions{Options: quick(), Confirm: func(_ context.Context, p *Plan) (bool, error) {
		asked = append(asked, p)
		return answer, nil
	}}

	if _, err := r.Apply(t.Context(), rt, options); !errors.Is(err, ErrNotConfirmed) {
		t.Errorf("refused apply: %v", err)
	}
	if now := r.objects(); !maps.Equal(now, before) {
		t.Errorf("refused apply left the cluster as %v, want %v", now, before)
	}
	if len(asked) != 1 || planned(asked[0]) != "install one: create 2; install crds: create 1; install two: create 2" {
		t.Errorf("asked %d times, last: %s", len(asked), planned(asked[0]))
	}
	secret := asked[0].Bundles[0].Changes[1]
	if secret.Kind != "Secret" || !strings.Contains(secret.Diff, "<-- value not shown") || strings.Contains(secret.Diff, "opensesame") {
		t.Errorf("plan of a secret: %+v", secret)
	}
	if d := asked[0].Bundles[0].Changes[0].Diff; !strings.Contains(d, `+   key: "1"`) {
		t.Errorf("diff of a config map:\n%s", d)
	}

	answer = true
	if _, err := r.Apply(t.Context(), rt, options); err != nil {
		t.Fatal(err)
	}
	asked = nil
	if _, err := r.Apply(t.Context(), rt, options); err != nil || asked != nil {
		t.Errorf("apply without changes asked %v, error %v", asked, err)
	}
	rt.Units = []Unit{rt.Units[0], unit(2, "three", "", configMap("two", "2"))}
	if _, err := r.Apply(t.Context(), rt, options); err != nil {
		t.Errorf("a resource that moves to another bundle of the runtime: %v", err)
	}
	if got := planned(asked[0]); got != "keep one: no changes; install three: update 1; remove two: delete 1; remove crds: delete 1" {
		t.Errorf("plan of an upgrade: %s", got)
	}
	if !r.exists(configMaps, "two") {
		t.Error("a resource that moved to another bundle was deleted with the one that had it")
	}

	answer, asked = false, nil
	deletion := DeleteOptions{Options: quick(), Confirm: options.Confirm}
	if _, err := r.Delete(t.Context(), "edge", deletion); !errors.Is(err, ErrNotConfirmed) {
		t.Errorf("refused delete: %v", err)
	}
	if !r.exists(configMaps, "one") || !r.exists(configMaps, "two") {
		t.Error("refused delete has deleted")
	}
	answer, deletion.WithoutDiffs = true, true
	if _, err := r.Delete(t.Context(), "edge", deletion); err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{true, false} {
		if got := asked[i].Bundles[0].Changes[0].Diff != ""; got != want {
			t.Errorf("plan %d of a delete has diffs: %t, want %t", i, got, want)
		}
	}
	r.wantBack(before)
	if got := planned(asked[1]); len(asked) != 2 || got != "remove three: delete 1; remove one: delete 2" {
		t.Errorf("plan of a delete: %s", got)
	}
}

func planned(p *Plan) string {
	var lines []string
	for _, b := range p.Bundles {
		lines = append(lines, fmt.Sprintf("%s %s: %v", b.Action, b.Bundle, CountChanges(b.Changes)))
	}
	return strings.Join(lines, "; ")
}

// TestInterrupt ends an apply while kapp waits; what holds it up goes away, and the next
// apply completes.
func TestInterrupt(t *testing.T) {
	r := newRig(t)
	rt := Runtime{Name: "edge", Units: []Unit{
		unit(1, "first", "1.0.0", configMap("first", "1")),
		unit(2, "second", "1.0.0", configMap("second", "1"), deployment("stuck", "interrupt-test: here")),
		unit(3, "third", "1.0.0", configMap("third", "1")),
	}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	options := quick()
	var ended time.Time
	options.OnEvent = func(e Event) {
		t.Log(e.Phase, e.Bundle, e.Elapsed)
		if e.Bundle == "second" && e.Phase == Applying && e.Message == (Message{}) {
			time.AfterFunc(1500*time.Millisecond, func() { ended = time.Now(); cancel() })
		}
	}
	report, err := r.Apply(ctx, rt, ApplyOptions{Options: options})
	took := time.Since(ended)
	var at *Error
	if !errors.Is(err, context.Canceled) || !errors.As(err, &at) || at.Bundle != "second" {
		t.Fatalf("interrupted apply: %v", err)
	}
	if took > 200*time.Millisecond {
		t.Errorf("apply returned %s after the interrupt", took)
	}
	if len(report.Applied) != 1 || report.Applied[0].Bundle != "first" {
		t.Errorf("report %+v", report)
	}
	if got, want := r.list("edge"), []string{"1 edge.first 1.0.0 complete", "2 edge.second - incomplete"}; !slices.Equal(got, want) {
		t.Errorf("list %q, want %q", got, want)
	}

	nodes, err := r.client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.client.CoreV1().Nodes().Patch(t.Context(), nodes.Items[0].Name, types.MergePatchType,
		[]byte(`{"metadata": {"labels": {"interrupt-test": "here"}}}`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r.apply(rt)
	for _, line := range r.list("edge") {
		if !strings.HasSuffix(line, " 1.0.0 complete") {
			t.Errorf("after the next apply: %s", line)
		}
	}
}
