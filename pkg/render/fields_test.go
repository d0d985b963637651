package render_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/render"
)

// The values of a bundle are told by the schema of its template, and of a chart by its defaults too, with those of the
// definition over them.
func TestListValues(t *testing.T) {
	t.Parallel()
	const chart = "config/c/Chart.yaml"
	for _, c := range []struct {
		name   string
		source bundle.Source
		files  []bundle.File
		want   string
	}{
		{"plain manifests", bundle.Source{Path: "c"}, files("config/c/a.yaml", "apiVersion: v1\n"), ""},
		{"a chart's defaults", bundle.Source{Path: "c", Template: bundle.TemplateHelm, Render: bundle.RenderTarget, Values: valuesOf(t, "{b: {c: 2}}")},
			files(chart, "apiVersion: v2\nname: c\nversion: 1.0.0\n", "config/c/values.yaml", "a: &x one\nb: {c: 1, d.e: [*x]}\nempty: {}\nnone:\n"), `
				a: string "one"
				b.c: integer 2
				b.d\.e: array ["one"]
				empty: object {}
				none:  null`},
		{"a chart's schema", bundle.Source{Path: "c", Template: bundle.TemplateHelm, Render: bundle.RenderTarget},
			files(chart, "apiVersion: v2\nname: c\nversion: 1.0.0\n", "config/c/values.yaml", "size: 3\nhas: {}\n", "config/c/values.schema.json",
				`{"type": "object", "required": ["host", "size"], "properties": {"host": {"type": "string"}, "size": {"type": "integer"},
				"mode": {"type": ["string", "null"], "enum": ["b", "a"], "default": "a"}, "in": {"type": "object", "required": ["x"], "properties": {"x": {"type": "boolean"}}},
				"has": {"type": "object", "required": ["x", "in"], "properties": {"x": {"type": "boolean"}, "in": {"type": "object", "required": ["y"], "properties": {"y": {"type": "string"}}}}}}}`), `
				has: object {}
				has.in.y: string  required
				has.x: boolean  required
				host: string  required
				in.x: boolean 
				mode: string or null "a" ["a" "b"]
				size: integer 3`},
		{"a template's schema", bundle.Source{Path: "c", Template: bundle.TemplateYTT},
			files("config/c/a.yaml", "a: 1\n", "config/c/schema.yaml", "#@data/values-schema\n---\n#@schema/validation min_len=2\nhost: x\nname: site\nin: {k: 1}\n"), `
				host: string "x" required
				in.k: integer 1
				name: string "site"`},
	} {
		content := &bundle.Content{Bundle: &bundle.Bundle{Metadata: bundle.Metadata{Name: "c"}, Spec: bundle.BundleSpec{Sources: []bundle.Source{c.source}}}, Files: c.files}
		got, err := render.ListValues(t.Context(), content)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		var lines []string
		for _, at := range slices.Sorted(maps.Keys(got)) {
			f := got[at]
			line := fmt.Sprintf("%s: %s %s", at, f.Type, f.Default)
			if f.Required {
				line += " required"
			}
			if f.Allowed != nil {
				line += fmt.Sprint(" ", f.Allowed)
			}
			lines = append(lines, line)
		}
		want := strings.TrimSpace(strings.ReplaceAll(c.want, "\t", ""))
		if strings.Join(lines, "\n") != want {
			t.Errorf("%s: got\n%s\nwant\n%s", c.name, strings.Join(lines, "\n"), want)
		}
	}
	long := strings.Repeat("x", 300)
	defaultOf := func(value string) string {
		content := &bundle.Content{Bundle: &bundle.Bundle{Metadata: bundle.Metadata{Name: "c"}, Spec: bundle.BundleSpec{Sources: []bundle.Source{{Path: "c", Template: bundle.TemplateHelm, Render: bundle.RenderTarget}}}},
			Files: files(chart, "apiVersion: v2\nname: c\nversion: 1.0.0\n", "config/c/values.yaml", "a: "+value+"\n")}
		got, err := render.ListValues(t.Context(), content)
		if err != nil {
			t.Fatal(err)
		}
		return got["a"].Default
	}
	if one, two := defaultOf(long+"1"), defaultOf(long+"2"); one == two || len(one) > 350 || !strings.Contains(one, "… and 103 more bytes (all: sha256:") {
		t.Errorf("long defaults: %s and %s", one, two)
	}
	many := "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\n"
	content := &bundle.Content{Bundle: &bundle.Bundle{Metadata: bundle.Metadata{Name: "c"}, Spec: bundle.BundleSpec{Sources: []bundle.Source{{Path: "c", Template: bundle.TemplateHelm, Render: bundle.RenderTarget}}}},
		Files: files(chart, "apiVersion: v2\nname: c\nversion: 1.0.0\n", "config/c/values.yaml", many)}
	if _, err := render.ListValues(t.Context(), content); err == nil || !strings.Contains(err.Error(), "100000") {
		t.Errorf("many parts: %v", err)
	}
}
