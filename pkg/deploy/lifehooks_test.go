package deploy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"

	"krtpkg.dev/krtpkg/internal/hack"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/render"
)

// hookJob returns a Job that is a hook, and that KWOK completes.
func hookJob(name, events, weight, policies, version string) string {
	annotations := fmt.Sprintf("helm.sh/hook: %q, helm.sh/hook-weight: %q", events, weight)
	if policies != "" {
		annotations += fmt.Sprintf(", helm.sh/hook-delete-policy: %q", policies)
	}
	return fmt.Sprintf(`apiVersion: batch/v1
kind: Job
metadata: {name: %s, annotations: {%s}}
spec:
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: "registry.example/job:%s"}]
`, name, annotations, version)
}

// failing returns a Job that no node takes, and that fails after a second.
func failing(job string) string {
	return strings.Replace(strings.Replace(job, "restartPolicy:", "nodeSelector: {hooks-test: nowhere}\n      restartPolicy:", 1),
		"spec:\n", "spec:\n  activeDeadlineSeconds: 1\n", 1)
}

// lifeChart returns a chart with a hook for every moment, and resources that name no namespace.
func lifeChart(version string, more ...string) map[string]string {
	hooks := []string{
		hookJob("seed", "post-install", "0", "", version),
		hookJob("check-b", "post-install,post-upgrade", "1", "", version),
		hookJob("check-a", "post-install,post-upgrade", "1", "hook-succeeded", version),
		hookJob("migrate", "pre-install,pre-upgrade", "0", "before-hook-creation", version),
		hookJob("setup", "pre-install", "-5", "", version),
		hookJob("upgraded", "post-upgrade", "5", "", version),
		hookJob("z-before-delete", "pre-delete", "-1", "", version),
		hookJob("before-delete", "pre-delete", "0", "", version),
		hookJob("after-delete", "post-delete", "0", "before-hook-creation,hook-succeeded", version),
		hookJob("back", "pre-rollback", "0", "", version),
		hookJob("restored", "post-rollback", "0", "", version),
		"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: for-hooks\n  annotations:\n    helm.sh/hook: pre-install,pre-upgrade,post-install\n    helm.sh/hook-weight: \"-10\"\ndata: {version: '" + version + "'}\n",
	}
	return map[string]string{
		"Chart.yaml":    "apiVersion: v2\nname: life\nversion: " + version + "\n",
		"crds/crd.yaml": crd("levers", "Lever", "life-hooks.example"),
		"templates/main.yaml": configMap("settings", version) + "\n---\n" +
			"apiVersion: life-hooks.example/v1\nkind: Lever\nmetadata: {name: own}\n---\n" +
			"apiVersion: there-hooks.example/v1\nkind: Knob\nmetadata: {name: of-another}\n---\n" +
			"apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: '{{ .Release.Namespace }}-life'}\n---\n" +
			"apiVersion: v1\nkind: Secret\nmetadata: {name: kept, annotations: {helm.sh/resource-policy: keep}}\nstringData: {version: '" + version + "'}\n",
		"templates/hooks.yaml": strings.Join(append(hooks, more...), "---\n"),
	}
}

// rendered returns a chart as a unit, as it comes out of a bundle that the target renders.
func rendered(t *testing.T, chart map[string]string, version, namespace string) Unit {
	t.Helper()
	content := &bundle.Content{Bundle: &bundle.Bundle{Metadata: bundle.Metadata{Name: "rel"}, Spec: bundle.BundleSpec{Sources: []bundle.Source{{
		Path: "life", Template: bundle.TemplateHelm, Render: bundle.RenderTarget, Helm: &bundle.Helm{Namespace: namespace},
	}}}}}
	for _, name := range slices.Sorted(maps.Keys(chart)) {
		content.Files = append(content.Files, bundle.File{Path: "config/life/" + name, Data: []byte(chart[name])})
	}
	m, err := render.RenderDefaults(t.Context(), content)
	if err != nil {
		t.Fatal(err)
	}
	files := fstest.MapFS{}
	for _, f := range m.Files {
		files[f.Path] = &fstest.MapFile{Data: f.Data}
	}
	u := Unit{Bundle: "app", Version: version, Layer: 4, Manifests: files, Namespaces: m.Namespaces}
	hooks, texts, err := render.ParseHooks(m.Later)
	if err != nil {
		t.Fatal(err)
	}
	for i, h := range hooks {
		u.Hooks = append(u.Hooks, Hook{Events: h.Events, Policies: h.Policies, Manifest: string(texts[i])})
	}
	return u
}

// jobWatch is the Jobs that come into being in a namespace, in order.
type jobWatch struct {
	mu  sync.Mutex
	all []string
}

func (r *rig) watchJobs(namespace string) *jobWatch {
	r.t.Helper()
	w, err := r.client.BatchV1().Jobs(namespace).Watch(context.Background(), metav1.ListOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(w.Stop)
	j := &jobWatch{}
	go func() {
		for e := range w.ResultChan() {
			if o, is := e.Object.(metav1.Object); is && e.Type == watch.Added {
				j.mu.Lock()
				j.all = append(j.all, o.GetName())
				j.mu.Unlock()
			}
		}
	}()
	return j
}

// since returns what has come, and forgets it.
func (j *jobWatch) since() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	all := strings.Join(j.all, " ")
	j.all = nil
	return all
}

// there returns the objects in a namespace, but for what is of Helm and of every namespace.
func (r *rig) there(namespace string) string {
	r.t.Helper()
	var all []string
	for kind, gvr := range map[string]schema.GroupVersionResource{
		"Job": {Group: "batch", Version: "v1", Resource: "jobs"}, "ConfigMap": {Version: "v1", Resource: "configmaps"}, "Secret": {Version: "v1", Resource: "secrets"},
		"Lever": {Group: "life-hooks.example", Version: "v1", Resource: "levers"}, "Knob": {Group: "there-hooks.example", Version: "v1", Resource: "knobs"},
	} {
		list, err := r.dynamic.Resource(gvr).Namespace(namespace).List(r.t.Context(), metav1.ListOptions{})
		if err != nil {
			continue // its kind is gone
		}
		for _, item := range list.Items {
			if name := item.GetName(); name != "kube-root-ca.crt" && !strings.HasPrefix(name, "sh.helm.") {
				all = append(all, kind+" "+name)
			}
		}
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// TestHooksAsHelm plays the life of a chart with the real helm and with this package, each in a
// namespace: the same Jobs in the same order at each moment, and the same objects after it.
func TestHooksAsHelm(t *testing.T) {
	r := newRig(t)
	program := hack.BuildForTest(t, "tools/helm")
	const theirs, ours = "hooks-of-helm", "hooks-of-krtpkg"
	watched := map[string]*jobWatch{}
	for _, name := range []string{theirs, ours} {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if _, err := r.client.CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		watched[name] = r.watchJobs(name)
	}
	r.apply(Runtime{Name: "kinds", Units: []Unit{unit(1, "knobs", "1.0.0", crd("knobs", "Knob", "there-hooks.example"))}})

	home := t.TempDir()
	helm := func(args ...string) error {
		cmd := exec.CommandContext(t.Context(), program, append(args, "--namespace", theirs, "--kubeconfig", r.kubeconfig)...)
		cmd.Env = []string{"HOME=" + home}
		out, err := cmd.CombinedOutput()
		t.Logf("helm %s: %s", args[0], out)
		return err
	}
	folder := func(chart map[string]string) string {
		dir := t.TempDir()
		for name, text := range chart {
			if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700), os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	runtime := func(chart map[string]string, version string) Runtime {
		return Runtime{Name: "rel", Version: version, Digest: "sha256:" + version, Units: []Unit{rendered(t, chart, version, ours)}}
	}
	apply := func(rt Runtime, rollback bool) error {
		report, err := r.Apply(t.Context(), rt, ApplyOptions{Options: quick(), Rollback: rollback, RunHooks: rollback})
		if err == nil && len(report.Skipped) > 0 {
			t.Errorf("skipped %v", report.Skipped)
		}
		return err
	}
	v1, v2 := lifeChart("1.0.0"), lifeChart("2.0.0")
	broken := lifeChart("3.0.0", failing(hookJob("broken", "pre-upgrade", "-1", "hook-failed", "3.0.0")), hookJob("fine", "pre-upgrade", "-2", "hook-succeeded", "3.0.0"))
	v3 := lifeChart("3.0.0") // without what is to be kept
	v3["templates/main.yaml"] = v3["templates/main.yaml"][:strings.LastIndex(v3["templates/main.yaml"], "---")]

	for _, step := range []struct {
		name         string
		helm, krtpkg func() error
		fails        bool
		// only Helm leaves these, and has these Jobs created next to ours
		left []string
		want string // Jobs
	}{
		{name: "install", helm: func() error { return helm("install", "rel", folder(v1)) }, krtpkg: func() error { return apply(runtime(v1, "1.0.0"), false) },
			want: "setup migrate seed check-a check-b"},
		{name: "upgrade", helm: func() error { return helm("upgrade", "rel", folder(v2)) }, krtpkg: func() error { return apply(runtime(v2, "2.0.0"), false) },
			want: "migrate check-a check-b upgraded"},
		{name: "again", helm: func() error { return nil }, krtpkg: func() error { return apply(runtime(v2, "2.0.0"), false) }},
		{name: "rollback", helm: func() error { return helm("rollback", "rel", "1") }, krtpkg: func() error { return apply(runtime(v1, "1.0.0"), true) },
			want: "back restored", left: []string{"Job back", "Job restored"}},
		{name: "an upgrade that fails", fails: true, helm: func() error { return helm("upgrade", "rel", folder(broken)) }, krtpkg: func() error { return apply(runtime(broken, "3.0.0"), false) },
			want: "fine broken", left: []string{"Job back", "Job restored"}},
		{name: "the next one", helm: func() error { return helm("upgrade", "rel", folder(v3)) }, krtpkg: func() error { return apply(runtime(v3, "3.0.1"), false) },
			want: "migrate check-a check-b upgraded", left: []string{"Job back", "Job restored"}},
		{name: "uninstall", helm: func() error { return helm("uninstall", "rel") }, krtpkg: func() error {
			_, err := r.Delete(t.Context(), "rel", DeleteOptions{Options: quick(), RunHooks: true, DeleteForeign: true})
			return err
		}, want: "z-before-delete before-delete after-delete", left: []string{
			"ConfigMap for-hooks", "Job back", "Job before-delete", "Job check-b", "Job migrate", "Job restored", "Job seed", "Job setup", "Job upgraded", "Job z-before-delete",
		}},
	} {
		for who, do := range map[string]func() error{theirs: step.helm, ours: step.krtpkg} {
			if err := do(); err != nil != step.fails {
				t.Fatalf("%s in %s: %v", step.name, who, err)
			} else if err != nil {
				t.Logf("%s in %s: %v", step.name, who, err)
			}
		}
		if step.name != "again" {
			if got := watched[theirs].since(); got != step.want {
				t.Errorf("%s: helm's jobs: %s, want %s", step.name, got, step.want)
			}
		}
		if got := watched[ours].since(); got != step.want {
			t.Errorf("%s: jobs: %s, want %s", step.name, got, step.want)
		}
		want := strings.Split(r.there(theirs), ", ")
		want = slices.DeleteFunc(want, func(o string) bool { return slices.Contains(step.left, o) })
		if got := r.there(ours); got != strings.Join(want, ", ") {
			t.Errorf("%s: there is\n%s\nand with helm\n%s", step.name, got, strings.Join(want, ", "))
		}
	}
	if _, err := r.Delete(t.Context(), "kinds", DeleteOptions{Options: quick(), DeleteForeign: true}); err != nil {
		t.Fatal(err)
	}
}

// TestHooksInOwnNamespace deletes a bundle whose hooks run in a namespace that it makes itself: that is
// there for them, also where it had to go with what is foreign in it.
func TestHooksInOwnNamespace(t *testing.T) {
	r := newRig(t)
	before := r.objects()
	const namespace = "hooks-in-own-namespace"
	created := r.watchJobs(namespace)
	rt := Runtime{Name: "rel", Version: "1", Units: []Unit{rendered(t, map[string]string{
		"Chart.yaml":           "apiVersion: v2\nname: life\nversion: 1.0.0\n",
		"templates/main.yaml":  "apiVersion: v1\nkind: Namespace\nmetadata: {name: " + namespace + "}\n---\n" + configMap("settings", "1"),
		"templates/hooks.yaml": strings.Replace(hookJob("out", "pre-delete", "0", "", "1"), "spec:\n", "spec:\n  ttlSecondsAfterFinished: 0\n", 1) + "---\n" + hookJob("gone", "post-delete", "0", "", "1"),
	}, "1", namespace)}}
	for _, foreign := range []bool{false, true} {
		r.apply(rt)
		if foreign {
			cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "foreign"}}
			if _, err := r.client.CoreV1().ConfigMaps(namespace).Create(t.Context(), cm, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := r.Delete(t.Context(), "rel", DeleteOptions{Options: quick(), RunHooks: true, DeleteForeign: foreign}); err != nil {
			t.Fatal(err)
		}
		if got := created.since(); got != "out gone" {
			t.Errorf("foreign %v: jobs: %s", foreign, got)
		}
		r.wantBack(before)
	}
}

// TestHooksNotRun deletes and rolls back without being told to run hooks: they are named, and no Job
// comes into being; and what was kept for them goes.
func TestHooksNotRun(t *testing.T) {
	r := newRig(t)
	created := r.watchJobs(r.namespace)
	before := r.objects()
	chart := func(version string) Runtime {
		return Runtime{Name: "rel", Version: version, Units: []Unit{rendered(t, map[string]string{
			"Chart.yaml":           "apiVersion: v2\nname: life\nversion: 1.0.0\n",
			"templates/main.yaml":  configMap("settings", version),
			"templates/hooks.yaml": hookJob("out", "pre-delete,post-delete", "0", "", version) + "---\n" + hookJob("back", "pre-rollback", "0", "", version),
		}, version, "")}}
	}
	r.apply(chart("1"))
	r.apply(chart("2"))
	report, err := r.Apply(t.Context(), chart("1"), ApplyOptions{Options: quick(), Rollback: true})
	if err != nil || fmt.Sprint(report.Skipped) != "[{app Job back pre-rollback}]" {
		t.Errorf("rollback: skipped %v, error %v", report.Skipped, err)
	}
	report, err = r.Delete(t.Context(), "rel", DeleteOptions{Options: quick()})
	if err != nil || fmt.Sprint(report.Skipped) != "[{app Job out pre-delete} {app Job out post-delete}]" {
		t.Errorf("delete: skipped %v, error %v", report.Skipped, err)
	}
	if got := created.since(); got != "" {
		t.Errorf("jobs: %s", got)
	}
	r.wantBack(before)
}

// TestHooksByKapp has the real kapp apply what a bundle holds, as kapp-controller does: its hooks run in
// Helm's order, those of an install once, and none again where nothing is new.
func TestHooksByKapp(t *testing.T) {
	r := newRig(t)
	program := hack.BuildForTest(t, "tools/kapp")
	created := r.watchJobs(r.namespace)
	for _, step := range []struct{ version, want string }{{"1", "setup migrate seed check-a check-b"}, {"2", "migrate check-a check-b"}, {"2", ""}} {
		u := rendered(t, map[string]string{
			"Chart.yaml":          "apiVersion: v2\nname: life\nversion: 1.0.0\n",
			"templates/main.yaml": configMap("settings", step.version),
			"templates/hooks.yaml": strings.Join([]string{
				hookJob("seed", "post-install", "0", "", step.version), hookJob("check-b", "post-install,post-upgrade", "1", "", step.version),
				hookJob("check-a", "post-install,post-upgrade", "1", "", "same"), hookJob("migrate", "pre-install,pre-upgrade", "0", "", step.version),
				hookJob("setup", "pre-install", "-5", "", step.version), hookJob("out", "pre-delete", "0", "", step.version),
			}, "---\n"),
		}, step.version, r.namespace)
		dir := t.TempDir()
		for name, f := range u.Manifests.(fstest.MapFS) {
			if err := os.WriteFile(filepath.Join(dir, filepath.Base(name)), f.Data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.CommandContext(t.Context(), program, "deploy", "-a", "life", "-n", r.namespace, "-f", dir, "-y", "--kubeconfig", r.kubeconfig)
		cmd.Env = []string{"HOME=" + dir}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("kapp deploy: %v\n%s", err, out)
		}
		if got := created.since(); got != step.want {
			t.Errorf("version %s: jobs: %s, want %s", step.version, got, step.want)
		}
	}
	if out, err := exec.CommandContext(t.Context(), program, "delete", "-a", "life", "-n", r.namespace, "-y", "--kubeconfig", r.kubeconfig).CombinedOutput(); err != nil {
		t.Errorf("kapp delete: %v\n%s", err, out)
	}
}
