package render_test

import (
	"testing"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/render"
)

func TestSchemaOfChart(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ schema, want string }{
		"what both have":    {`{"type": "object", "title": "T", "required": ["a"], "additionalProperties": false, "properties": {"a": {"type": "string", "default": "x", "pattern": "^x", "enum": ["x", "y"]}}}`, "additionalProperties: false\nproperties:\n    a:\n        default: x\n        enum:\n            - x\n            - \"y\"\n        pattern: ^x\n        type: string\nrequired:\n    - a\ntitle: T\ntype: object\n"},
		"what one has":      {`{"$schema": "http://json-schema.org/draft-07/schema#", "$id": "x", "$comment": "x", "if": {}, "then": {}, "patternProperties": {"x": {}}, "definitions": {}, "type": "object"}`, "type: object\n"},
		"null":              {`{"type": ["string", "null"]}`, "nullable: true\ntype: string\n"},
		"null alone":        {`{"type": "null"}`, "nullable: true\n"},
		"types":             {`{"type": ["string", "array", "null"]}`, "anyOf:\n    - type: string\n    - items: {}\n      type: array\nnullable: true\n"},
		"a reference":       {`{"properties": {"a": {"$ref": "#/definitions/x~1y", "title": "T"}}, "definitions": {"x/y": {"type": "integer", "minimum": 1e3}}}`, "properties:\n    a:\n        minimum: 1e3\n        title: T\n        type: integer\n"},
		"a remote one":      {`{"properties": {"a": {"$ref": "https://example.com/x.json"}}}`, "properties:\n    a: {}\n"},
		"one without end":   {`{"properties": {"a": {"$ref": "#"}}, "type": "object"}`, "properties:\n    a:\n        properties:\n            a: {}\n        type: object\ntype: object\n"},
		"bounds":            {`{"exclusiveMinimum": 1, "maximum": 5, "exclusiveMaximum": true}`, "exclusiveMaximum: true\nexclusiveMinimum: true\nmaximum: 5\nminimum: 1\n"},
		"a constant":        {`{"const": 1}`, "enum:\n    - 1\n"},
		"examples":          {`{"examples": ["a", "b"]}`, "example: a\n"},
		"an array":          {`{"type": "array"}`, "items: {}\ntype: array\n"},
		"alternatives":      {`{"oneOf": [{"type": "string"}, true, false]}`, "oneOf:\n    - type: string\n    - {}\n    - not: {}\n"},
		"schemas of values": {`{"additionalProperties": {"type": ["integer", "null"]}}`, "additionalProperties:\n    nullable: true\n    type: integer\n"},
		"odd strings":       {`{"default": "true", "description": "a: b\n"}`, "default: \"true\"\ndescription: |\n    a: b\n"},
	} {
		got, err := render.ValuesSchema(t.Context(), chartInput("values.schema.json", c.schema))
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %v\ngot\n%s\nwant\n%s", name, err, got, c.want)
		}
	}
	if got, err := render.ValuesSchema(t.Context(), chartInput()); err != nil || got != nil {
		t.Errorf("a chart without one: %v\n%s", err, got)
	}
	if _, err := render.ValuesSchema(t.Context(), chartInput("values.schema.json", "{")); err == nil {
		t.Error("no JSON is no error")
	}
	double := `{"$ref": "#/definitions/a1", "definitions": {` // each refers to the next twice
	for _, pair := range [][2]string{{"a1", "a2"}, {"a2", "a3"}, {"a3", "a4"}, {"a4", "a5"}, {"a5", "a6"}, {"a6", "a7"}} {
		list := ""
		for range 9 {
			list += `{"$ref": "#/definitions/` + pair[1] + `"},`
		}
		double += `"` + pair[0] + `": {"anyOf": [` + list + `{}]},`
	}
	if _, err := render.ValuesSchema(t.Context(), chartInput("values.schema.json", double+`"a7": {}}}`)); err == nil || err.Error() != "values.schema.json: has more than 100000 parts with its references expanded" {
		t.Errorf("got %v", err)
	}
}

func TestSchemaOfTemplate(t *testing.T) {
	t.Parallel()
	in := render.Input{Source: &bundle.Source{Template: bundle.TemplateYTT}, Files: files("schema.yaml", "#@data/values-schema\n---\n#@schema/desc \"How many\"\nreplicas: 1\n")}
	const want = "type: object\nadditionalProperties: false\nproperties:\n    replicas:\n        type: integer\n        description: How many\n        default: 1\n"
	if got, err := render.ValuesSchema(t.Context(), in); err != nil || string(got) != want {
		t.Errorf("%v\n%s", err, got)
	}
	in.Files = files("a.yaml", pod)
	if got, err := render.ValuesSchema(t.Context(), in); err != nil || got != nil {
		t.Errorf("a template without one: %v\n%s", err, got)
	}
	in.Source.Template = ""
	if got, err := render.ValuesSchema(t.Context(), in); err != nil || got != nil {
		t.Errorf("plain files: %v\n%s", err, got)
	}
}
