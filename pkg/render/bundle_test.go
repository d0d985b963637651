package render_test

import (
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/render"
)

// built is a bundle of one source of each kind, as a build leaves it.
func built() *bundle.Content {
	var all []bundle.File
	add := func(dir string, list []bundle.File) {
		for _, f := range list {
			all = append(all, bundle.File{Path: dir + f.Path, Data: f.Data})
		}
	}
	add("config/chart/", chartInput("values.yaml", "a: 0\nb: 0\nc: 0\n", "templates/a.yaml", configMap+"data: {v: '{{ .Values.a }}{{ .Values.b }}{{ .Values.c }}'}\n").Files)
	add("config/", files("done/manifests.yaml", "kind: Rendered\n", "plain/p.yaml", pod, "plain-more/p.yaml", pod, "t.yaml", "kind: T\n"))
	add("overlays/", files("plain/o.yaml", overlay, "t.yaml/o.yaml", overlay+"spec:\n"))
	return &bundle.Content{
		Bundle: &bundle.Bundle{Metadata: bundle.Metadata{Name: "mixed"}, Spec: bundle.BundleSpec{Sources: []bundle.Source{
			{Path: "chart", Template: bundle.TemplateHelm, Render: bundle.RenderTarget, Values: map[string]any{"b": 1, "c": 1}},
			{Path: "done", Template: bundle.TemplateHelm, Values: map[string]any{"x": 1}},
			{Path: "plain", Render: bundle.RenderTarget},
			{Path: "plain-more"},
		}}},
		Files: all,
	}
}

// A target renders what its source says, with the source's values below the site's, and the
// overlays of that source only; all else comes out as it is.
func TestTemplatesOfEachKind(t *testing.T) {
	t.Parallel()
	const labelled = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels:\n    site: east\n"
	const want = "config/chart/manifests.yaml\n---\n# Source: chart/templates/a.yaml\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: mixed}\ndata: {v: '012'}\n" +
		"config/done/manifests.yaml\nkind: Rendered\n" + "config/plain-more/p.yaml\n" + pod + "config/plain/p.yaml\n" + labelled + "config/t.yaml\nkind: T\n"
	content := built()
	content.Files = content.Files[:len(content.Files)-1]
	got, err := render.Templates(content, []byte("c: 2\n"))
	if err != nil || text(got) != want {
		t.Errorf("%v\n%s", err, text(got))
	}
}

// A bundle whose templates have all been rendered takes no values.
func TestRenderedTakesNoValues(t *testing.T) {
	t.Parallel()
	content := built()
	content.Bundle.Spec.Sources = content.Bundle.Spec.Sources[1:2]
	if _, err := render.Templates(content, []byte("c: 2\n")); err == nil || err.Error() != "it takes no values: none of its sources is a template" {
		t.Errorf("got %v", err)
	}
	if got, err := render.Templates(content, nil); err != nil || strings.Contains(text(got), "overlays/") {
		t.Errorf("%v\n%s", err, text(got))
	}
}
