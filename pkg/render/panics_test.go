package render_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"krtpkg.dev/krtpkg/internal/corpus"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/render"
)

const anySchema = "#@data/values-schema\n---\n#@schema/type any=True\na: null\n"

// What ytt panics at, or answers with a stack trace, is an error that names the place.
func TestYTTErrors(t *testing.T) {
	t.Parallel()
	template := func(list ...string) render.Input {
		return render.Input{Source: &bundle.Source{Template: bundle.TemplateYTT}, Files: files(list...)}
	}
	withValues := template("schema.yaml", anySchema)
	withValues.Values = [][]byte{[]byte("a: {8080: web}\n")}
	for want, in := range map[string]render.Input{
		`schema.yaml:3:1: key 8080 is a number, but ytt accepts only text as keys (write it in quotes: "8080")`: template("schema.yaml", "#@data/values-schema\n---\n8080: web\n"),
		`schema.yaml:4:3: key on is a boolean, but ytt accepts only text as keys (write it in quotes: "on")`:    template("schema.yaml", "#@data/values-schema\n---\nv:\n  on: web\n"),
		`values.yaml:3:1: key no is a boolean, but ytt accepts only text as keys (write it in quotes: "no")`:    template("values.yaml", "#@data/values\n---\nno: web\n"),
		`values.yaml:3:1: key ~ is null, but ytt accepts only text as keys (write it in quotes: "~")`:           template("values.yaml", "#@data/values\n---\n~: web\n"),
		`key 8080 is a number, but ytt accepts only text as keys (write it in quotes: "8080")`:                  withValues,
		"a.yaml:2 | a: #@ 1<<100":                                      template("a.yaml", "#@ x=1\na: #@ 1<<100\n"),
		"a.yaml:2 | a: #@ range(3)":                                    template("a.yaml", "#@ x=1\na: #@ range(3)\n"),
		"a.yaml:2 | a: #@ struct.encode({8080: 1})":                    template("a.yaml", "#@ load(\"@ytt:struct\", \"struct\")\na: #@ struct.encode({8080: 1})\n"),
		"a.yaml:2 | [a]: 1":                                            template("a.yaml", "#@ x = 1\n[a]: 1\n"),
		"expected key 'c' to not be specified again (unless 'yaml/map": template("a.yaml", "#@data/values\n---\nb: &b {c: 1}\ne: {<<: *b, c: 2}\n"),
	} {
		_, err := render.RenderSource(t.Context(), in)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v\nwant %s", err, want)
		}
		if err != nil {
			traceless(t, err)
		}
	}
}

// Values with keys that ytt cannot take are refused where they were written; helm takes them.
func TestKeysThatAreNoText(t *testing.T) {
	t.Parallel()
	content := web(t)
	content.Files[0].Data = []byte(anySchema)
	content.Files[1].Data = []byte("a: 1\n")
	for text, want := range map[string]string{
		"web:\n  a:\n    on: 1\n":             `site.yaml:3:5: key on is a boolean, but ytt accepts only text as keys (write it in quotes: "on")`,
		"dns: {8080: x}\nweb: {a: {1e3: 1}}":  `site.yaml:2:11: key 1e3 is a number, but ytt accepts only text as keys (write it in quotes: "1e3")`,
		"dns: {8080: x}\nweb: {a: {'on': 1}}": "",
	} {
		v := values(t, text)
		for _, v := range []*render.Values{v, v.Override(values(t, "web: {b: 1}")), v.SelectBundles([]string{"web"})} {
			_, err := render.RenderBundle(t.Context(), content, v, atSite)
			if want == "" && err != nil && strings.Contains(err.Error(), "as keys") || want != "" && (err == nil || err.Error() != want) {
				t.Errorf("%s: got %v\nwant %s", text, err, want)
			}
		}
	}
	v, err := assign(t, nil, assignment{"web.a={22: ssh}", true})
	if err != nil {
		t.Fatal(err)
	}
	const want = `web.a:1:2: key 22 is a number, but ytt accepts only text as keys (write it in quotes: "22")`
	if _, err := render.RenderBundle(t.Context(), content, v, atSite); err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
}

// traceless fails a test whose error is a stack trace.
func traceless(t *testing.T, err error) {
	t.Helper()
	for _, mark := range []string{"goroutine ", "runtime/debug", ".go:", "cannot take: runtime error"} {
		if err != nil && strings.Contains(err.Error(), mark) {
			t.Errorf("a stack trace: %.300v", err)
			return
		}
	}
}

// No input ends in a stack trace: upstream's manifests, mistaken definitions, and odd texts, given to
// every engine as each of the things that it takes.
func TestNoInputEndsInATrace(t *testing.T) {
	t.Parallel()
	var inputs []string
	for i, f := range corpus.ListFiles(t) {
		if i%20 == 0 && len(f.Data) < 16<<10 { // all of them take a minute, and are no odder
			inputs = append(inputs, string(f.Data))
		}
	}
	archives, err := filepath.Glob("../../testdata/definitions/bad/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatalf("no archives: %v", err)
	}
	for _, name := range archives {
		archive, err := txtar.ParseFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range archive.Files {
			inputs = append(inputs, string(f.Data))
		}
	}
	inputs = append(inputs, "", "\x00", "\xff\xfe", "a: [", "- ~", "5", "~", "[]", "{}", "--- {}\n--- []", "&a [*a]", "a: &a [*a]", "{8080: web}", "on:", "? [a]\n: b",
		"? {a: 1}\n: 2", "<<: 5", "<<: [5]", "a: !!int x", "a: !!binary '!'", "a: !!timestamp x", "%YAML 1.1\n---\na: 1", "%TAG ! x\n---\na", strings.Repeat("[", 5000), strings.Repeat("{a: ", 3000),
		"apiVersion: v1\nkind: List\nitems: 5", "apiVersion: a/b/c\nkind: X\nmetadata: {name: x}", "kind: {}\napiVersion: []", "apiVersion: v1\nkind: Pod\nmetadata: {name: 5, labels: [], annotations: {a: 1}}",
		"resources: [5]", "patches: {}", "vars: 5", "#@ 1/0\na: 1", "#@data/values\n---\n- a", "#@data/values-schema\n---\na: [1, 2]", "#@overlay/match by=5\n---\n", "a: #@ a(", "#! \n#@", "(@", "a & b * c", "x: |\n  a: &a [*a]\n", "{{ . }}", "{{ define",
		`{"$ref": "#"}`, `{"$ref": "#/a/b"}`, `{"type": ["a", 5], "properties": [], "items": 5, "allOf": {}}`, `{"properties": {"a": {"$ref": "#/properties/a"}}, "required": 5, "enum": {}}`)
	for _, text := range inputs {
		for _, in := range asEach(text) {
			_, err := render.RenderStable(t.Context(), in)
			traceless(t, err)
			_, err = render.ValuesSchema(t.Context(), in)
			traceless(t, err)
		}
		if v, err := render.ParseValues("site.yaml", []byte(text)); err == nil {
			_, err := render.Kept{All: v.Override(v)}.Encode()
			traceless(t, err)
		}
		_, err := render.DecodeKept("kept", []byte(text))
		traceless(t, err)
		if t.Failed() {
			t.Fatalf("input %.500q", text)
		}
	}
}

// asEach are sources that have a text in each place that engines read.
func asEach(text string) []render.Input {
	ytt := &bundle.Source{Template: bundle.TemplateYTT}
	chart := &bundle.Source{Template: bundle.TemplateHelm}
	const template = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n"
	values := chartInput("templates/a.yaml", template+"data: {v: {{ toJson .Values | quote }}}\n")
	values.Values = [][]byte{[]byte(text)}
	takes := render.Input{Source: ytt, Files: files("schema.yaml", anySchema), Values: [][]byte{[]byte(text)}}
	return []render.Input{
		{Source: ytt, Files: files("a.yaml", text)},
		{Source: ytt, Files: files("a.yaml", "#@data/values\n---\n"+text)},
		{Source: ytt, Files: files("a.yaml", "#@data/values-schema\n---\n"+text)},
		takes,
		{Source: &bundle.Source{}, Files: files("a.yaml", text), Overlays: files("o.yaml", overlay)},
		{Source: &bundle.Source{}, Files: files("a.yaml", pod), Overlays: files("o.yaml", text)},
		{Source: &bundle.Source{Patches: []bundle.Patch{{Patch: pod}}}, Files: files("a.yaml", text)},
		{Source: &bundle.Source{Patches: []bundle.Patch{{Patch: text}}}, Files: files("a.yaml", pod)},
		{Source: &bundle.Source{Patches: []bundle.Patch{{Patch: text, Target: &bundle.PatchTarget{Kind: "Pod"}}}}, Files: files("a.yaml", pod)},
		kustomization("", "kustomization.yaml", text, "pod.yaml", pod),
		kustomization("", "kustomization.yaml", "resources: [a.yaml]\n", "a.yaml", text),
		kustomization("", "kustomization.yaml", "resources: [pod.yaml]\ntransformers: [a.yaml]\n", "pod.yaml", pod, "a.yaml", text),
		values,
		chartInput("values.yaml", text, "templates/a.yaml", template),
		chartInput("templates/a.yaml", text),
		chartInput("values.schema.json", text, "templates/a.yaml", template),
		{Source: chart, Files: files("Chart.yaml", text, "templates/a.yaml", template)},
	}
}
