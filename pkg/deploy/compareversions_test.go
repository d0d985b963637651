package deploy

import (
	"fmt"
	"io/fs"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"krtpkg.dev/krtpkg/pkg/deploy/preflight"
)

// manifestsOf returns the manifests of a bundle, for a comparison.
func manifestsOf(bundle, applied string) BundleManifests {
	return BundleManifests{Bundle: bundle, Applied: fstest.MapFS{"all.yaml": {Data: []byte(applied)}}}
}

func compareTexts(t *testing.T, before, after string) *Comparison {
	t.Helper()
	c, err := CompareManifests(t.Context(), []BundleManifests{manifestsOf("one", before)}, []BundleManifests{manifestsOf("one", after)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const loginSecret = `apiVersion: v1
kind: Secret
metadata:
  name: login
  annotations: {kubectl.kubernetes.io/last-applied-configuration: '{"stringData":{"password":"PASSWORD"}}'}
stringData: {password: PASSWORD, kept: swordfish, MORE: rosebud}
data: {token: TOKEN}
`

// What a Secret holds is not in a difference, which tells all the same whether it changed; a rule of a bundle masks
// other kinds.
func TestComparedSecretsAreMasked(t *testing.T) {
	t.Parallel()
	const rule = `apiVersion: kapp.k14s.io/v1alpha1
kind: Config
diffMaskRules:
- path: [spec]
  resourceMatchers: [{apiVersionKindMatcher: {apiVersion: example.com/v1, kind: Login}}]
---
apiVersion: example.com/v1
kind: Login
metadata: {name: own}
spec: {password: PASSWORD}
`
	version := func(password, more string) string {
		return strings.NewReplacer("PASSWORD", password, "MORE", more, "TOKEN", "c3dvcmRmaXNo").Replace(loginSecret + "---\n" + rule)
	}
	c := compareTexts(t, version("hunter2", "one"), version("hunter3", "two"))
	if len(c.Changes) != 2 || c.Changes[0].Kind != "Secret" && c.Changes[1].Kind != "Secret" {
		t.Fatalf("changes: %+v", c.Changes)
	}
	var all strings.Builder
	for _, change := range c.Changes {
		all.WriteString(change.Diff)
	}
	for _, secret := range []string{"hunter", "swordfish", "rosebud", "c3dvcmRmaXNo"} {
		if strings.Contains(all.String(), secret) {
			t.Errorf("%s is shown:\n%s", secret, &all)
		}
	}
	for _, line := range []string{"-   password: <not shown, old value>", "+   password: <not shown, new value>", "    kept: <not shown>", "-   one: <not shown>", "+   two: <not shown>"} {
		if !strings.Contains(all.String(), line) {
			t.Errorf("want %q in\n%s", line, &all)
		}
	}
	// What a bundle masks is masked in its hooks too.
	rules, login, _ := strings.Cut(rule, "\n---\n")
	side := func(password string) []BundleManifests {
		hook := strings.ReplaceAll(login, "PASSWORD", password)
		return []BundleManifests{{Bundle: "one", Applied: manifestsOf("", rules).Applied, Hooks: manifestsOf("", hook).Applied}}
	}
	c, err := CompareManifests(t.Context(), side("hunter2"), side("hunter3"))
	if err != nil || len(c.Changes) != 1 || strings.Contains(c.Changes[0].Diff, "hunter") {
		t.Errorf("hooks: %+v, error %v", c, err)
	}
	// Where the values cannot be found, nothing is shown.
	c = compareTexts(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: odd}\ndata: hunter2\n", "apiVersion: v1\nkind: Secret\nmetadata: {name: odd}\ndata: hunter3\n")
	if len(c.Changes) != 1 || strings.Contains(c.Changes[0].Diff, "hunter") || !strings.Contains(c.Changes[0].Diff, "not shown") {
		t.Errorf("changes: %+v", c.Changes)
	}
}

// A resource that moves to another bundle, to another version of its API, or only runs as a hook is not taken for others.
func TestComparedResources(t *testing.T) {
	t.Parallel()
	hooks := func(text string) fs.FS { return fstest.MapFS{"hooks.yaml": {Data: []byte(text)}} }
	before := []BundleManifests{
		{Bundle: "one", Applied: manifestsOf("", configMap("moved", "1")+"\n---\n"+configMap("gone", "1")+"\n---\n"+configMap("same", "1")).Applied, Hooks: hooks(configMap("same", "1"))},
		manifestsOf("two", "apiVersion: example.com/v1beta1\nkind: Gadget\nmetadata: {name: g}\n"),
	}
	after := []BundleManifests{
		manifestsOf("two", "apiVersion: example.com/v1\nkind: Gadget\nmetadata: {name: g}\n---\n"+configMap("moved", "1")),
		{Bundle: "one", Applied: manifestsOf("", configMap("same", "1")).Applied, Hooks: hooks(configMap("same", "2"))},
	}
	c, err := CompareManifests(t.Context(), before, after)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, change := range c.Changes {
		got = append(got, fmt.Sprint(change.Bundle, " ", change.Op, " ", change.Kind, " ", change.Name, " ", change.From, " ", change.Hook))
	}
	want := []string{"two update Gadget g  false", "two update ConfigMap moved one false", "one update ConfigMap same  true", "one delete ConfigMap gone  false"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if _, err := CompareManifests(t.Context(), before, []BundleManifests{manifestsOf("broken", "a: [")}); err == nil || !strings.Contains(err.Error(), "new version: bundle broken: all.yaml") {
		t.Errorf("error %v", err)
	}
}

// A file that is not split into documents because of a line like a directive is compared as a whole.
func TestComparedFilesWithDirectives(t *testing.T) {
	t.Parallel()
	plain := configMap("m", "1")
	odd := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata:\n  key: \"x\n% y\"\n---\n" + configMap("fresh", "1")
	for _, c := range []struct{ before, after, want string }{
		{plain, odd, "create fresh, update m"},
		{odd, plain, "update m, delete fresh"},
		{odd, odd, ""},
		{plain, plain, ""},
	} {
		var got []string
		for _, change := range compareTexts(t, c.before, c.after).Changes {
			got = append(got, string(change.Op)+" "+change.Name)
		}
		if strings.Join(got, ", ") != c.want {
			t.Errorf("%q to %q: got %q, want %q", c.before, c.after, got, c.want)
		}
	}
	broken := manifestsOf("one", plain+"\n---\na: [\n% b\n")
	if c, err := CompareManifests(t.Context(), []BundleManifests{manifestsOf("one", plain)}, []BundleManifests{broken}); err == nil {
		t.Errorf("a file that is not YAML: %+v", c.Changes)
	}
}

// A difference ends at limits, of lines, of a line and of all, and says so.
func TestComparedDifferencesAreLimited(t *testing.T) {
	t.Parallel()
	lines := func(word string) string {
		var text strings.Builder
		text.WriteString("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: long}\ndata:\n")
		for i := range 3000 {
			fmt.Fprintf(&text, "  k%04d: %s\n", i, word)
		}
		return text.String()
	}
	c := compareTexts(t, lines("one"), lines("two"))
	if n := strings.Count(c.Changes[0].Diff, "\n"); n != maxDiffLines+1 || !strings.Contains(c.Changes[0].Diff, "more lines") {
		t.Errorf("%d lines, ending in %q", n, c.Changes[0].Diff[len(c.Changes[0].Diff)-60:])
	}
	c = compareTexts(t, configMap("wide", strings.Repeat("a", 1<<20)), configMap("wide", strings.Repeat("b", 1<<20)))
	if n := len(c.Changes[0].Diff); n > 3*maxDiffLine || !strings.Contains(c.Changes[0].Diff, "more bytes") {
		t.Errorf("%d bytes", n)
	}
}

// A definition that no API server would take is not compared, which is told.
func TestHugeDefinitionsAreRefused(t *testing.T) {
	t.Parallel()
	var fields strings.Builder
	for i := range 70_000 {
		fmt.Fprintf(&fields, "f%d: {type: string, title: t}, ", i)
	}
	c := compareTexts(t, gadgets("a: {type: string}"), gadgets(strings.TrimSuffix(fields.String(), ", ")))
	if len(c.Findings) != 1 || !strings.Contains(c.Findings[0].String(), "error (definitions): one, CustomResourceDefinition gadgets.upgrades.example") ||
		!strings.Contains(c.Findings[0].Message, "cannot be compared: more than 200000 values") {
		t.Errorf("findings: %v", c.Findings)
	}
}

// What a comparison says of definitions is what a plan says on a cluster that has the old version.
func TestComparisonSaysWhatPlanSays(t *testing.T) {
	r := newRig(t)
	one := func(kind, fields string) string {
		return strings.NewReplacer("gadgets", kind+"s", "Gadget", strings.ToUpper(kind[:1])+kind[1:], "upgrades.example", "compared.example").Replace(gadgets(fields))
	}
	const served = "  - {name: v0, served: true, storage: false, schema: {openAPIV3Schema: {type: object}}}\n"
	before := []string{
		one("lost", "name: {type: string}, old: {type: string}"), one("narrow", "size: {type: integer, maximum: 9}"), one("same", "a: {type: string}"),
		one("scoped", "a: {type: string}"), one("stored", "a: {type: string}"), strings.TrimRight(one("served", "a: {type: string}"), "\n") + "\n" + served,
		one("told", "a: {type: string, description: it}"), one("gone", "a: {type: string}"),
	}
	after := []string{
		one("lost", "name: {type: string}"), one("narrow", "size: {type: integer, maximum: 8}"), one("same", "a: {type: string}"),
		strings.Replace(one("scoped", "a: {type: string}"), "scope: Namespaced", "scope: Cluster", 1),
		strings.Replace(one("stored", "a: {type: string}"), "name: v1\n", "name: v2\n", 1), one("served", "a: {type: string}"),
		one("told", "a: {type: string, description: what it is}"), one("fresh", "a: {type: string}"),
	}
	version := func(number string, kinds []string) Runtime {
		half := len(kinds) / 2
		return Runtime{Name: "compared", Version: number, Units: []Unit{unit(1, "first", number, kinds[:half]...), unit(2, "second", number, kinds[half:]...)}}
	}
	old, current := version("1", before), version("2", after)
	r.apply(old)
	var planned []preflight.Finding
	for _, f := range r.plan(current).Findings {
		if f.Check == preflight.CheckDefinitions {
			planned = append(planned, f)
		}
	}
	manifests := func(rt Runtime) (all []BundleManifests) {
		for _, u := range rt.Units {
			all = append(all, BundleManifests{Bundle: u.Bundle, Applied: u.Manifests})
		}
		return all
	}
	compared, err := CompareManifests(t.Context(), manifests(old), manifests(current))
	if err != nil {
		t.Fatal(err)
	}
	sort := func(all []preflight.Finding) {
		slices.SortFunc(all, func(a, b preflight.Finding) int { return strings.Compare(a.String(), b.String()) })
	}
	sort(planned)
	sort(compared.Findings)
	if len(planned) < 5 || !reflect.DeepEqual(planned, compared.Findings) {
		t.Errorf("planned:\n%s\ncompared:\n%s", joinFindings(planned), joinFindings(compared.Findings))
	}
	r.deleted("compared")
}

func joinFindings(all []preflight.Finding) string {
	var text strings.Builder
	for _, f := range all {
		fmt.Fprintln(&text, f)
	}
	return text.String()
}
