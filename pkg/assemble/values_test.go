package assemble_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"gopkg.in/yaml.v3"
	"oras.land/oras-go/v2/content/memory"

	"krtpkg.dev/krtpkg/internal/hack"
	"krtpkg.dev/krtpkg/pkg/assemble"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/pkgrepo"
	"krtpkg.dev/krtpkg/pkg/render"
)

// scalars are what YAML 1.1, YAML 1.2 and JSON read differently, and their neighbours.
var scalars = []string{
	"no", "No", "NO", "off", "Off", "OFF", "yes", "YES", "on", "ON", "y", "Y", "n", "N", "true", "True", "TRUE", "false", "FALSE",
	"tRUE", "nope", `"no"`, `'NO'`, `"on"`, `"y"`, `"true"`, `'false'`,
	"~", "null", "Null", "NULL", `"~"`, `"null"`, `""`, `''`, "nil", "none",
	"0", "-0", "+1", "1_000", "017", "0o17", "-017", "0x1F", "-0x1f", "0b101", "08", "0777", `"0777"`, `'0x1F'`,
	"9007199254740993", "18446744073709551615", "123456789012345678901234567890", `"9007199254740993"`,
	"1000000", "2592000", "72044e0", "72044e011", "72044e07d2", // helm issues 9162, 12195, 13254
	"1.0", "1.10", "1e3", "1E3", "1e+3", "-1.5e-7", ".5", "5.", "1e400", "1.2.3", `"1.10"`, `"1e3"`, `'.5'`, "e3", "._1", "0x1p-2",
	"12:30:45", "1:30", "190:20:30.15", `"12:30"`, "22:22",
	"2024-01-02", "2024-1-2", "2024-01-02T03:04:05Z", "2001-12-14 21:59:43.10", "20240102", `"2024-01-02"`, "2024-13-40",
	"=", "<", `"<<"`, `'='`, "-", "?x", ":x", "!!str 5", "!!str no", "!!int \"12\"", "!!float 1", "!!bool \"yes\"", "!own x", "! 12", "! no", "!!binary aGk=",
	"plain text", "it's", `"a\tb\u00e9\x07"`, `"line\nline\n"`, `' x '`, "a: #c", "http://x/#a", "café", "😀", "#x", "@x", "`x`", "%x", "&x y", "*",
	"|\n        one\n         two\n", "|+\n        one\n\n", ">\n        one\n        two\n\n        three\n", "word\n        more", `"fold
        ed"`,
	"[no, 1e3, '017', ~]", "{'off': [y], a: on}", "[]", "{}",
}

// scalars returns those that can stand where they are put.
func (e engine) scalars(t *testing.T) (usable []string) {
	t.Helper()
	all := scalars
	if e.name == "ytt" { // JSON, and so helm, has none of these
		all = append(slices.Clip(all), ".inf", "-.INF", "+.Inf", ".nan")
	}
	if e.name == "kustomize" { // it refuses this tag at the old booleans
		all = slices.DeleteFunc(slices.Clone(all), func(s string) bool { return strings.HasPrefix(s, "!!bool") })
	}
	for _, s := range all {
		if _, err := manifest.Parse("scalar", []byte("a:\n    b: "+s+"\n")); err == nil {
			usable = append(usable, s)
		}
	}
	if len(usable) < 100 {
		t.Fatalf("only %d scalars", len(usable))
	}
	return usable
}

// document returns all scalars as values (v) and, one in a mapping each, as keys (k).
func (e engine) document(t *testing.T) string {
	t.Helper()
	var values, keys strings.Builder
	for i, s := range e.scalars(t) {
		fmt.Fprintf(&values, "    s%03d: %s\n", i, strings.TrimSuffix(s, "\n"))
		if e.isKey(s) {
			fmt.Fprintf(&keys, "    s%03d: {%s: x}\n", i, s)
		}
	}
	return "v:\n" + values.String() + "k:\n" + keys.String()
}

// helmKey reports whether helm takes a scalar as a key.
func helmKey(s string) bool {
	_, err := manifest.Parse("key", []byte("{"+s+": x}"))
	if err != nil || strings.ContainsAny(s, "\n[{") || slices.Contains([]string{"18446744073709551615", "?x", "*", "#x", "a: #c"}, s) {
		return false // more than a scalar, or more than JSON's keys
	}
	return !slices.Contains([]string{"~", "null", "Null", "NULL"}, s)
}

// yttKey reports whether ytt takes a scalar as a key: as text.
func yttKey(s string) bool {
	if !helmKey(s) {
		return false
	}
	var node yaml.Node
	if err := yaml.Unmarshal([]byte("{"+s+": x}"), &node); err != nil {
		return false
	}
	for range manifest.NonStringKeys(&node) {
		return false
	}
	return s != `"<<"` && !strings.HasPrefix(s, "!") // ytt takes quotes off a merge key
}

const (
	chartTemplate = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: all}\ndata:\n  all: {{ toJson (dict \"v\" .Values.v \"k\" .Values.k) | quote }}\n"
	yttTemplate   = "#@ load(\"@ytt:data\", \"data\")\n#@ load(\"@ytt:yaml\", \"yaml\")\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: all}\ndata:\n  all: #@ yaml.encode(data.values)\n"
	yttSchema     = "#@data/values-schema\n---\n#@schema/type any=True\nv: null\n#@schema/type any=True\nk: null\n"
)

// engine is one that takes values: its name, the files of a source, and its program.
type engine struct {
	name  string
	files map[string]string
	isKey func(string) bool
	args  func(dir, values string) []string
	set   string // its flag for one value that is text
}

var engines = []engine{
	{"helm", map[string]string{"Chart.yaml": "apiVersion: v2\nname: all\nversion: 1.0.0\n", "templates/all.yaml": chartTemplate}, helmKey,
		func(dir, values string) []string { return []string{"template", "b", dir, "--values", values} }, "--set-literal"},
	{"ytt", map[string]string{"schema.yaml": yttSchema, "all.yaml": yttTemplate}, yttKey,
		func(dir, values string) []string { return []string{"-f", dir, "--data-values-file", values} }, "--data-value"},
}

// A value means what the program of its engine makes of it, wherever it was given and however
// often it was written down and read again since.
func TestValuesMeanWhatTheToolsSay(t *testing.T) {
	t.Parallel()
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			doc := e.document(t)
			want := e.run(t, doc)
			for route, got := range routes(t, e, doc) {
				compare(t, e, route, got, want)
			}
			compare(t, e, "--data-value", e.single(t), e.runSingle(t))
		})
	}
}

// compare names the scalars that differ.
func compare(t *testing.T, e engine, route string, got, want map[string]any) {
	t.Helper()
	differ := 0
	for part, all := range want {
		of, _ := got[part].(map[string]any)
		for name, value := range all.(map[string]any) {
			if w, g := fmt.Sprintf("%T %v", value, value), fmt.Sprintf("%T %v", of[name], of[name]); w != g {
				if differ++; differ <= 12 {
					var i int
					fmt.Sscanf(name, "s%03d", &i)
					t.Errorf("%s, %s: %s %q is %s, want %s", e.name, route, part, e.scalars(t)[i], g, w)
				}
			}
		}
	}
	if differ > 12 {
		t.Errorf("%s, %s: %d differences", e.name, route, differ)
	}
}

// run returns what the engine's program makes of values.
func (e engine) run(t *testing.T, values string) map[string]any {
	t.Helper()
	file := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(file, []byte(values), 0o644); err != nil {
		t.Fatal(err)
	}
	return e.exec(t, func(dir string) []string { return e.args(dir, file) })
}

func (e engine) exec(t *testing.T, args func(dir string) []string) map[string]any {
	t.Helper()
	dir := t.TempDir()
	for name, data := range e.files {
		place(t, filepath.Join(dir, name), []byte(data))
	}
	program := hack.BuildForTest(t, "tools/"+e.name)
	cmd := exec.Command(program, args(dir)...)
	cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=/nowhere"}
	out, err := cmd.Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		t.Fatalf("%v: %.2000s", err, failed.Stderr)
	}
	if err != nil {
		t.Fatal(err)
	}
	return said(t, out)
}

// said returns what a rendered ConfigMap says of the values.
func said(t *testing.T, rendered []byte) map[string]any {
	t.Helper()
	var cm struct{ Data struct{ All string } }
	if err := yaml.Unmarshal(rendered, &cm); err != nil {
		t.Fatalf("%v\n%s", err, rendered)
	}
	var all map[string]any
	// Numbers of JSON stay as they are written; what ytt writes is YAML.
	decoder := json.NewDecoder(strings.NewReader(cm.Data.All))
	decoder.UseNumber()
	if decoder.Decode(&all) == nil {
		return all
	}
	// Of ytt's YAML, the text and the quotes.
	var parts map[string]map[string]yaml.Node
	if err := yaml.Unmarshal([]byte(cm.Data.All), &parts); err != nil {
		t.Fatalf("%v\n%s", err, cm.Data.All)
	}
	all = map[string]any{}
	for part, nodes := range parts {
		texts := map[string]any{}
		for name, node := range nodes {
			text, err := yaml.Marshal(&node)
			if err != nil {
				t.Fatal(err)
			}
			texts[name] = string(text)
		}
		all[part] = texts
	}
	return all
}

// routes returns what krtpkg makes of a document by each way that values go.
func routes(t *testing.T, e engine, doc string) map[string]map[string]any {
	t.Helper()
	indented := func(by string) string {
		return by + strings.TrimSuffix(strings.ReplaceAll(doc, "\n", "\n"+by), by)
	}
	got := map[string]map[string]any{}
	definitions := map[string]string{
		"values of a definition": "      values:\n" + indented("        "),
		"values files":           "      valuesFiles: [values.yaml]\n",
		"values over a file":     "      valuesFiles: [values.yaml]\n      values:\n" + indented("        "),
	}
	for route, values := range definitions {
		for _, when := range []string{"build", "target"} {
			b, files := e.build(t, when, values, doc)
			rendered, err := render.RenderTemplates(t.Context(), b, nil)
			if err != nil {
				t.Fatal(err)
			}
			got[route+", rendered at the "+when] = said(t, only(t, rendered))
			if when == "target" {
				got[route+", of a package"] = e.run(t, packageValues(t, files))
			}
		}
	}
	b, _ := e.build(t, "target", "", "")
	site, err := render.ParseValues("site.yaml", []byte("b:\n"+indented("  ")))
	if err != nil {
		t.Fatal(err)
	}
	single := e.assign(t, doc)
	for route, v := range map[string]*render.Values{
		"--values": site, "kept once": again(t, site), "kept twice": again(t, again(t, site)), "over themselves": site.Override(again(t, site)),
		"--data-value-yaml": single, "--data-value-yaml, kept": again(t, single),
	} {
		rendered, err := render.RenderBundle(t.Context(), b, v, func(d name.Digest) string { return d.String() })
		if err != nil {
			t.Fatalf("%s: %v", route, err)
		}
		got[route] = said(t, only(t, rendered))
		got[route+", of packages install"] = e.run(t, installValues(t, b, v))
	}
	return got
}

// build makes a bundle of the engine's files and opens it.
func (e engine) build(t *testing.T, when, values, file string) (*bundle.Content, []bundle.File) {
	t.Helper()
	dir := t.TempDir()
	for name, data := range e.files {
		place(t, filepath.Join(dir, "b", "src", name), []byte(data))
	}
	place(t, filepath.Join(dir, "b", "values.yaml"), []byte(file))
	place(t, filepath.Join(dir, "b", "bundle.yaml"), []byte("apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: b, version: 1.0.0}\nspec:\n  layer: 6\n  sources:\n    - dir: src\n      template: "+
		e.name+"\n      render: "+when+"\n"+values))
	place(t, filepath.Join(dir, "runtime.yaml"), []byte("apiVersion: krtpkg.dev/v1alpha1\nkind: Runtime\nmetadata: {name: r, version: 1.0.0}\nspec: {bundles: [{path: b}]}\n"))
	o := options()
	store := memory.New()
	o.Store = store
	built, err := assemble.Build(t.Context(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := bundle.Open(t.Context(), store, built.Bundles[0].Descriptor)
	if err != nil {
		t.Fatal(err)
	}
	return &opened.Content, built.Files
}

func only(t *testing.T, files []bundle.File) []byte {
	t.Helper()
	if len(files) != 1 {
		t.Fatalf("%d files", len(files))
	}
	return files[0].Data
}

// packageValues returns the values file that kapp-controller gives the engine of a package.
func packageValues(t *testing.T, files []bundle.File) string {
	t.Helper()
	for _, f := range files {
		var p struct {
			Kind string
			Spec struct {
				Template struct {
					Spec struct {
						Fetch []struct {
							Inline struct{ Paths map[string]string }
						}
					}
				}
			}
		}
		if err := yaml.Unmarshal(f.Data, &p); err == nil && p.Kind == "Package" {
			fetch := p.Spec.Template.Spec.Fetch
			return fetch[len(fetch)-1].Inline.Paths["values.yaml"]
		}
	}
	t.Fatal("no package")
	return ""
}

// installValues returns the values file that a PackageInstall has kapp-controller give to the engine.
func installValues(t *testing.T, b *bundle.Content, v *render.Values) string {
	t.Helper()
	lock := &bundle.RuntimeLock{Metadata: bundle.Metadata{Name: "r", Version: "1.0.0"}}
	documents, err := pkgrepo.InstallDocuments(lock, []pkgrepo.Install{{Bundle: b.Bundle, Values: manifest.GetValue(v.Node(), "b")}}, pkgrepo.Site{Namespace: "n"})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range documents[1].Resources {
		data, err := yaml.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var secret struct {
			StringData map[string]string `yaml:"stringData"`
		}
		if err := yaml.Unmarshal(data, &secret); err == nil && secret.StringData != nil {
			return secret.StringData["values.yaml"]
		}
	}
	t.Fatal("no Secret")
	return ""
}

// again is values as a cluster has kept them.
func again(t *testing.T, v *render.Values) *render.Values {
	t.Helper()
	data, err := render.Kept{All: v}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	kept, err := render.DecodeKept("kept", data)
	if err != nil {
		t.Fatalf("%v\n%s", err, data)
	}
	return kept.All
}

// assign returns each scalar by a --data-value-yaml of its own.
func (e engine) assign(t *testing.T, doc string) *render.Values {
	t.Helper()
	var all []render.Assignment
	for i, s := range e.scalars(t) {
		lines := strings.ReplaceAll(s, "\n        ", "\n  ")
		texts := []string{fmt.Sprintf("b.v.s%03d=%s", i, lines)}
		if e.isKey(s) {
			texts = append(texts, fmt.Sprintf("b.k.s%03d={%s: x}", i, s))
		}
		for _, text := range texts {
			a, err := render.ParseAssignment(text, true)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, a)
		}
	}
	v, err := (*render.Values)(nil).WithAssignments(all...)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// single returns the text of each scalar by a --data-value of its own.
func (e engine) single(t *testing.T) map[string]any {
	t.Helper()
	var all []render.Assignment
	for i, s := range e.scalars(t) {
		a, err := render.ParseAssignment(fmt.Sprintf("b.v.s%03d=%s", i, s), false)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, a)
	}
	v, err := (*render.Values)(nil).WithAssignments(all...)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := e.build(t, "target", "", "")
	rendered, err := render.RenderBundle(t.Context(), b, again(t, v), func(d name.Digest) string { return d.String() })
	if err != nil {
		t.Fatal(err)
	}
	return said(t, only(t, rendered))
}

// runSingle is [engine.single] of the program.
func (e engine) runSingle(t *testing.T) map[string]any {
	t.Helper()
	empty := filepath.Join(t.TempDir(), "empty.yaml")
	if err := os.WriteFile(empty, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	all := e.exec(t, func(dir string) []string {
		args := e.args(dir, empty)
		for i, s := range e.scalars(t) {
			args = append(args, e.set, fmt.Sprintf("v.s%03d=%s", i, s))
		}
		return args
	})
	delete(all, "k")
	return all
}

// Values over others are merged as the programs merge their files.
func TestValuesOverOthersAsTheToolsMerge(t *testing.T) {
	t.Parallel()
	layers := []string{
		"v: {a: {x: 1, y2: [1, 2], z: no}, b: &b {c: 1, d: \"on\"}, e: {<<: *b, q: off}, f: {q: off, <<: *b}}\nk: {on2: {a: 1}, '1': {a: 1}}\n",
		"v: {a: {y2: [no], z: 1e3}, n2: {m: 2024-01-02}}\nk: {on2: {b: NO}, '1': {a: ~}}\n",
	}
	odd := []string{"v: {z: no, b: {c: 1}, on: {a: 1}, 0x10: {a: 1}, 1.0: {a: 1}, no: 1, e: {<<: &b {c: 1, d: on}, d: 2}, f: {d: 2, <<: *b}, g: {h: 0, <<: [{h: 1, i: 2}, {h: 3, j: 4}], j: 5}}\nk: {}\n", "v: {z: {n1: 017}, b: null, yes: {b: 2}, '16': {b: 2}, 1: {b: 2}, off: 3, \"no\": 4}\nk: {}\n"}
	for _, e := range engines {
		for i, pair := range [][]string{layers, odd} {
			if i == 1 && e.name == "ytt" {
				continue // keys that are no text, a list of merges, and values of another type
			}
			files := []string{filepath.Join(t.TempDir(), "under.yaml"), filepath.Join(t.TempDir(), "over.yaml")}
			for k, file := range files {
				place(t, file, []byte(pair[k]))
			}
			want := e.exec(t, func(dir string) []string {
				under := e.args(dir, files[0])
				return append(under, under[len(under)-2], files[1])
			})
			under, err := render.ParseValues("under.yaml", []byte("b:\n  "+strings.ReplaceAll(pair[0], "\n", "\n  ")))
			if err != nil {
				t.Fatal(err)
			}
			over, err := render.ParseValues("over.yaml", []byte("b:\n  "+strings.ReplaceAll(pair[1], "\n", "\n  ")))
			if err != nil {
				t.Fatal(err)
			}
			b, _ := e.build(t, "target", "", "")
			for route, v := range map[string]*render.Values{"--values over others": over.Override(under), "kept": again(t, again(t, over).Override(again(t, under)))} {
				rendered, err := render.RenderBundle(t.Context(), b, v, func(d name.Digest) string { return d.String() })
				if err != nil {
					t.Fatal(err)
				}
				if got := said(t, only(t, rendered)); !reflect.DeepEqual(got, want) {
					t.Errorf("%s, %s:\n got %v\nwant %v", e.name, route, got, want)
				}
			}
			b, _ = e.build(t, "target", "      valuesFiles: [values.yaml]\n      values:\n        "+strings.ReplaceAll(pair[1], "\n", "\n        "), pair[0])
			rendered, err := render.RenderTemplates(t.Context(), b, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := said(t, only(t, rendered)); !reflect.DeepEqual(got, want) {
				t.Errorf("%s, values of a definition over a file:\n got %v\nwant %v", e.name, got, want)
			}
		}
	}
}

// What kustomize gets is the author's text: resources, and patches that a definition holds.
func TestScalarsAsKustomizeHasThem(t *testing.T) {
	t.Parallel()
	e := engine{name: "kustomize", isKey: func(s string) bool { return len(s) != 2 && !strings.HasPrefix(s, "20") && yttKey(s) }} // it takes neither empty keys nor dates
	doc := "  " + strings.TrimSuffix(strings.ReplaceAll(e.document(t), "\n", "\n  "), "  ")
	const resource = "apiVersion: example.com/v1\nkind: All\nmetadata: {name: all}\n"
	full := resource + "spec:\n" + doc
	indent := func(by string) string { return by + strings.ReplaceAll(full, "\n", "\n"+by) }
	for name, c := range map[string]struct{ resource, kustomization, source string }{
		"resources": {full, "resources: [r.yaml]\n", "      template: kustomize\n"},
		"patches": {resource + "spec: {}\n", "resources: [r.yaml]\npatches:\n- patch: |\n" + indent("    "),
			"      include: [r.yaml]\n      patches:\n        - patch: |\n" + indent("            ")},
	} {
		dir := t.TempDir()
		place(t, filepath.Join(dir, "src", "r.yaml"), []byte(c.resource))
		place(t, filepath.Join(dir, "src", "kustomization.yaml"), []byte(c.kustomization))
		place(t, filepath.Join(dir, "bundle.yaml"), []byte("apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: b, version: 1.0.0}\nspec:\n  layer: 6\n  sources:\n    - dir: src\n"+c.source))
		program := hack.BuildForTest(t, "tools/kustomize")
		want, err := exec.Command(program, "build", filepath.Join(dir, "src")).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, want)
		}
		built, err := assemble.Build(t.Context(), dir, options())
		if err != nil {
			t.Fatal(err)
		}
		if got := only(t, built.Files); string(got) != string(want) {
			t.Errorf("%s:\n got %s\nwant %s", name, got, want)
		}
	}
}
