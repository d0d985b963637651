package render_test

import (
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/render"
)

// ytt decides by name what a file is, and files find each other by their paths in the source.
func TestYTTTakesAllFiles(t *testing.T) {
	t.Parallel()
	got, err := render.RenderStable(t.Context(), render.Input{Source: &bundle.Source{Template: bundle.TemplateYTT}, Files: files(
		"schema.yml", "#@data/values-schema\n---\nname: a\n",
		"lib/f.star", "def f(x):\n  return x + \"!\"\nend\n",
		"lib/g.lib.yml", "#@ def g():\ng: 1\n#@ end\n",
		"dir/a.yaml", "#@ load(\"/lib/f.star\", \"f\")\n#@ load(\"/lib/g.lib.yml\", \"g\")\n#@ load(\"@ytt:data\", \"data\")\nname: #@ f(data.values.name)\ng: #@ g()\ntext: #@ data.read(\"/data.bin\")\n",
		"data.bin", "raw",
		"notes.txt", "(@ load(\"@ytt:data\", \"data\") @)Hello (@= data.values.name @)\n"),
		Values: [][]byte{[]byte("name: b\n"), nil, []byte("name: c\n")}})
	if want := "dir/a.yaml\nname: c!\ng:\n  g: 1\ntext: raw\nnotes.txt\nHello c\n"; err != nil || text(got) != want {
		t.Errorf("%v\n%s", err, text(got))
	}
}

const overlay = "#@ load(\"@ytt:overlay\", \"overlay\")\n#@overlay/match by=overlay.all, expects=\"1+\"\n---\nmetadata:\n  #@overlay/match missing_ok=True\n  labels: {site: east}\n"

// Overlays go over what is plain, whatever its comments say, and over what engines rendered.
func TestOverlays(t *testing.T) {
	t.Parallel()
	const labelled = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels:\n    site: east\n"
	for name, c := range map[string]struct {
		in   render.Input
		want string
	}{
		"plain files":            {render.Input{Source: &bundle.Source{}, Files: files("p.yaml", "#@ this is no template\n"+pod, "README", "x")}, "p.yaml\n" + labelled + "README\nx"},
		"JSON":                   {render.Input{Source: &bundle.Source{}, Files: files("p.json", `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}`)}, "p.json\n" + labelled},
		"a kustomization":        {kustomization("", "kustomization.yaml", "resources: [pod.yaml]\n", "pod.yaml", pod), "manifests.yaml\n" + labelled},
		"a chart":                {chartInput("templates/pod.yaml", pod), "manifests.yaml\n" + labelled},
		"a ytt template":         {render.Input{Source: &bundle.Source{Template: bundle.TemplateYTT}, Files: files("p.yaml", strings.Replace(pod, "name: a", "name: #@ 'a'", 1))}, "p.yaml\n" + labelled},
		"patched plain":          {render.Input{Source: &bundle.Source{Patches: []bundle.Patch{{Patch: pod}}}, Files: files("p.yaml", pod)}, "manifests.yaml\n" + labelled},
		"a patched ytt template": {render.Input{Source: &bundle.Source{Template: bundle.TemplateYTT, Patches: []bundle.Patch{{Patch: pod}}}, Files: files("p.yaml", strings.Replace(pod, "name: a", "name: #@ 'a'", 1))}, "manifests.yaml\n" + labelled},
	} {
		c.in.Overlays = files("site.yaml", overlay)
		got, err := render.RenderStable(t.Context(), c.in)
		if err != nil || text(got) != c.want {
			t.Errorf("%s: %v\n%s", name, err, text(got))
		}
	}
}

// Overlays over plain manifests take values, and may add resources.
func TestOverlaysTakeValues(t *testing.T) {
	t.Parallel()
	in := render.Input{Source: &bundle.Source{}, Files: files("p.yaml", pod), Values: [][]byte{[]byte("site: west\n")},
		Overlays: files("schema.yaml", "#@data/values-schema\n---\nsite: east\n", "more.yaml", "#@ load(\"@ytt:data\", \"data\")\nsite: #@ data.values.site\n")}
	got, err := render.RenderStable(t.Context(), in)
	if want := "more.yaml\nsite: west\np.yaml\n" + pod; err != nil || text(got) != want {
		t.Errorf("%v\n%s", err, text(got))
	}
	schema, err := render.ValuesSchema(t.Context(), in)
	if err != nil || !strings.Contains(string(schema), "default: east") {
		t.Errorf("%v\n%s", err, schema)
	}
}

func TestOverlaysRefuse(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		plain, overlays []bundle.File
		want            string
	}{
		"a key twice":     {files("p.yaml", "a: 1\na: 2\n"), files("o.yaml", overlay), `p.yaml:2:1: duplicate key "a"`},
		"nothing matches": {files("p.yaml", pod), files("o.yaml", strings.Replace(overlay, "overlay.all", "overlay.subset({\"kind\": \"X\"})", 1)), "o.yaml"},
		"a name twice":    {files("p.yaml", pod), files("p.yaml", "a: 1\n"), "p.yaml is a file of the source and an overlay that adds resources: rename the overlay"},
	} {
		_, err := render.RenderStable(t.Context(), render.Input{Source: &bundle.Source{}, Files: c.plain, Overlays: c.overlays})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
}
