package render_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"log"
	"reflect"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/v2/loader"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/render"
)

// files returns those of an alternating list of paths and texts.
func files(list ...string) []bundle.File {
	var all []bundle.File
	for i := 0; i+1 < len(list); i += 2 {
		all = append(all, bundle.File{Path: list[i], Data: []byte(list[i+1])})
	}
	return all
}

// packed returns a chart as helm packs it.
func packed(t *testing.T, name string, list ...string) string {
	t.Helper()
	var data bytes.Buffer
	zipped := gzip.NewWriter(&data)
	archive := tar.NewWriter(zipped)
	for _, f := range files(list...) {
		if err := archive.WriteHeader(&tar.Header{Name: name + "/" + f.Path, Size: int64(len(f.Data)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write(f.Data); err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zipped.Close(); err != nil {
		t.Fatal(err)
	}
	return data.String()
}

const configMap = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ .Release.Name }}}\n"

// odd returns a chart with all that the loader of a folder and the one of files could see in two ways.
func odd(t *testing.T) []bundle.File {
	t.Helper()
	return files(
		"Chart.yaml", "\uFEFFapiVersion: v2\nname: odd\nversion: 1.0.0\ndependencies:\n- {name: sub, version: 1.x.x, alias: other}\n- {name: tgz, version: 1.0.0, condition: tgz.enabled}\n",
		"values.yaml", "name: a\nlist: [1]\nmap: {keep: 1, drop: 2}\nbig: 1000000\ntgz: {enabled: true}\n",
		".helmignore", "# no drafts\n*.draft.yaml\nhidden/\n",
		"templates/.dot.yaml", "nonsense: [",
		"templates/x.draft.yaml", "nonsense: [",
		"templates/hidden/x.yaml", "nonsense: [",
		"templates/_helpers.tpl", `{{ define "name" }}{{ .Values.name }}{{ end }}`,
		"templates/NOTES.txt", "Thank you for installing {{ .Chart.Name }}",
		"templates/empty.yaml", "{{ if false }}x{{ end }}\n",
		"templates/all.yaml", configMap+`data:
  name: {{ include "name" . }}
  values: {{ .Values | toJson | quote }}
  kubernetes: {{ .Capabilities.KubeVersion }}
  has: {{ .Capabilities.APIVersions.Has "example.com/v1" | quote }}
  lookup: {{ lookup "v1" "Secret" "x" "y" | toJson | quote }}
  host: {{ getHostByName "example.com" | quote }}
  file: {{ .Files.Get "extra.txt" | quote }}
  glob: {{ range $p, $_ := .Files.Glob "**" }}{{ $p }} {{ end }}
  release: {{ .Release | toJson | quote }}
  service: {{ .Release.Service }}
---
apiVersion: v1
kind: Namespace
metadata: {name: first}
`,
		"templates/hook.yaml", "apiVersion: batch/v1\nkind: Job\nmetadata: {name: hook, annotations: {helm.sh/hook: pre-install}}\n",
		"templates/tests/test.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: test, annotations: {helm.sh/hook: test}}\n",
		"crds/b.yaml", "kind: CustomResourceDefinition\nmetadata: {name: b}\n",
		"crds/a/z.yaml", "kind: CustomResourceDefinition\nmetadata: {name: z}\n",
		"crds/a-b.yaml", "kind: CustomResourceDefinition\nmetadata: {name: a-b}\n",
		"extra.txt", "extra\n",
		"charts/sub/Chart.yaml", "apiVersion: v2\nname: sub\nversion: 1.2.3\n",
		"charts/sub/values.yaml", "port: 80\n",
		"charts/sub/templates/sub.yaml", configMap+"data: {port: '{{ .Values.port }}', chart: {{ .Chart.Name }}}\n",
		"charts/tgz-1.0.0.tgz", packed(t, "tgz", "Chart.yaml", "apiVersion: v2\nname: tgz\nversion: 1.0.0\n", "templates/tgz.yaml", configMap+"data: {tgz: '{{ .Values }}'}\n"),
	)
}

// A chart with every oddity comes out as of the tool, and values in the order of files.
func TestHelmOdditiesAsTheTool(t *testing.T) {
	t.Parallel()
	helm := tool(t, "helm")
	for name, c := range map[string]struct {
		values  []string
		options *bundle.Helm
		want    string
	}{
		"defaults":         {want: `\"drop\":2`},
		"values in order":  {values: []string{"name: b\nmap: {drop: null}\n", "name: c\nother: {port: 81}\n"}, want: "name: c"},
		"a dependency off": {values: []string{"tgz: {enabled: false}\n"}, want: "port: '80'"},
		// The version of Kubernetes that charts are told is helm's own.
		"no options":     {options: &bundle.Helm{Release: "rel", Namespace: "ns"}, want: "kubernetes: v1.37.0"},
		"a distribution": {options: &bundle.Helm{Release: "rel", Namespace: "ns", Kubernetes: "1.29.3-gke.100"}, want: "kubernetes: v1.29.3\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, want, err, wantErr := both(t, helm, odd(t), c.values, c.options)
			if err != nil || wantErr != nil {
				t.Fatalf("got %v\nthe tool says %v", err, wantErr)
			}
			same(t, got, want)
			if !strings.Contains(string(got), c.want) || strings.Contains(string(got), "name: test,") {
				t.Errorf("got %s", got)
			}
		})
	}
}

func chartInput(list ...string) render.Input {
	return render.Input{
		Source: &bundle.Source{Template: bundle.TemplateHelm}, Name: "web",
		Files: append(files("Chart.yaml", "apiVersion: v2\nname: chart\nversion: 1.0.0\n"), files(list...)...),
	}
}

// A release is called as its bundle, and is in the namespace default.
func TestHelmDefaults(t *testing.T) {
	t.Parallel()
	got, err := render.RenderStable(t.Context(), chartInput("templates/a.yaml", configMap+"data: {in: {{ .Release.Namespace }}}\n"))
	const want = "manifests.yaml\n---\n# Source: chart/templates/a.yaml\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\ndata: {in: default}\n"
	if err != nil || text(got) != want {
		t.Errorf("%v\n%s", err, text(got))
	}
}

func TestHelmRefuses(t *testing.T) {
	t.Parallel()
	const schema = `{"$schema": "http://json-schema.org/draft-07/schema#", "additionalProperties": false, "required": ["tag"],
  "properties": {"tag": {"type": "string"}, "size": {"$ref": "https://nowhere.invalid/size.json"}, "image": {"properties": {"port": {"type": "integer"}}},
  "sub": {}, "global": {}}}`
	const sub = "apiVersion: v2\nname: sub\nversion: 1.0.0\n"
	for name, c := range map[string]struct {
		files  []string
		values string
		want   string
	}{
		"no chart":       {[]string{"Chart.yaml", ""}, "", "chart.metadata.name is required"},
		"a dependency":   {[]string{"Chart.yaml", "apiVersion: v2\nname: c\nversion: 1.0.0\ndependencies: [{name: redis, version: 20.x.x}]\n"}, "", "the chart needs redis 20.x.x, which is not under charts/: add it to dependencies, use the packed chart, or run helm dependency build"},
		"a library":      {[]string{"Chart.yaml", "apiVersion: v2\nname: c\nversion: 1.0.0\ntype: library\n"}, "", "chart c is of type library, which renders nothing"},
		"a version":      {[]string{"Chart.yaml", "apiVersion: v2\nname: c\nversion: 1.0.0\nkubeVersion: '>=1.99.0'\n"}, "", "chart c requires Kubernetes >=1.99.0, but gets v1.37.0: set helm.kubernetes"},
		"a type":         {[]string{"values.schema.json", schema}, "tag: 1", "value tag: got number, want string (values.schema.json of the chart)"},
		"a deeper type":  {[]string{"values.schema.json", schema}, "tag: a\nimage: {port: b}", "value image.port: got string, want integer (values.schema.json of the chart)"},
		"a missing":      {[]string{"values.schema.json", schema}, "image: {port: 1}", "value tag: is missing (values.schema.json of the chart)"},
		"an unknown":     {[]string{"values.schema.json", schema}, "tag: a\ntga: b\n", "value tga: is not known (values.schema.json of the chart)"},
		"two":            {[]string{"values.schema.json", schema}, "tag: 1\nimage: {port: b}", "(values.schema.json of the chart, and 1 more)"},
		"a subchart's":   {[]string{"charts/sub/Chart.yaml", sub, "charts/sub/values.schema.json", schema}, "sub: {tag: 1}", "value sub.tag: got number, want string (values.schema.json of the chart)"},
		"no mapping":     {nil, "- a\n", "values: "},
		"a failure":      {[]string{"templates/a.yaml", "\n{{ fail \"set a host\" }}"}, "", "execution error at (templates/a.yaml:2:3): set a host"},
		"a nil":          {[]string{"templates/a.yaml", "a: {{ .Values.a.b.c }}"}, "", "templates/a.yaml:1:13 executing"},
		"no template":    {[]string{"templates/a.yaml", "{{ if }}"}, "", "parse error at (templates/a.yaml:1): missing value for if"},
		"no YAML":        {[]string{"templates/a.yaml", "a: [\n"}, "", "YAML parse error on templates/a.yaml"},
		"a helmignore":   {[]string{".helmignore", "**/x"}, "", ".helmignore: double-star (**) syntax is not supported"},
		"a random value": {[]string{"templates/a.yaml", "a: 1\n", "templates/b.yaml", "b: {{ randAlphaNum 9 }}"}, "", "the chart renders differently each time: templates/b.yaml uses random values or the time: set them as values"},
		"the time":       {[]string{"templates/a.yaml", "a: {{ now | date \"2006\" }}"}, "", "the chart renders differently each time: templates/a.yaml uses"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := chartInput(c.files...)
			if len(c.files) > 0 && c.files[0] == "Chart.yaml" {
				in.Files = in.Files[1:]
			}
			in.Values = [][]byte{[]byte(c.values)}
			got, err := render.RenderStable(t.Context(), in)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v\nwant %s\n%s", err, c.want, text(got))
			}
		})
	}
}

// A reference of a values' schema to the network is not followed, and forbids nothing.
func TestHelmFetchesNoSchema(t *testing.T) {
	t.Parallel()
	for _, schema := range []string{
		`{"$ref": "http://127.0.0.1:1/x.json"}`,
		`{"$id": "http://127.0.0.1:1/y.json", "properties": {"a": {"$ref": "z.json#/definitions/b"}}}`,
		`{"$ref": "file:///etc/hostname"}`,
	} {
		in := chartInput("values.schema.json", schema, "templates/a.yaml", configMap)
		in.Values = [][]byte{[]byte("a: 1\n")}
		if _, err := render.RenderStable(t.Context(), in); err != nil {
			t.Errorf("%s: %v", schema, err)
		}
	}
}

// The CRDs of subcharts, which helm loads in a random order, come out in one.
func TestHelmIsStable(t *testing.T) {
	t.Parallel()
	var list []string
	for _, sub := range []string{"d", "b", "a", "c", "e"} {
		list = append(list, "charts/"+sub+"/Chart.yaml", "apiVersion: v2\nname: "+sub+"\nversion: 1.0.0\n", "charts/"+sub+"/crds/crd.yaml", "kind: "+sub+"\n")
	}
	want := ""
	for range 20 {
		got, err := render.RenderSource(t.Context(), chartInput(list...))
		if err != nil {
			t.Fatal(err)
		}
		if want == "" {
			want = text(got)
		}
		if text(got) != want || !strings.Contains(want, "kind: e") {
			t.Fatalf("got %s\nwant %s", text(got), want)
		}
	}
}

// helm's warnings stay off standard error, and the log is as it was afterwards.
func TestHelmIsQuiet(t *testing.T) {
	var logged bytes.Buffer
	before := log.Writer()
	log.SetOutput(&logged)
	t.Cleanup(func() { log.SetOutput(before) })
	in := chartInput("values.yaml", "a: {b: 1}\n", "templates/a.yaml", configMap)
	in.Values = [][]byte{[]byte("a: 1\n")} // helm warns of a value in a mapping's place
	if _, err := render.RenderStable(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	if logged.Len() > 0 || log.Writer() != &logged {
		t.Errorf("logged %q", logged.String())
	}
}

// A packed chart's files are all of the chart.
func TestPackedChart(t *testing.T) {
	t.Parallel()
	in := chartInput(".helmignore", "b.yaml\n", "templates/b.yaml", configMap)
	got, err := render.RenderSource(t.Context(), in)
	if err != nil || strings.TrimSpace(string(got[0].Data)) != "" {
		t.Errorf("%v\n%s", err, text(got))
	}
	in.Source.Chart = "chart"
	got, err = render.RenderSource(t.Context(), in)
	if err != nil || !slices.Contains(strings.Split(text(got), "\n"), "kind: ConfigMap") {
		t.Errorf("%v\n%s", err, text(got))
	}
}

// A key that a template writes twice is taken as Helm takes it: the last one, with a note that names
// the template. Nothing else changes.
func TestHelmTakesTheLastOfTwoKeys(t *testing.T) {
	t.Parallel()
	in := chartInput("templates/a.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n  labels:\n    app: one # first\n    team: {{ .Values.team | default \"x\" }}\n    app: two\ndata: {v: 1}\ndata: {v: '2', w: '3', v: '4'}\n",
		"templates/b.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\ndata: {v: '2'}\n")
	var notes []string
	in.Note = func(text string) { notes = append(notes, text) }
	got, err := render.RenderStable(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write(t, dir, in.Files)
	tool, err := run(t, tool(t, "helm"), "template", in.Name, dir)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.NewReplacer("    app: one # first\n", "", "data: {v: 1}\n", "", "v: '2', w", "w").Replace(string(tool))
	if string(got[0].Data) != want {
		t.Errorf("got:\n%s\nwant:\n%s", got[0].Data, want)
	}
	for _, document := range []string{"a", "b"} {
		ours, theirs := parts(t, got[0].Data)[document], parts(t, tool)[document]
		if theirs == nil || !reflect.DeepEqual(ours, theirs) {
			t.Errorf("%s: got %v, helm reads %v", document, ours, theirs)
		}
	}
	// In the order of the lines.
	if want := []string{"templates/a.yaml writes the key app twice: the last one wins, as with Helm",
		"templates/a.yaml writes the key data twice: the last one wins, as with Helm",
		"templates/a.yaml writes the key v twice: the last one wins, as with Helm"}; !slices.Equal(notes, want) {
		t.Errorf("notes %q", notes)
	}
	plain := render.Input{Source: &bundle.Source{}, Files: files("a.yaml", pod+"kind: Pod\n"), Overlays: files("o.yaml", overlay)}
	if _, err := render.RenderStable(t.Context(), plain); err == nil || !strings.Contains(err.Error(), `duplicate key "kind"`) {
		t.Errorf("a plain manifest: %v", err)
	}
}

// parts are documents as helm reads them, by name.
func parts(t *testing.T, data []byte) map[string]map[string]any {
	t.Helper()
	all := map[string]map[string]any{}
	for document := range strings.SplitSeq(string(data), "---\n") {
		values, err := loader.LoadValues(strings.NewReader(document))
		if err != nil {
			t.Fatal(err)
		}
		if metadata, ok := values["metadata"].(map[string]any); ok {
			all[metadata["name"].(string)] = values
		}
	}
	return all
}

// A chart that is switched off needs not be there, as with `helm template` of the chart that has it.
func TestHelmNeedsNoChartThatIsOff(t *testing.T) {
	t.Parallel()
	const about = "apiVersion: v2\nname: c\nversion: 1.0.0\ndependencies:\n" +
		"- {name: redis, version: 20.x.x, condition: 'redis.external,redis.enabled'}\n- {name: probe, version: 1.x.x, tags: [extra, more]}\n"
	for values, want := range map[string]string{
		"redis: {enabled: false}\ntags: {extra: false}\n":                 "",
		"redis: {external: false, enabled: true}\ntags: {extra: false}\n": "",
		"tags: {extra: false}\n":                                          "the chart needs redis 20.x.x, which",
		"redis: {enabled: 'false'}\ntags: {extra: false}\n":               "the chart needs redis 20.x.x, which",
		"redis: {enabled: false}\n":                                       "the chart needs probe 1.x.x, which",
		"redis: {enabled: false}\ntags: {extra: false, more: true}\n":     "the chart needs probe 1.x.x, which",
	} {
		in := chartInput("templates/a.yaml", configMap)
		in.Files[0].Data = []byte(about)
		in.Values = [][]byte{[]byte(values)}
		_, err := render.RenderStable(t.Context(), in)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v, want %q", values, err, want)
		}
	}
}

// Files of values that a chart has besides its values.yaml come under the source's values.
func TestHelmTakesValuesFilesOfTheChart(t *testing.T) {
	t.Parallel()
	in := chartInput("values.yaml", "size: 1\nkind: small\nname: a\n", "ci/ha.yaml", "size: 3\nkind: large\n", "templates/a.yaml", configMap+"data: {v: '{{ .Values.size }} {{ .Values.kind }} {{ .Values.name }}'}\n")
	in.Source.Helm = &bundle.Helm{ValuesFiles: []string{"ci/ha.yaml"}}
	in.Values = [][]byte{[]byte("size: 5\n")}
	got, err := render.RenderStable(t.Context(), in)
	if err != nil || !strings.Contains(text(got), "data: {v: '5 large a'}") {
		t.Errorf("%v\n%s", err, text(got))
	}
	in.Source.Helm.ValuesFiles = []string{"ha.yaml"}
	if _, err := render.RenderStable(t.Context(), in); err == nil || err.Error() != "helm.valuesFiles: the chart has no file ha.yaml" {
		t.Errorf("got %v", err)
	}
}

// A chart with random passwords is refused with the values that settle it.
func TestHelmNamesValuesThatSettleRandomOnes(t *testing.T) {
	t.Parallel()
	in := chartInput("values.yaml", "auth: {password: '', user: u}\nkey: ''\nexistingSecret: ''\nother: {}\n",
		"templates/_helpers.tpl", `{{- define "key" -}}{{ .Values.key | default (randAlphaNum 9) }}{{- end -}}`,
		"templates/secret.yaml", "{{ if not .Values.existingSecret }}\napiVersion: v1\nkind: Secret\nmetadata: {name: {{ .Values.auth.user }}}\n"+
			"stringData:\n  password: {{ .Values.auth.password | default (randAlphaNum 9) }}\n  key: {{ include \"key\" . }}\n{{ end }}")
	const want = "the chart renders differently each time: templates/secret.yaml uses random values or the time: set them as values (key, existingSecret, auth.password)"
	if _, err := render.RenderStable(t.Context(), in); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	in.Values = [][]byte{[]byte("key: a\nauth: {password: b}\n")}
	if _, err := render.RenderStable(t.Context(), in); err != nil {
		t.Error(err)
	}
}

// What helm warns of is a note.
func TestHelmWarnsByNotes(t *testing.T) {
	t.Parallel()
	in := chartInput("values.yaml", "a: {b: {c: 1}}\n", "templates/a.yaml", configMap)
	in.Values = [][]byte{[]byte("a: {b: text}\n")}
	var notes []string
	in.Note = func(note string) { notes = append(notes, note) }
	if _, err := render.RenderStable(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(notes, func(note string) bool {
		return note == "cannot overwrite table with non table for chart.a.b (map[c:1])"
	}) {
		t.Errorf("notes %q", notes)
	}
}
