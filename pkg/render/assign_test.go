package render_test

import (
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/pkg/render"
)

type assignment struct {
	text   string
	isYAML bool
}

func assign(t *testing.T, v *render.Values, list ...assignment) (*render.Values, error) {
	t.Helper()
	var all []render.Assignment
	for _, a := range list {
		parsed, err := render.ParseAssignment(a.text, a.isYAML)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, parsed)
	}
	return v.WithAssignments(all...)
}

// Assignments go over the values file, later ones over earlier ones, and leave it as it was.
func TestAssignments(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		file string
		list []assignment
		want string
	}{
		"over nothing":            {"", []assignment{{"web.tag=2", false}}, "tag: \"2\"\n"},
		"YAML":                    {"", []assignment{{"web.replicas=2", true}}, "replicas: 2\n"},
		"a mapping":               {"web: {a: {b: 1}}\n", []assignment{{"web.a={c: 2}", true}}, "a:\n    c: 2\n"},
		"nothing":                 {"", []assignment{{"web.a=", true}}, "a: null\n"},
		"an empty string":         {"", []assignment{{"web.a=", false}}, "a: \"\"\n"},
		"more than one =":         {"", []assignment{{"web.a=b=c", false}}, "a: b=c\n"},
		"over the file":           {"web: {a: {b: 1, c: 2}}\n", []assignment{{"web.a.b=x", false}}, "a:\n    b: x\n    c: 2\n"},
		"later over earlier":      {"", []assignment{{"web.a.b=x", false}, {"web.a.b=y", false}}, "a:\n    b: \"y\"\n"},
		"a key with a dot":        {"", []assignment{{`web.a.example\.com/x\\y=1`, true}}, "a:\n    example.com/x\\y: 1\n"},
		"through null":            {"web: {a: null}\n", []assignment{{"web.a.b=x", false}}, "a:\n    b: x\n"},
		"beside a merge":          {"dns: &d {a: {b: 1, c: 2}}\nweb: {<<: *d, z: 0}\n", []assignment{{"web.a.b=x", false}}, "a:\n    b: x\n    c: 2\nz: 0\n"},
		"beside a list of merges": {"dns: &d {a: 1}\nweb: {<<: [*d, {a: 2, b: 3}]}\n", []assignment{{"web.c=x", false}}, "a: 1\nb: 3\nc: x\n"},
		"dates stay as they are":  {"web: {a: 2024-01-02}\n", []assignment{{"web.b=2024-01-02", true}}, "a: 2024-01-02\nb: 2024-01-02\n"},
	} {
		var before *render.Values
		if c.file != "" {
			before = values(t, c.file)
		}
		v, err := assign(t, before, c.list...)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := render.Blocks(t, render.Of(t, v, "web")); got != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, c.want)
		}
		if c.file != "" && render.Blocks(t, render.Of(t, before, "web")) != render.Blocks(t, render.Of(t, values(t, c.file), "web")) {
			t.Errorf("%s: the file's values have changed", name)
		}
	}
}

func TestAssignmentsRefuse(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"web":                `"web" is not an assignment: want bundle.key=value`,
		"web=1":              `"web" is not a path to a value: want bundle.key or bundle.key.key`,
		"web.=1":             `"web." is not a path to a value`,
		".a=1":               `".a" is not a path to a value`,
		"web..a=1":           `"web..a" is not a path to a value`,
		"web.a={":            "web.a:",
		"web.a={b: 1, b: 2}": `duplicate key "b"`,
		"web.a=1\n---\n2":    "web.a: want a single document",
		"web.a=&a [*a]":      "web.a:1:5: alias *a is inside its own anchor",
	} {
		if _, err := render.ParseAssignment(text, true); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
	for text, want := range map[string]string{
		"web.replicas.x=1": "web.replicas.x: web.replicas is not a mapping",
		"web.list.0=1":     "web.list.0: web.list is not a mapping",
	} {
		if _, err := assign(t, values(t, "web: {replicas: 1, list: [1]}\n"), assignment{text, false}); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
	v, err := assign(t, nil, assignment{"wbe.a=1", false})
	if err != nil {
		t.Fatal(err)
	}
	const want = `wbe.a: unknown bundle "wbe" (the bundles are dns, web)`
	if err := v.CheckBundles([]string{"dns", "web"}); err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
	if err := v.CheckBundles([]string{"wbe"}); err != nil {
		t.Error(err)
	}
}

// A bundle takes assignments as it takes a file's values.
func TestBundleTakesAssignments(t *testing.T) {
	t.Parallel()
	v, err := assign(t, values(t, "web: {replicas: 2}\n"), assignment{"web.replicas=4", true})
	if err != nil {
		t.Fatal(err)
	}
	got, err := render.RenderBundle(t.Context(), web(t), v, atSite)
	if err != nil || !strings.Contains(text(got), "replicas: 4\n") {
		t.Errorf("%v\n%s", err, text(got))
	}
}
