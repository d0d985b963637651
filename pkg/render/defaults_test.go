package render_test

import (
	"reflect"
	"testing"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/render"
)

// The values of a chart are described with what they are if a site sets none, with a schema and without one.
func TestDescribeValues(t *testing.T) {
	t.Parallel()
	chart := []string{
		"Chart.yaml", "apiVersion: v2\nname: a\nversion: 1.0.0\n", "values.yaml", "replicas: 1\nlabels: {}\nhost: {name: x}\ndb: {size: 2Gi}\n",
		"charts/db/Chart.yaml", "apiVersion: v2\nname: db\nversion: 1.0.0\n", "charts/db/values.yaml", "size: 1Gi\nkeep: true\n",
	}
	for name, c := range map[string]struct{ schema, want string }{
		"no schema": {"", `{type: object, properties: {
			replicas: {default: 2}, labels: {default: {}}, host: {type: object, properties: {name: {default: x}}},
			db: {type: object, properties: {size: {default: 2Gi}, keep: {default: true}}}}}`},
		"a small schema": {`{"type": "object", "properties": {"replicas": {"type": "integer"}, "extra": {"type": "string"}}}`, `{properties: {
			extra: {type: string}, replicas: {type: integer, default: 2}, labels: {default: {}}, host: {type: object, properties: {name: {default: x}}},
			db: {type: object, properties: {size: {default: 2Gi}, keep: {default: true}}}}, type: object}`},
		"a closed schema": {`{"type": "object", "additionalProperties": false, "properties": {"replicas": {"type": "integer", "default": 5}}}`,
			`{additionalProperties: false, properties: {replicas: {type: integer, default: 2}}, type: object}`},
	} {
		all := chart
		if c.schema != "" {
			all = append(append([]string{}, chart...), "values.schema.json", c.schema)
		}
		content := &bundle.Content{Bundle: &bundle.Bundle{}}
		content.Bundle.Spec.Sources = []bundle.Source{{Dir: "chart", Path: "chart", Template: bundle.TemplateHelm, Render: bundle.RenderTarget, Values: definitionValues(t, "replicas: 2\n")}}
		for _, f := range files(all...) {
			content.Files = append(content.Files, bundle.File{Path: "config/chart/" + f.Path, Data: f.Data})
		}
		node, err := render.DescribeValues(t.Context(), content)
		if err != nil {
			t.Fatal(err)
		}
		got, err := yaml.Marshal(node)
		if err != nil {
			t.Fatal(err)
		}
		var is, want any
		if err := yaml.Unmarshal(got, &is); err != nil {
			t.Fatal(err)
		}
		if err := yaml.Unmarshal([]byte(c.want), &want); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(is, want) {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, c.want)
		}
	}
}

func definitionValues(t *testing.T, text string) manifest.Values {
	t.Helper()
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatal(err)
	}
	return manifest.NewValues(doc.Content[0])
}
