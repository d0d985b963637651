package deploy

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"

	"krtpkg.dev/krtpkg/pkg/deploy/preflight"
	"krtpkg.dev/krtpkg/pkg/deploy/records"
)

// failing applies a runtime that must fail with all of some texts, and gives the report.
func (r *rig) failing(rt Runtime, wait time.Duration, texts ...string) *Report {
	r.t.Helper()
	options := quick()
	options.WaitTimeout = wait
	report, err := r.Apply(r.t.Context(), rt, ApplyOptions{Options: options})
	if err == nil {
		r.t.Fatal("no error")
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			r.t.Errorf("error lacks %q: %v", text, err)
		}
	}
	if history, err := r.History(r.t.Context(), rt.Name); err != nil || history[0].State != Incomplete || history[0].Reason == "" {
		r.t.Errorf("history %+v, %v", history, err)
	}
	return report
}

// refused applies a runtime that must be refused before anything is written.
func (r *rig) refused(rt Runtime, texts ...string) {
	r.t.Helper()
	before := r.objects()
	_, err := r.Apply(r.t.Context(), rt, ApplyOptions{Options: quick()})
	if !errors.Is(err, preflight.ErrFindings) {
		r.t.Errorf("not refused: %v", err)
		return
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			r.t.Errorf("error lacks %q: %v", text, err)
		}
	}
	for key, version := range r.objects() {
		if strings.HasPrefix(key, "EndpointSlice ") {
			continue // its controller writes it some time after pods are ready
		}
		if was, there := before[key]; !there || was != version {
			r.t.Errorf("%s was written", key)
		}
	}
}

func (r *rig) deleted(name string) {
	r.t.Helper()
	if _, err := r.Delete(r.t.Context(), name, DeleteOptions{Options: quick()}); err != nil {
		r.t.Error(err)
	}
}

// What is independent of a failure is finished, what needs it is not begun, and the next apply
// goes on from there.
func TestFailureInAGraph(t *testing.T) {
	r := newRig(t)
	before := r.objects()
	bad := unit(2, "bad", "1", deployment("bad", "no-such-label: here"))
	needs := func(u Unit, names ...string) Unit { u.Needs = names; return u }
	rt := Runtime{Name: "edge", Units: []Unit{
		unit(1, "base", "1", configMap("base", "1")), bad, unit(2, "beside", "1", configMap("beside", "1")),
		needs(unit(2, "dependent", "1", configMap("dependent", "1")), "bad"),
		needs(unit(2, "other", "1", configMap("other", "1")), "beside"),
		unit(3, "above", "1", configMap("above", "1")),
	}}
	report := r.failing(rt, 2*time.Second, "bundle bad")
	done, blocked := outcomes(report.Applied), []string{}
	for _, b := range report.Blocked {
		blocked = append(blocked, b.Bundle+" by "+strings.Join(b.WaitsFor, ","))
	}
	if want := []string{"base: create 1", "beside: create 1", "other: create 1"}; !slices.Equal(done, want) {
		t.Errorf("done %q, want %q", done, want)
	}
	if want := []string{"dependent by bad", "above by bad"}; !slices.Equal(blocked, want) {
		t.Errorf("blocked %q, want %q", blocked, want)
	}
	rt.Units[1] = unit(2, "bad", "2", configMap("good", "1"))
	r.apply(rt)
	r.deleted("edge")
	r.wantBack(before)
}

func TestLock(t *testing.T) {
	r := newRig(t)
	rt := Runtime{Name: "edge", Units: []Unit{unit(1, "a", "1", configMap("a", "1"))}}
	held, err := r.records().AcquireLock(t.Context(), "edge", time.Minute, func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	var locked *LockedError
	if _, err := r.Apply(t.Context(), rt, ApplyOptions{Options: quick()}); !errors.As(err, &locked) {
		t.Fatalf("apply while somebody else does: %v", err)
	}
	if locked.Holder != records.HolderName() || time.Since(locked.Since) > time.Minute {
		t.Errorf("%+v", locked)
	}
	if r.exists(configMaps, "a") {
		t.Error("applied without the lock")
	}
	held.Release()
	r.apply(rt)

	// A holder that died renews nothing.
	r.dieWithLock("edge", time.Second)
	if _, err := r.Delete(t.Context(), "edge", DeleteOptions{Options: quick()}); !errors.As(err, &locked) {
		t.Errorf("delete while somebody else does: %v", err)
	}
	time.Sleep(1100 * time.Millisecond)
	r.deleted("edge")

	// An answer that nobody heard does not cost the lock.
	config := rest.CopyConfig(r.config)
	unheard := false
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(req *http.Request) (*http.Response, error) {
			resp, err := next.RoundTrip(req)
			if err == nil && req.Method == http.MethodPut && !unheard {
				unheard = true
				resp.Body.Close()
				return nil, errors.New("the answer was lost")
			}
			return resp, err
		})
	})
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	store := r.records()
	store.Client = client
	if held, err = store.AcquireLock(t.Context(), "edge", time.Second, func(err error) { t.Error(err) }); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1500 * time.Millisecond) // it is renewed three times a second
	held.Release()
	if !unheard {
		t.Error("no renewal was unheard")
	}

	// Who loses the lock stops.
	lost := make(chan struct{})
	if held, err = r.records().AcquireLock(t.Context(), "edge", time.Second, func(error) { close(lost) }); err != nil {
		t.Fatal(err)
	}
	if err := r.client.CoordinationV1().Leases(r.namespace).Delete(t.Context(), records.ObjectName("edge"), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-lost:
	case <-time.After(10 * time.Second):
		t.Error("a lock that is gone was not noticed")
	}
	held.Release()
}

func TestHistoryIsBounded(t *testing.T) {
	r := newRig(t)
	before := r.objects()
	for i := range records.MaxRevisions + 3 {
		rt := Runtime{
			Name: "edge", Version: fmt.Sprintf("1.0.%d", i), Digest: fmt.Sprint("sha256:", i), Values: fmt.Appendf(nil, "v: %d", i/2),
			Units: []Unit{unit(1, "a", "1", configMap("a", fmt.Sprint(i)))},
		}
		r.apply(rt)
		r.apply(rt)
	}
	history, err := r.History(t.Context(), "edge")
	if err != nil || len(history) != records.MaxRevisions || history[0].Number != records.MaxRevisions+3 || history[0].Version != "1.0.12" || history[9].Number != 4 {
		t.Errorf("history %+v, %v", history, err)
	}
	secrets, err := r.client.CoreV1().Secrets(r.namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(secrets.Items) != 6 {
		t.Errorf("%d secrets of values, want those of the kept revisions: %v", len(secrets.Items), err)
	}
	if values, err := r.Values(t.Context(), "edge", 5); err != nil || string(values) != "v: 2" {
		t.Errorf("values of revision 5: %q, %v", values, err)
	}
	if _, err := r.Values(t.Context(), "edge", 1); err == nil {
		t.Error("values of a revision that is forgotten: no error")
	}
	r.deleted("edge")
	r.wantBack(before)
}

func TestPause(t *testing.T) {
	r := newRig(t)
	rt := Runtime{Name: "edge", Units: []Unit{unit(1, "a", "1", configMap("a", "1")), unit(3, "b", "1", configMap("b", "1"))}}
	layer := 1
	if _, err := r.Apply(t.Context(), rt, ApplyOptions{Options: quick(), PauseAfter: &layer}); err != nil {
		t.Fatal(err)
	}
	history, err := r.History(t.Context(), "edge")
	if err != nil || history[0].State != Paused || r.exists(configMaps, "b") {
		t.Errorf("history %+v, %v", history, err)
	}
	r.apply(rt)
	if !r.exists(configMaps, "b") {
		t.Error("the next apply did not go on")
	}
	r.deleted("edge")
}

// A webhook that cannot be reached, and a policy that says no.
func TestAdmission(t *testing.T) {
	r := newRig(t)
	before := r.objects()
	fail, none, path := admissionv1.Fail, admissionv1.SideEffectClassNone, "/"
	seconds := int32(1)
	hook := &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: r.namespace}, Webhooks: []admissionv1.ValidatingWebhook{{
		Name: "gate.keeper.example", FailurePolicy: &fail, SideEffects: &none, AdmissionReviewVersions: []string{"v1"}, TimeoutSeconds: &seconds,
		ClientConfig:      admissionv1.WebhookClientConfig{Service: &admissionv1.ServiceReference{Name: "nobody", Namespace: r.namespace, Path: &path}},
		NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": r.namespace}},
		Rules: []admissionv1.RuleWithOperations{{Operations: []admissionv1.OperationType{"CREATE"},
			Rule: admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"services"}}}},
	}}}
	if _, err := r.client.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(t.Context(), hook, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	service := "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80}]}"
	rt := Runtime{Name: "edge", Units: []Unit{unit(1, "web", "1", configMap("web", "1"), service)}}
	r.eventually("the webhook is called", func() error {
		probe := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "probe"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 1}}}}
		if _, err := r.client.CoreV1().Services(r.namespace).Create(t.Context(), probe, metav1.CreateOptions{}); err == nil {
			_ = r.client.CoreV1().Services(r.namespace).Delete(t.Context(), "probe", metav1.DeleteOptions{})
			return errors.New("created")
		}
		return nil
	})
	r.failing(rt, 2*time.Second, "service/web (v1)", `failed calling webhook "gate.keeper.example"`)
	if err := r.client.AdmissionregistrationV1().ValidatingWebhookConfigurations().Delete(t.Context(), r.namespace, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	r.eventually("the webhook is not called any more", func() error {
		_, err := r.Apply(t.Context(), rt, ApplyOptions{Options: quick()})
		return err
	})
	r.deleted("edge")
	r.wantBack(before)
}

// A kind that is never established, since another one has its name.
func TestUnestablishedKind(t *testing.T) {
	r := newRig(t)
	before := r.objects()
	r.apply(Runtime{Name: "first", Units: []Unit{unit(1, "crds", "1", crd("things", "Thing", "faults.example"))}})
	other := strings.Replace(crd("otherthings", "Thing", "faults.example"), "plural: otherthings", "plural: otherthings, singular: thing", 1)
	rt := Runtime{Name: "second", Units: []Unit{unit(1, "crds", "1", other)}}
	r.failing(rt, 2*time.Second, "otherthings.faults.example", "already in use")
	r.deleted("first")
	r.apply(rt)
	r.deleted("second")
	r.wantBack(before)
}

func TestQuota(t *testing.T) {
	r := newRig(t)
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "none"}, Spec: corev1.ResourceQuotaSpec{
		Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("0")},
	}}
	if _, err := r.client.CoreV1().ResourceQuotas(r.namespace).Create(t.Context(), quota, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	r.eventually("the quota counts", func() error {
		q, err := r.client.CoreV1().ResourceQuotas(r.namespace).Get(t.Context(), "none", metav1.GetOptions{})
		if err == nil && len(q.Status.Hard) == 0 {
			err = errors.New("not yet")
		}
		return err
	})
	rt := Runtime{Name: "edge", Units: []Unit{unit(1, "web", "1", deployment("web", ""))}}
	r.failing(rt, 3*time.Second, "deployment/web", "exceeded quota: none")
	if err := r.client.CoreV1().ResourceQuotas(r.namespace).Delete(t.Context(), "none", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	// The controller waits longer from try to try.
	if err := r.client.AppsV1().ReplicaSets(r.namespace).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	r.apply(rt)
	r.deleted("edge")
}

// A namespace that does not end because of something in it.
func TestStuckNamespace(t *testing.T) {
	r := newRig(t)
	before := r.objects()
	rt := Runtime{Name: "edge", Units: []Unit{unit(1, "space", "1", "apiVersion: v1\nkind: Namespace\nmetadata: {name: stuck-space}")}}
	r.apply(rt)
	held := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "held", Finalizers: []string{"faults.example/held"}}}
	if _, err := r.client.CoreV1().ConfigMaps("stuck-space").Create(t.Context(), held, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	options := DeleteOptions{Options: quick()}
	options.WaitTimeout = 2 * time.Second
	var foreign *ForeignError
	if _, err := r.Delete(t.Context(), "edge", options); !errors.As(err, &foreign) || foreign.Foreign[0].Name != "held" {
		t.Errorf("delete of a namespace with what is not ours: %v", err)
	}
	options.DeleteForeign = true
	if _, err := r.Delete(t.Context(), "edge", options); err == nil || !strings.Contains(err.Error(), "namespace/stuck-space") {
		t.Errorf("delete of a namespace that does not end: %v", err)
	}
	if got := r.list("edge"); len(got) != 1 {
		t.Errorf("what is there still is not known: %q", got)
	}
	if _, err := r.client.CoreV1().ConfigMaps("stuck-space").Patch(t.Context(), "held", types.MergePatchType, []byte(`{"metadata": {"finalizers": null}}`), metav1.PatchOptions{}); err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	options.WaitTimeout = time.Minute // its controller looks again later and later
	if _, err := r.Delete(t.Context(), "edge", options); err != nil {
		t.Errorf("delete after the finalizer is gone: %v", err)
	}
	r.wantBack(before)
}

func TestImmutableField(t *testing.T) {
	r := newRig(t)
	rt := Runtime{Name: "edge", Units: []Unit{unit(1, "web", "1", deployment("web", ""))}}
	r.apply(rt)
	changed := strings.ReplaceAll(deployment("web", ""), "app: web", "app: other")
	rt.Units[0] = unit(1, "web", "2", changed)
	r.refused(rt, "Deployment web", "field is immutable", "kapp.k14s.io/update-strategy: fallback-on-replace")
	rt.Units[0] = unit(1, "web", "3", strings.Replace(changed, "metadata: {name: web}", "metadata: {name: web, annotations: {kapp.k14s.io/update-strategy: fallback-on-replace}}", 1))
	r.apply(rt)
	r.deleted("edge")
}

// Whose it is counts: Helm's is refused unless it is to be taken over, nobody's is adopted.
func TestOwners(t *testing.T) {
	r := newRig(t)
	for name, meta := range map[string]metav1.ObjectMeta{
		"by-hand": {Name: "by-hand"},
		"helms": {Name: "helms", Labels: map[string]string{"app.kubernetes.io/managed-by": "Helm"},
			Annotations: map[string]string{"meta.helm.sh/release-name": "shop", "meta.helm.sh/release-namespace": "ops"}},
	} {
		if _, err := r.client.CoreV1().ConfigMaps(r.namespace).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: meta}, metav1.CreateOptions{}); err != nil {
			t.Fatal(name, err)
		}
	}
	rt := Runtime{Name: "edge", Units: []Unit{unit(1, "a", "1", configMap("by-hand", "1"))}}
	r.apply(rt)
	rt.Units = append(rt.Units, unit(2, "b", "1", configMap("helms", "1")))
	r.refused(rt, "ConfigMap helms (v1) in namespace testowners belongs to release ops/shop of Helm")
	plan, err := r.Plan(t.Context(), rt, CheckOptions{})
	if err != nil || !errors.Is(preflight.RefuseFindings(plan.Findings), preflight.ErrFindings) {
		t.Errorf("plan: %v, findings %v", err, plan.Findings)
	}
	if _, err := r.Apply(t.Context(), rt, ApplyOptions{Options: quick(), TakeOver: true}); err != nil {
		t.Error(err)
	}
	r.deleted("edge")
}

// Healthy is what is complete: an upgrade that failed, was interrupted or paused is not, and shows
// what it has not begun.
func TestStatusOfRevision(t *testing.T) {
	r := newRig(t)
	status := func(name string) string {
		t.Helper()
		all, err := r.Status(t.Context(), name, quick())
		if err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf("%s %s:", all[0].Revision.State, all[0].Health())
		for _, b := range all[0].Bundles {
			text += fmt.Sprintf(" %s %s %s;", b.Bundle, b.Health, b.Stage)
		}
		return text
	}
	want := func(name, want string) {
		t.Helper()
		if got := status(name); got != want {
			t.Errorf("status %q, want %q", got, want)
		}
	}
	v1 := Runtime{Name: "edge", Version: "1", Digest: "sha256:1", Units: []Unit{
		unit(1, "base", "1", configMap("base", "1")), unit(2, "old", "1", configMap("old", "1")), unit(5, "app", "1", configMap("app", "1")),
	}}
	r.apply(v1)
	want("edge", "complete healthy: base healthy complete; old healthy complete; app healthy complete;")
	v2 := Runtime{Name: "edge", Version: "2", Digest: "sha256:2", Units: []Unit{
		unit(1, "base", "1", configMap("base", "1")), unit(3, "stuck", "2", deployment("stuck", "no-such-label: here")),
		unit(4, "new", "2", configMap("new", "2")), unit(5, "app", "2", configMap("app", "2")),
	}}
	r.failing(v2, time.Second, "bundle stuck")
	want("edge", "failed failing: base healthy complete; old healthy leaving; stuck progressing incomplete; new not begun not begun; app healthy not begun;")
	history, err := r.History(t.Context(), "edge")
	if err != nil || len(history[0].Bundles) != 4 || history[1].Bundles != nil {
		t.Errorf("history %+v, %v", history, err)
	}

	// The same version with other values, which fails on the way.
	other := Runtime{Name: "edge", Version: "2", Digest: "sha256:2", Values: []byte("base: {a: 1}\n"), Units: v2.Units}
	r.failing(other, time.Second, "bundle stuck")
	want("edge", "failed failing: base healthy complete; old healthy leaving; stuck progressing incomplete; new not begun not begun; app healthy not begun;")
	v1.Values = other.Values
	r.apply(v1)
	v1.Values = []byte("base: {a: 2}\n")
	v1.Units[1] = unit(2, "old", "1", deployment("old", "no-such-label: here"))
	r.failing(v1, time.Second, "bundle old")
	if got := status("edge"); !strings.HasPrefix(got, "failed ") || !strings.HasSuffix(got, "app healthy not begun;") {
		t.Errorf("status %q of a version that failed with other values", got)
	}
	v1.Values, v1.Units[1] = nil, unit(2, "old", "1", configMap("old", "1"))
	r.apply(v1)
	r.failing(v2, time.Second, "bundle stuck")

	// A record of before bundles were recorded.
	cm, err := r.client.CoreV1().ConfigMaps(r.namespace).Get(t.Context(), records.ObjectName("edge"), metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	before, after, _ := strings.Cut(cm.Data["revisions.yaml"], "  bundles:\n")
	_, after, _ = strings.Cut(after, "- revision: 1")
	cm.Data["revisions.yaml"] = before + "- revision: 1" + after
	if _, err := r.configMaps().Update(t.Context(), cm, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	want("edge", "failed failing: base healthy complete; old healthy complete; stuck progressing incomplete; app healthy complete;")
	r.apply(v1)
	want("edge", "complete healthy: base healthy complete; old healthy complete; app healthy complete;")
	layer := 1
	v2.Units[1] = unit(3, "stuck", "3", configMap("fine", "3"))
	if _, err := r.Apply(t.Context(), v2, ApplyOptions{Options: quick(), PauseAfter: &layer}); err != nil {
		t.Fatal(err)
	}
	want("edge", "paused progressing: base healthy complete; old healthy leaving; stuck not begun not begun; new not begun not begun; app healthy not begun;")

	// One whose process ended without a word.
	var dead atomic.Bool
	p := newFaultyProxy(r, true, func(*http.Request) fault {
		if dead.Load() {
			return cut
		}
		return passes
	})
	c := p.connect(Config{RetryTimeout: -1}, &clientcmdapi.AuthInfo{})
	options := quick()
	options.LockDuration = 2 * time.Second
	var during string
	options.OnEvent = func(e Event) {
		if e.Phase == Applying && e.Bundle == "new" && e.Message == (Message{}) {
			during = status("edge")
			dead.Store(true)
		}
	}
	if _, err := c.Apply(t.Context(), v2, ApplyOptions{Options: options}); err == nil {
		t.Error("an apply that reaches nobody: no error")
	}
	if want := "in progress progressing: base healthy complete; old healthy leaving; stuck healthy complete; new not begun not begun; app healthy not begun;"; during != want {
		t.Errorf("status during an apply: %s, want %s", during, want)
	}
	time.Sleep(2 * time.Second)
	want("edge", "interrupted failing: base healthy complete; old healthy leaving; stuck healthy complete; new not begun not begun; app healthy not begun;")
	if history, err := r.History(t.Context(), "edge"); err != nil || history[0].State != Interrupted {
		t.Errorf("history %+v, %v", history[0], err)
	}
	r.apply(v2)
	want("edge", "complete healthy: base healthy complete; stuck healthy complete; new healthy complete; app healthy complete;")
	r.deleted("edge")
}

// What plan refuses is refused by an apply that nobody is asked about; what only an apply can know
// is not.
func TestPlanFirst(t *testing.T) {
	r := newRig(t)
	r.apply(Runtime{Name: "other", Units: []Unit{unit(1, "owner", "1", configMap("owned", "1"))}})
	rt := Runtime{Name: "edge", Version: "1", Units: []Unit{
		unit(1, "base", "1", configMap("base", "1"), crd("plugs", "Plug", "first.example")),
		unit(3, "app", "1", configMap("owned", "2")),
	}}
	r.refused(rt, "error (kapp): app: ", "other.owner")

	// A kind that an operator defines as soon as it runs, and a version that the runtime brings.
	rt.Units[1] = unit(3, "app", "1", "apiVersion: first.example/v1\nkind: Plug\nmetadata: {name: a}", "apiVersion: late.example/v1\nkind: Late\nmetadata: {name: a}")
	r.refused(rt, "error (kapp): app: ", "late.example/v1")
	operator := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(crd("lates", "Late", "late.example")), &operator.Object); err != nil {
		t.Fatal(err)
	}
	definitions := r.dynamic.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	options := ApplyOptions{Options: quick(), Skip: []string{preflight.CheckAPI}}
	options.OnEvent = func(e Event) {
		if e.Phase == Applied && e.Bundle == "base" {
			if _, err := definitions.Create(t.Context(), operator, metav1.CreateOptions{}); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Second)
		}
	}
	if _, err := r.Apply(t.Context(), rt, options); err != nil {
		t.Errorf("apply of what an operator defines: %v", err)
	}
	next := strings.Replace(crd("plugs", "Plug", "first.example"), "versions:\n", `versions:
  - name: v2
    served: true
    storage: false
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`, 1)
	rt.Version = "2"
	rt.Units[0] = unit(1, "base", "2", configMap("base", "1"), next)
	rt.Units[1] = unit(3, "app", "2", "apiVersion: first.example/v2\nkind: Plug\nmetadata: {name: a}\nspec: {new: true}", "apiVersion: late.example/v1\nkind: Late\nmetadata: {name: a}")
	plan, err := r.Plan(t.Context(), rt, CheckOptions{})
	if err != nil || preflight.RefuseFindings(plan.Findings) != nil || planned(plan) != "change base: update 1; change app: update 1" {
		t.Errorf("plan of a version that is not served yet: %s, findings %v, %v", planned(plan), plan.Findings, err)
	}
	r.apply(rt)
	r.deleted("edge")
	r.deleted("other")
	if err := definitions.Delete(t.Context(), "lates.late.example", metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
}

func defaultStorage(name string) string {
	return "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nprovisioner: a.example/b\nmetadata:\n  name: " + name +
		"\n  annotations: {storageclass.kubernetes.io/is-default-class: \"true\"}"
}

func TestChecks(t *testing.T) {
	r := newRig(t)
	before := r.objects()
	with := func(u Unit, kubernetes string) Unit { u.Kubernetes = kubernetes; return u }
	const priority = "apiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: {name: shared}\nvalue: 1"
	rt := Runtime{Name: "checks", Units: []Unit{
		with(unit(1, "old", "1", "apiVersion: policy/v1beta1\nkind: PodDisruptionBudget\nmetadata: {name: a}"), "<1.20"),
		unit(1, "early", "1", "apiVersion: checks.example/v1\nkind: Late\nmetadata: {name: a}", configMap("same", "1")),
		unit(2, "late", "1", crd("lates", "Late", "checks.example"), configMap("same", "1")),
		unit(3, "fine", "1", "apiVersion: checks.example/v1\nkind: Late\nmetadata: {name: b}", defaultStorage("fine"), strings.Replace(priority, "name: shared", "name: shared, namespace: ignored", 1)),
		unit(4, "other", "1", defaultStorage("other"), priority),
	}}
	classes := r.client.StorageV1().StorageClasses()
	site := &storagev1.StorageClass{Provisioner: "site.example/disk", ObjectMeta: metav1.ObjectMeta{
		Name: "site", Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": "true"},
	}}
	if _, err := classes.Create(t.Context(), site, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	findings, err := r.Check(t.Context(), rt, CheckOptions{Images: []preflight.Image{
		{Bundle: "fine", Name: "arm", Platforms: []string{"linux/arm64"}}, {Bundle: "fine", Name: "all", Platforms: []string{"linux/amd64", "linux/arm64"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range findings {
		got = append(got, f.String())
	}
	for i, want := range []string{
		"error (kubernetes): old: requires Kubernetes <1.20, but the cluster is v",
		"error (api): old, PodDisruptionBudget a (policy/v1beta1): policy/v1beta1 PodDisruptionBudget was removed in Kubernetes 1.25",
		"error (api): early, Late a (checks.example/v1): the cluster does not serve checks.example/v1 Late, and no earlier bundle defines it; bundle late defines it, but later: require it",
		"error (twice): late, ConfigMap same (v1): bundle early has it, too",
		"error (twice): other, PriorityClass shared (scheduling.k8s.io/v1): bundle fine has it, too",
		"error (defaults): other, StorageClass other (storage.k8s.io/v1): is a default class, and so is StorageClass fine (storage.k8s.io/v1) of bundle fine",
		"warning (defaults): fine, StorageClass fine (storage.k8s.io/v1): is a default class, and so is StorageClass site of the cluster",
		"error (platforms): fine: image arm is for linux/arm64, but there are nodes of linux/amd64",
	} {
		if i >= len(got) || !strings.HasPrefix(got[i], want) {
			t.Errorf("finding %d: want %s\nall:\n%s", i, want, strings.Join(got, "\n"))
		}
	}
	if len(got) != 8 {
		t.Errorf("findings:\n%s", strings.Join(got, "\n"))
	}
	if findings, err = r.Check(t.Context(), rt, CheckOptions{Skip: preflight.Checks}); err != nil || len(findings) != 0 {
		t.Errorf("skipped checks: %v, %v", findings, err)
	}
	if err := classes.Delete(t.Context(), "site", metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	r.wantBack(before)

	// What would lose data.
	r.apply(Runtime{Name: "data", Units: []Unit{unit(1, "crds", "1", crd("files", "File", "checks.example"))}})
	narrower := Runtime{Name: "data", Version: "2", Units: []Unit{unit(1, "crds", "2", strings.Replace(crd("files", "File", "checks.example"), "scope: Namespaced", "scope: Cluster", 1))}}
	plan, err := r.Plan(t.Context(), narrower, CheckOptions{})
	if err != nil || preflight.RefuseFindings(plan.Findings) == nil || !strings.Contains(preflight.RefuseFindings(plan.Findings).Error(), "scope") {
		t.Errorf("plan of a CRD that changes its scope: %v, findings %v", err, plan.Findings)
	}
	r.refused(narrower, "files.checks.example", "scope")
	r.deleted("data")
}
