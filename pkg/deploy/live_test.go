package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"krtpkg.dev/krtpkg/pkg/deploy/apiserver"
	"krtpkg.dev/krtpkg/pkg/deploy/marks"
	"krtpkg.dev/krtpkg/pkg/deploy/preflight"
	"krtpkg.dev/krtpkg/pkg/deploy/records"
)

// dieWithLock takes the lock of a runtime as a process does that dies at once.
func (r *rig) dieWithLock(runtime string, lasts time.Duration) {
	r.t.Helper()
	now, holder, seconds := metav1.NowMicro(), "someone else", int32(lasts/time.Second)
	lease := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: records.ObjectName(runtime)},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: &seconds, AcquireTime: &now, RenewTime: &now},
	}
	leases := r.client.CoordinationV1().Leases(r.namespace)
	if err := apiserver.IgnoreNotFound(leases.Delete(r.t.Context(), lease.Name, metav1.DeleteOptions{})); err != nil {
		r.t.Fatal(err)
	}
	if _, err := leases.Create(r.t.Context(), lease, metav1.CreateOptions{}); err != nil {
		r.t.Fatal(err)
	}
}

// A holder whose clock is an hour ahead: dead it is outlived in the time that its lock lasts, alive
// it is not.
func TestClockAhead(t *testing.T) {
	r := newRig(t)
	rt := Runtime{Name: "edge", Units: []Unit{unit(1, "a", "1", configMap("a", "1"))}}
	take := func() {
		t.Helper()
		r.dieWithLock("edge", 2*time.Second)
	}
	leases := r.client.CoordinationV1().Leases(r.namespace)
	renew := func(by time.Duration) {
		lease, err := leases.Get(t.Context(), records.ObjectName("edge"), metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		ahead := metav1.NewMicroTime(time.Now().Add(by))
		lease.Spec.RenewTime, lease.Spec.AcquireTime = &ahead, &ahead
		if _, err := leases.Update(t.Context(), lease, metav1.UpdateOptions{}); err != nil && !apierrors.IsConflict(err) {
			t.Error(err)
		}
	}
	take()
	renew(time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	var alive sync.WaitGroup
	alive.Go(func() {
		for ctx.Err() == nil {
			renew(time.Hour)
			time.Sleep(300 * time.Millisecond)
		}
	})
	var locked *LockedError
	if _, err := r.Apply(t.Context(), rt, ApplyOptions{Options: quick()}); !errors.As(err, &locked) {
		t.Errorf("apply while one lives whose clock is ahead: %v", err)
	}
	cancel()
	alive.Wait()
	began := time.Now()
	r.apply(rt)
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("a dead one whose clock was ahead was outlived after %s", took)
	}
	r.deleted("edge")
}

// An older version over a newer one is told of, and over one that failed.
func TestDowngrade(t *testing.T) {
	r := newRig(t)
	rt := func(version, bundle string) Runtime {
		return Runtime{Name: "edge", Version: version, Digest: "sha256:" + version, Units: []Unit{unit(1, "a", bundle, configMap("a", bundle))}}
	}
	warnings := func(rt Runtime) string {
		t.Helper()
		plan, err := r.Plan(t.Context(), rt, CheckOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var found []string
		for _, f := range plan.Findings {
			found = append(found, f.String())
		}
		return strings.Join(found, "; ")
	}
	r.apply(rt("1.9.0", "3.0.0"))
	r.apply(rt("1.10.0", "3.1.0"))
	for version, want := range map[string]string{
		"1.10.0": "", "1.11.0-rc.1": "", "nightly": "",
		"1.10.0+1": "warning (downgrade): edge 1.10.0+1 (sha256:1.10.0+1) is another build than 1.10.0 (sha256:1.10.0), revision 2 on the cluster (complete)",
		"1.9.0":    "warning (downgrade): edge 1.9.0 (sha256:1.9.0) is older than 1.10.0 (sha256:1.10.0), revision 2 on the cluster (complete)",
	} {
		if got := warnings(rt(version, "3.1.0")); got != want {
			t.Errorf("%s: %s", version, got)
		}
	}
	rebuilt := rt("1.10.0", "3.1.0")
	rebuilt.Digest = "sha256:other"
	if got := warnings(rebuilt); got != "warning (downgrade): edge 1.10.0 (sha256:other) is another build than sha256:1.10.0, revision 2 on the cluster (complete)" {
		t.Errorf("another build: %s", got)
	}
	if got := warnings(rt("1.11.0", "3.0.0")); got != "warning (downgrade): a: 3.0.0 is older than 3.1.0 on the cluster" {
		t.Errorf("an older bundle of a newer runtime: %s", got)
	}
	failed := rt("2.0.0", "3.1.0")
	failed.Units = append(failed.Units, unit(2, "b", "1", deployment("stuck", "no-such-label: here")))
	r.failing(failed, time.Second, "stuck")
	if got := warnings(rt("1.10.0", "3.1.0")); !strings.Contains(got, "is older than 2.0.0 (sha256:2.0.0), revision 3 on the cluster (failed)") {
		t.Errorf("over one that failed: %s", got)
	}
	r.deleted("edge")
}

// Who forgets --namespace is told where it is, and leaves nothing behind.
func TestForgottenNamespace(t *testing.T) {
	r := newRig(t)
	rt := Runtime{Name: "lost", Version: "1", Units: []Unit{unit(1, "base", "1", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: "+r.namespace+"}")}}
	r.apply(rt)
	other := "forgotten"
	if _, err := r.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: other}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c, err := Connect(Config{Kubeconfig: r.kubeconfig, Namespace: other})
	if err != nil {
		t.Fatal(err)
	}
	rt.Version = "2"
	_, err = c.Apply(t.Context(), rt, ApplyOptions{Options: quick()})
	if !errors.Is(err, preflight.ErrFindings) || !strings.Contains(err.Error(), "app 'lost.base' namespace: "+r.namespace) || !strings.Contains(err.Error(), "--namespace "+r.namespace) {
		t.Errorf("apply: %v", err)
	}
	findings, err := c.Check(t.Context(), rt, CheckOptions{})
	if err != nil || len(findings) != 1 || findings[0].Severity != preflight.SeverityWarning || !strings.Contains(findings[0].Message, "lost is installed in namespace "+r.namespace) {
		t.Errorf("check: %v, %v", findings, err)
	}
	_, e1 := c.Status(t.Context(), "lost", quick())
	_, e2 := c.History(t.Context(), "lost")
	_, e3 := c.Delete(t.Context(), "lost", DeleteOptions{Options: quick()})
	for _, err := range []error{e1, e2, e3} {
		if !errors.Is(err, ErrNotInstalled) || !strings.Contains(err.Error(), "found in namespace "+r.namespace) {
			t.Errorf("%v", err)
		}
	}
	if all, err := r.client.CoreV1().ConfigMaps(other).List(t.Context(), metav1.ListOptions{LabelSelector: marks.Runtime}); err != nil || len(all.Items) > 0 {
		t.Errorf("left behind: %v, %v", all.Items, err)
	}
	r.deleted("lost")

	// A namespace that is not there.
	if c, err = Connect(Config{Kubeconfig: r.kubeconfig, Namespace: "nowhere"}); err != nil {
		t.Fatal(err)
	}
	if findings, err = c.Check(t.Context(), rt, CheckOptions{}); err != nil || preflight.RefuseFindings(findings) == nil || !strings.Contains(preflight.RefuseFindings(findings).Error(), "namespace nowhere for the records does not exist") {
		t.Errorf("check without a namespace: %v, %v", findings, err)
	}
}

// A namespace that is being deleted is found before anything is applied.
func TestTerminatingNamespace(t *testing.T) {
	r := newRig(t)
	name := "terminating-here"
	namespaces := r.client.CoreV1().Namespaces()
	if _, err := namespaces.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	held := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "held", Finalizers: []string{"live.example/held"}}}
	if _, err := r.client.CoreV1().ConfigMaps(name).Create(t.Context(), held, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := namespaces.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	rt := Runtime{Name: "edge", Units: []Unit{
		unit(1, "base", "1", configMap("base", "1")),
		unit(2, "space", "1", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: "+name+"}"),
	}}
	r.eventually("it is said what the namespace waits for", func() error {
		findings, err := r.Check(t.Context(), rt, CheckOptions{})
		if err != nil {
			return err
		}
		if err := preflight.RefuseFindings(findings); err == nil || !strings.Contains(err.Error(), "error (namespaces): space, ConfigMap a (v1) in namespace "+name+": namespace "+name+" is being deleted, since") ||
			!strings.Contains(err.Error(), "live.example/held") {
			return fmt.Errorf("found %v", err)
		}
		return nil
	})
	r.refused(rt, name)
	if _, err := r.client.CoreV1().ConfigMaps(name).Patch(t.Context(), "held", types.MergePatchType, []byte(`{"metadata": {"finalizers": null}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

// What would never become ready by itself is said while it is waited for.
func TestWaitHints(t *testing.T) {
	paused := strings.Replace(deployment("paused", ""), "spec:\n", "spec:\n  paused: true\n", 1)
	suspended := strings.Replace(passingJob("suspended", "1", 3600), "spec:\n", "spec:\n  suspend: true\n", 1)
	for name, test := range map[string]struct{ doc, hint string }{
		"Paused":       {paused, "kubectl -n testwaithints-paused rollout resume deployment/paused"},
		"Suspended":    {suspended, "is suspended (spec.suspend)"},
		"LoadBalancer": {"apiVersion: v1\nkind: Service\nmetadata: {name: lb}\nspec: {type: LoadBalancer, ports: [{port: 80}]}", "is there a load balancer provider on this cluster?"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			options := quick()
			options.WaitTimeout = hintAfter + 2*time.Second
			hinted := false
			options.OnEvent = func(e Event) { hinted = hinted || e.Waiting != nil && strings.Contains(e.Waiting.Hint, test.hint) }
			_, err := r.Apply(t.Context(), Runtime{Name: "edge", Units: []Unit{unit(1, "a", "1", test.doc)}}, ApplyOptions{Options: options})
			if err == nil || !strings.Contains(err.Error(), test.hint) || !hinted {
				t.Errorf("hinted while waiting: %t; error: %v", hinted, err)
			}
			r.deleted("edge")
		})
	}
	t.Run("NothingToWaitFor", func(t *testing.T) {
		r := newRig(t)
		began := time.Now()
		r.apply(Runtime{Name: "edge", Units: []Unit{unit(1, "a", "1", `apiVersion: batch/v1
kind: CronJob
metadata: {name: suspended}
spec:
  schedule: "0 0 * * *"
  suspend: true
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: main, image: "registry.example/app:1"}]}}}}`)}})
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("a suspended CronJob took %s", took)
		}
		r.deleted("edge")
	})
}

// A webhook that fails closed and answers for the records is named before the first write.
func TestRecordsRefused(t *testing.T) {
	r := newRig(t)
	before := r.objects()
	fail, none, path, seconds := admissionv1.Fail, admissionv1.SideEffectClassNone, "/", int32(1)
	hooks := r.client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	hook := &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: r.namespace}, Webhooks: []admissionv1.ValidatingWebhook{{
		Name: "records.gate.example", FailurePolicy: &fail, SideEffects: &none, AdmissionReviewVersions: []string{"v1"}, TimeoutSeconds: &seconds,
		ClientConfig:      admissionv1.WebhookClientConfig{Service: &admissionv1.ServiceReference{Name: "nobody", Namespace: r.namespace, Path: &path}},
		NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": r.namespace}},
		Rules: []admissionv1.RuleWithOperations{{Operations: []admissionv1.OperationType{"CREATE", "UPDATE"},
			Rule: admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}}}},
	}}}
	if _, err := hooks.Create(t.Context(), hook, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = hooks.Delete(context.Background(), r.namespace, metav1.DeleteOptions{}) })
	rt := Runtime{Name: "edge", Units: []Unit{unit(1, "web", "1", "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80}]}")}}
	r.eventually("the webhook is found", func() error {
		findings, err := r.Check(t.Context(), rt, CheckOptions{})
		if err != nil {
			return err
		}
		if err := preflight.RefuseFindings(findings); err == nil || !strings.Contains(err.Error(), "configmaps of the records cannot be written") || !strings.Contains(err.Error(), "records.gate.example") {
			return fmt.Errorf("found %v", err)
		}
		return nil
	})
	began := time.Now()
	if _, err := r.Apply(t.Context(), rt, ApplyOptions{Options: quick()}); err == nil || !strings.Contains(err.Error(), "records.gate.example") || time.Since(began) > 5*time.Second {
		t.Errorf("apply, after %s: %v", time.Since(began), err)
	}
	if err := hooks.Delete(t.Context(), r.namespace, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	r.wantBack(before)
}

// A webhook that converts one kind is down: the status of all else is known, and a change of it
// ends in time.
func TestBrokenConversion(t *testing.T) {
	r := newRig(t)
	rt := Runtime{Name: "edge", Units: []Unit{
		unit(1, "crds", "1", crd("brokens", "Broken", "live.example")),
		unit(2, "broken", "1", "apiVersion: live.example/v1\nkind: Broken\nmetadata: {name: a}", configMap("beside", "1")),
		unit(3, "fine", "1", configMap("fine", "1")),
	}}
	r.apply(rt)
	definitions := r.dynamic.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	open := `{"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}`
	patch := `{"spec": {"versions": [{"name": "v1", "served": true, "storage": false, "schema": ` + open + `}, {"name": "v2", "served": true, "storage": true, "schema": ` + open + `}],
		"conversion": {"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"], "clientConfig": {"service": {"name": "nobody", "namespace": "` + r.namespace + `", "path": "/"}}}}}}`
	if _, err := definitions.Patch(t.Context(), "brokens.live.example", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	brokens := r.dynamic.Resource(schema.GroupVersionResource{Group: "live.example", Version: "v2", Resource: "brokens"})
	r.eventually("the webhook is called", func() error {
		if _, err := brokens.Namespace(r.namespace).List(t.Context(), metav1.ListOptions{}); err == nil || apierrors.IsNotFound(err) {
			return fmt.Errorf("listed: %v", err)
		}
		_, lists, err := r.client.Discovery().ServerGroupsAndResources()
		if !slices.ContainsFunc(lists, func(l *metav1.APIResourceList) bool { return l.GroupVersion == "live.example/v2" }) {
			return fmt.Errorf("v2 is not served yet: %v", err)
		}
		return nil
	})
	all, err := r.Status(t.Context(), "edge", quick())
	if err != nil {
		t.Fatal(err)
	}
	bundles := map[string]BundleStatus{}
	for _, b := range all[0].Bundles {
		bundles[b.Bundle] = b
	}
	if b := bundles["broken"]; b.Health != Unknown || len(b.Unready) != 1 || b.Unready[0].Kind != "Broken" || !strings.Contains(b.Unready[0].Reason, "the conversion webhook of brokens.live.example, service "+r.namespace+"/nobody, may be down") {
		t.Errorf("what cannot be read: %+v", b)
	}
	if all[0].Health() != Unknown || bundles["fine"].Health != Healthy || bundles["crds"].Health != Healthy {
		t.Errorf("status %s: %+v", all[0].Health(), bundles)
	}
	options := quick()
	options.WaitTimeout = 2 * time.Second
	rt.Units[1] = unit(2, "broken", "2", "apiVersion: live.example/v1\nkind: Broken\nmetadata: {name: a}\nspec: {new: true}", configMap("beside", "2"))
	began := time.Now()
	if _, err := r.Apply(t.Context(), rt, ApplyOptions{Options: options}); err == nil || time.Since(began) > 30*time.Second {
		t.Errorf("apply, after %s: %v", time.Since(began), err)
	}
	if _, err := definitions.Patch(t.Context(), "brokens.live.example", types.MergePatchType, []byte(`{"spec": {"conversion": {"strategy": "None", "webhook": null}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	r.eventually("it converts again", func() error {
		_, err := brokens.Namespace(r.namespace).List(t.Context(), metav1.ListOptions{})
		return err
	})
	r.deleted("edge")
}

// What kapp waits for without an end, a replacement that does not go, ends with the time to wait.
func TestWatchdog(t *testing.T) {
	r := newRig(t)
	rt := Runtime{Name: "edge", Units: []Unit{unit(1, "a", "1", configMap("a", "1"))}}
	r.apply(rt)
	if _, err := r.client.CoreV1().ConfigMaps(r.namespace).Patch(t.Context(), "a", types.MergePatchType, []byte(`{"metadata": {"finalizers": ["live.example/held"]}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	rt.Units[0] = unit(1, "a", "2", strings.Replace(configMap("a", "2"), "{name: a}", "{name: a, annotations: {kapp.k14s.io/update-strategy: always-replace}}", 1))
	began := time.Now()
	r.failing(rt, 2*time.Second, "nothing has become ready for 10s")
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("took %s", took)
	}
	if _, err := r.client.CoreV1().ConfigMaps(r.namespace).Patch(t.Context(), "a", types.MergePatchType, []byte(`{"metadata": {"finalizers": null}}`), metav1.PatchOptions{}); err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	r.apply(rt)
	r.deleted("edge")
}
