package deploy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"carvel.dev/kapp/pkg/kapp/cmd"
	"github.com/cppforlife/go-cli-ui/ui"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const config = "apiVersion: kapp.k14s.io/v1alpha1\nkind: Config\n"

// TestLongNames: what is in long groups, and in namespaces with long names, is applied; kapp orders it by names of its
// own that are longer yet.
func TestLongNames(t *testing.T) {
	r := newRig(t)
	long := r.namespace + strings.Repeat("-long", 8)
	inside := strings.Replace(configMap("inside", "1"), "name: inside", "name: inside, namespace: "+long, 1)
	const group, kind = "idp.supervisor.long.example", "ActiveDirectoryIdentityProviderOfALongName"
	rt := Runtime{Name: "long", Version: "1", Units: []Unit{unit(1, "app", "1", namespaceManifest(long), inside, crd("providers", kind, group),
		"apiVersion: "+group+"/v1\nkind: "+kind+"\nmetadata: {name: one}")}}
	r.apply(rt)
	r.wantNoChanges(rt)
	if _, err := r.Delete(t.Context(), rt.Name, DeleteOptions{Options: quick()}); err != nil {
		t.Error(err)
	}
}

func TestFailures(t *testing.T) {
	for _, test := range []struct {
		name string
		docs []string
		want []string
		// before is set if it is found before the first write.
		before bool
	}{
		{"NeverReady", []string{deployment("stuck", "no-such-label: here")},
			[]string{"Timed out waiting after 2s", "deployment/stuck (apps/v1) namespace: testfailures-neverready", "Unschedulable", "didn't match", "apply bundle bad (layer 2): "}, false},
		{"Refused", []string{configMap("fine", "1"), "apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec: {ports: [{port: 99999}]}"},
			[]string{"bad, Service bad (v1)", "must be between 1 and 65535"}, true},
		{"UnknownKind", []string{"apiVersion: nowhere.example/v1\nkind: Thing\nmetadata: {name: x}"},
			[]string{"error (kapp): bad: ", "'nowhere.example/v1/Thing'"}, true},
		{"NoName", []string{"apiVersion: v1\nkind: ConfigMap\nmetadata: {}"},
			[]string{"error (kapp): bad: ", "metadata.name", "file 'config/all.yaml' doc 1"}, true},
		{"NotYAML", []string{"a: b: c"}, []string{"read bundle bad (layer 2): ", "mapping values are not allowed"}, true},
		{"UnknownMatcher", []string{config + "waitRules: [{resourceMatchers: [{}]}]", configMap("bad", "1")},
			[]string{"error (kapp): bad: ", "Config: rules for kapp: waitRules[0].resourceMatchers: a matcher of no kind that kapp knows"}, true},
		{"NoContract", []string{config + "waitRules: [{ytt: {}, resourceMatchers: [{allMatcher: {}}]}]", configMap("bad", "1")},
			[]string{"error (kapp): bad: ", "waitRules[0].ytt: no funcContractV1"}, true},
		{"RuleThatPanics", []string{config + "waitRules:\n- resourceMatchers: [{allMatcher: {}}]\n  ytt:\n    funcContractV1:\n      resource.star: |\n" +
			"        def is_done(resource):\n          return {\"done\": 1<<100}\n        end\n", configMap("slow", "1")},
			[]string{"apply bundle bad (layer 2): ", "Applying ytt wait rule: Evaluating:", "not sure how to get int"}, false},
		{"Empty", []string{"# nothing"}, []string{"error (kapp): bad: ", "kapp would delete all resources"}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t)
			options := quick()
			options.WaitTimeout = 2 * time.Second
			var failed []Event
			options.OnEvent = func(e Event) {
				if e.Phase == Failed {
					failed = append(failed, e)
				}
			}
			rt := Runtime{Name: "failures", Units: []Unit{
				unit(1, "good", "1.0.0", configMap("good", "1")),
				unit(2, "bad", "1.0.0", test.docs...),
				unit(3, "never", "1.0.0", configMap("never", "1")),
			}}
			began := time.Now()
			report, err := r.Apply(t.Context(), rt, ApplyOptions{Options: options})
			if took := time.Since(began); took > 8*time.Second {
				t.Errorf("took %s", took)
			}
			if err == nil {
				t.Fatal("no error")
			}
			if strings.Contains(err.Error(), "goroutine") {
				t.Errorf("a stack trace: %v", err)
			}
			for _, text := range test.want {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("error lacks %q: %v", text, err)
				}
			}
			if test.before {
				if history, err := r.History(t.Context(), rt.Name); !errors.Is(err, ErrNotInstalled) || len(report.Applied) > 0 || r.exists(configMaps, "good") {
					t.Errorf("applied %v before it was refused; history %v, %v", report.Applied, history, err)
				}
				return
			}
			if len(failed) != 1 || failed[0].Bundle != "bad" || !errors.Is(err, failed[0].Err) {
				t.Errorf("events of failure: %+v", failed)
			}
			if len(report.Applied) != 1 || r.exists(configMaps, "never") {
				t.Errorf("went on after the failure: %+v", report)
			}
			t.Log(err)

			rt.Units[1] = unit(2, "bad", "1.0.1", configMap("fixed", "1"))
			r.apply(rt)
			if r.exists(deployments, "stuck") {
				t.Error("what failed is still there after it was fixed")
			}
			if _, err := r.Delete(t.Context(), rt.Name, DeleteOptions{Options: quick()}); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestOwnership(t *testing.T) {
	r := newRig(t)
	r.apply(Runtime{Name: "edge", Units: []Unit{unit(1, "owner", "", configMap("shared", "1"))}})
	_, err := r.Apply(t.Context(), Runtime{Name: "other", Units: []Unit{unit(1, "thief", "", configMap("shared", "2"))}}, ApplyOptions{})
	if err == nil || !strings.Contains(err.Error(), "edge.owner") {
		t.Errorf("apply of another runtime's resource: %v", err)
	}
}

func TestNames(t *testing.T) {
	r := newRig(t)
	lone := Runtime{Name: "lone", Version: "1.0.0", Units: []Unit{unit(4, "", "1.0.0", configMap("of-lone", "1"))}}
	report := r.apply(lone)
	if o := report.Applied[0]; o.App != "lone.bundle" || o.Bundle != "lone" {
		t.Errorf("outcome %+v", o)
	}
	r.apply(Runtime{Name: "edge", Units: []Unit{unit(1, "lone", "", configMap("other", "1"))}})
	foreign := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "foreign.bundle"}}
	if _, err := r.client.CoreV1().ConfigMaps(r.namespace).Create(t.Context(), foreign, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}

	some := configMap("some", "1")
	for _, test := range []struct {
		rt   Runtime
		want string
	}{
		{Runtime{Name: "lone", Units: []Unit{unit(1, "a", "", some)}}, "is installed as a single bundle"},
		{Runtime{Name: "edge", Units: []Unit{unit(1, "", "", some)}}, "is installed as a runtime"},
		{Runtime{Name: "foreign", Units: []Unit{unit(1, "", "", some)}}, "configmap testnames/foreign.bundle, which kapp needs"},
		{Runtime{Name: "a.b", Units: []Unit{unit(1, "a", "", some)}}, `runtime name "a.b"`},
		{Runtime{Name: "a", Units: []Unit{unit(1, "b.c", "", some)}}, `bundle "b.c"`},
		{Runtime{Name: "a", Units: []Unit{unit(1, "b", "", some), unit(1, "", "", some)}}, `bundle ""`},
		{Runtime{Name: "a", Units: []Unit{unit(1, "b", "", some), unit(2, "b", "", some)}}, `two bundles named "b"`},
		{Runtime{Name: "a", Units: []Unit{unit(-1, "b", "", some)}}, "layer -1"},
		{Runtime{Name: "a", Units: []Unit{{Bundle: "b"}}}, "no manifests"},
		{Runtime{Name: "a"}, "has no bundles"},
		{Runtime{Name: "a", Units: []Unit{unit(2, "b", "", some), unit(1, "c", "", some)}}, "not in the order of their layers"},
	} {
		report, err := r.Apply(t.Context(), test.rt, ApplyOptions{})
		if err == nil || !strings.Contains(err.Error(), test.want) || report == nil {
			t.Errorf("apply %s: %v, want %q", test.rt.Name, err, test.want)
		}
	}
	if r.exists(configMaps, "some") {
		t.Error("a refused runtime was applied")
	}
	if _, err := r.List(t.Context(), "not a name"); err == nil {
		t.Error("list of a name that is none: no error")
	}
}

// TestKappAgrees asks kapp's own CLI about apps with dots in their names.
func TestKappAgrees(t *testing.T) {
	r := newRig(t)
	long := strings.Repeat("x", 63)
	before := r.objects()
	r.apply(Runtime{Name: "edge", Units: []Unit{
		unit(1, "one", "1.0.0", configMap("one", "1")),
		unit(1, long, "1.0.0", configMap("long", "1")),
	}})
	list := r.kapp("list")
	for _, text := range []string{`"name": "edge.one"`, `"name": "edge.` + long + `"`, `"last_change_successful": "true"`} {
		if !strings.Contains(list, text) {
			t.Errorf("kapp list lacks %s:\n%s", text, list)
		}
	}
	if inspect := r.kapp("inspect", "-a", "edge.one"); !strings.Contains(inspect, `"name": "one"`) {
		t.Errorf("kapp inspect:\n%s", inspect)
	}
	r.kapp("delete", "-a", "edge.one", "-y")
	r.kapp("delete", "-a", "edge."+long, "-y")
	if _, err := r.Delete(t.Context(), "edge", DeleteOptions{Options: quick()}); err != nil {
		t.Errorf("delete of what is only recorded: %v", err)
	}
	r.wantBack(before)
}

func (r *rig) kapp(args ...string) string {
	r.t.Helper()
	var out bytes.Buffer
	parent := ui.NewWriterUI(&out, &out, ui.NewNoopLogger())
	confUI := ui.NewWrappingConfUI(parent, ui.NewNoopLogger())
	command := cmd.NewDefaultKappCmd(confUI)
	command.SetArgs(append(args, "-n", r.namespace, "--kubeconfig", r.kubeconfig, "--json"))
	err := command.Execute()
	confUI.Flush()
	if err != nil {
		r.t.Fatalf("kapp %s: %v\n%s", args, err, &out)
	}
	return out.String()
}

// TestInterruptAnywhere ends applies and deletes at many moments. Whatever the moment,
// nothing is sent or written after the return, and a rerun completes.
func TestInterruptAnywhere(t *testing.T) {
	r := newRig(t)
	before := r.objects()
	traffic := &counter{}
	r.config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(req *http.Request) (*http.Response, error) {
			traffic.Add(1)
			return next.RoundTrip(req)
		})
	})
	rt := Runtime{Name: "edge", Units: []Unit{
		unit(1, "crds", "1", crd("widgets", "Widget", "anywhere.example")),
		unit(2, "app", "1", "apiVersion: anywhere.example/v1\nkind: Widget\nmetadata: {name: one}", deployment("web", "")),
		unit(3, "last", "1", configMap("last", "1")),
	}}
	interrupted := 0
	call := func(name string, limit time.Duration, do func(context.Context, Options) error) {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		out := &counter{}
		options := Options{OnEvent: func(Event) { out.Add(1) }, PollInterval: 50 * time.Millisecond}
		began := time.Now()
		err := do(ctx, options)
		if late := time.Since(began) - limit; late > time.Second && err != nil {
			t.Errorf("%s interrupted after %s returned %s late", name, limit, late)
		}
		written := out.Load()
		time.Sleep(50 * time.Millisecond) // for requests that were about to be sent
		sent := traffic.Load()
		if err != nil {
			interrupted++
			if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, ErrNotInstalled) {
				t.Errorf("%s interrupted after %s: %v", name, limit, err)
			}
			time.Sleep(200 * time.Millisecond)
		}
		if traffic.Load() != sent || out.Load() != written {
			t.Errorf("%s interrupted after %s went on", name, limit)
		}
	}
	for limit := 10 * time.Millisecond; limit < 3*time.Second; limit *= 3 {
		call("apply", limit, func(ctx context.Context, options Options) error {
			_, err := r.Apply(ctx, rt, ApplyOptions{Options: options})
			return err
		})
		call("delete", limit, func(ctx context.Context, options Options) error {
			_, err := r.Delete(ctx, rt.Name, DeleteOptions{Options: options})
			return err
		})
		r.apply(rt)
		if got := fmt.Sprint(r.list("edge")); got != "[1 edge.crds 1 complete 2 edge.app 1 complete 3 edge.last 1 complete]" {
			t.Errorf("after an interrupt at %s and another apply: %s", limit, got)
		}
		call("delete", limit, func(ctx context.Context, options Options) error {
			_, err := r.Delete(ctx, rt.Name, DeleteOptions{Options: options})
			return err
		})
		if _, err := r.Delete(t.Context(), rt.Name, DeleteOptions{Options: quick()}); err != nil && !errors.Is(err, ErrNotInstalled) {
			t.Errorf("after an interrupt at %s: %v", limit, err)
		}
	}
	if interrupted < 5 {
		t.Errorf("only %d calls were interrupted", interrupted)
	}
	r.wantBack(before)
}

// counter counts requests, or events.
type counter struct{ atomic.Int64 }

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func TestConnect(t *testing.T) {
	if _, err := Connect(Config{Kubeconfig: "testdata/missing"}); err == nil || !strings.Contains(err.Error(), "testdata/missing") {
		t.Errorf("missing kubeconfig: %v", err)
	}
	if _, err := Connect(Config{Kubeconfig: "testdata/kubeconfig", Context: "missing"}); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("missing context: %v", err)
	}
	for _, test := range []struct {
		cfg               Config
		server, namespace string
	}{
		{Config{}, "https://one.example:6443", "default"},
		{Config{Context: "two"}, "https://two.example:6443", "of-two"},
		{Config{Context: "two", Namespace: "given"}, "https://two.example:6443", "given"},
	} {
		test.cfg.Kubeconfig = "testdata/kubeconfig"
		c, err := Connect(test.cfg)
		if err != nil {
			t.Fatal(err)
		}
		if c.Server() != test.server || c.Namespace() != test.namespace {
			t.Errorf("%+v: %s, %s", test.cfg, c.Server(), c.Namespace())
		}
	}
}

// Where no cluster is configured, the error says where it was looked for.
func TestConnectNamesTheFile(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte("apiVersion: v1\nkind: Config\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ variable, file, want string }{
		{"/nope", "", "KUBECONFIG names /nope: stat /nope: no such file or directory"},
		{empty, "", "KUBECONFIG names " + empty + ", which has none"},
		{"/nope", empty, "kubeconfig " + empty + ": no cluster in it"},
	} {
		t.Setenv("KUBECONFIG", c.variable)
		if _, err := Connect(Config{Kubeconfig: c.file}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("KUBECONFIG=%s, file %q: %v, want %q", c.variable, c.file, err, c.want)
		}
	}
}

func TestUnreachable(t *testing.T) {
	c, err := Connect(Config{Kubeconfig: "testdata/kubeconfig", Context: "unreachable"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Apply(t.Context(), Runtime{Name: "edge", Units: []Unit{unit(1, "a", "", configMap("a", ""))}}, ApplyOptions{})
	if err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("apply: %v", err)
	}
}

func TestManifestsMayBeAnyTree(t *testing.T) {
	r := newRig(t)
	r.apply(Runtime{Name: "edge", Units: []Unit{{Bundle: "a", Manifests: fstest.MapFS{
		"README.md":       {Data: []byte("# not a manifest: {")},
		"b/two.yml":       {Data: []byte(configMap("two", "1"))},
		"a/one.yaml":      {Data: []byte(configMap("one", "1"))},
		"a/c/three.json":  {Data: []byte(`{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "three"}}`)},
		"a/c/values.toml": {Data: []byte("no = true")},
	}}}})
	for _, name := range []string{"one", "two", "three"} {
		if !r.exists(configMaps, name) {
			t.Errorf("configmap %s is missing", name)
		}
	}
}
