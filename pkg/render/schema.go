package render

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"carvel.dev/ytt/pkg/cmd/template"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/manifest"
)

// ValuesSchema describes a source's values as YAML of an OpenAPI v3 schema: a ytt template's and
// overlays' by their schema, a chart's by its values.schema.json. It is nil without a schema.
func ValuesSchema(ctx context.Context, in Input) ([]byte, error) {
	switch in.Source.Template {
	case "":
		if len(in.Overlays) == 0 {
			return nil, nil
		}
		in.Files = nil // plain manifests, and only the overlays take values
		return in.yttValuesSchema(ctx)
	case bundle.TemplateYTT:
		return in.yttValuesSchema(ctx)
	case bundle.TemplateHelm:
		i := slices.IndexFunc(in.Files, func(f bundle.File) bool { return f.Path == "values.schema.json" })
		if i < 0 {
			return nil, nil
		}
		schema, err := openAPI(in.Files[i].Data)
		if err != nil {
			return nil, fmt.Errorf("values.schema.json: %w", err)
		}
		return schema, nil
	}
	return nil, nil
}

// yttValuesSchema has ytt make the schema.
func (in Input) yttValuesSchema(ctx context.Context) ([]byte, error) {
	files, err := in.runTask(ctx, TaskSchema)
	if len(files) == 0 {
		return nil, err
	}
	return files[0].Data, err
}

// yttSchema returns what `ytt --data-values-schema-inspect -o openapi-v3` says of the values.
func yttSchema(in Input) ([]byte, error) {
	inputs, err := yttFiles(in.Files)
	if err != nil {
		return nil, err
	}
	overlays, err := yttFiles(in.Overlays)
	if err != nil {
		return nil, err
	}
	options := template.NewOptions()
	options.DataValuesFlags.InspectSchema = true
	options.RegularFilesSourceOpts.OutputType.Types = []string{template.RegularFilesOutputTypeOpenAPI}
	out, err := runYTT(append(inputs, overlays...), nil, options)
	if err != nil {
		return nil, err
	}
	data, err := out.DocSet.AsBytes()
	if err != nil {
		return nil, err
	}
	parsed, err := manifest.Parse("schema", data)
	if err != nil {
		return nil, err
	}
	schema := parsed.Documents[0]
	for _, key := range []string{"components", "schemas", "dataValues"} {
		schema = manifest.GetValue(schema, key)
	}
	if schema == nil || manifest.GetValue(schema, "type") == nil || manifest.GetValue(schema, "type").Value != "object" {
		return nil, nil // ytt's of no schema: anything or nothing
	}
	return yaml.Marshal(schema)
}

// schemaConverter turns a JSON schema into one of OpenAPI v3.
type schemaConverter struct {
	root any
	open []string // the references that the place in work is behind
	left int      // parts that it may still have, since references can make it endless
}

func openAPI(data []byte) (converted []byte, err error) {
	defer recoverEngine("the converter of schemas", &err)
	root, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	c := &schemaConverter{root: root, left: manifest.MaxValues}
	schema := c.convertSchema(root)
	if c.left < 0 {
		return nil, fmt.Errorf("has more than %d parts with its references expanded", manifest.MaxValues)
	}
	plain, err := json.Marshal(schema)
	if err != nil {
		return nil, err
	}
	// JSON is YAML: numbers stay as they were written.
	var doc yaml.Node
	if err := yaml.Unmarshal(plain, &doc); err != nil {
		return nil, err
	}
	if err := toBlockStyle(&doc); err != nil {
		return nil, err
	}
	return yaml.Marshal(&doc)
}

// toBlockStyle takes the braces of JSON off YAML, and the quotes where they mean nothing.
func toBlockStyle(node *yaml.Node) error {
	if node.Kind == yaml.ScalarNode && node.Tag == "!!str" {
		return node.Encode(node.Value)
	}
	if len(node.Content) > 0 {
		node.Style = 0
	}
	for _, child := range node.Content {
		if err := toBlockStyle(child); err != nil {
			return err
		}
	}
	return nil
}

// sameKeywords are those that mean the same in both.
var sameKeywords = []string{
	"title", "description", "default", "format", "pattern", "minimum", "maximum", "multipleOf", "minLength", "maxLength",
	"minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties", "required", "enum", "nullable",
	"deprecated", "readOnly", "writeOnly", "example",
}

func (c *schemaConverter) convertSchema(from any) map[string]any {
	to := map[string]any{}
	if c.left--; c.left < 0 {
		return to
	}
	m, ok := from.(map[string]any)
	if !ok {
		if from == false {
			to["not"] = map[string]any{}
		}
		return to
	}
	if ref, ok := m["$ref"].(string); ok {
		to = c.convertReference(ref)
	}
	for _, key := range sameKeywords {
		if value, ok := m[key]; ok {
			to[key] = value
		}
	}
	c.convertTypes(m, to)
	c.convertBounds(m, to)
	if value, ok := m["const"]; ok {
		to["enum"] = []any{value}
	}
	if examples, ok := m["examples"].([]any); ok && len(examples) > 0 && to["example"] == nil {
		to["example"] = examples[0]
	}
	if properties, ok := m["properties"].(map[string]any); ok {
		all := map[string]any{}
		for name, property := range properties {
			all[name] = c.convertSchema(property)
		}
		to["properties"] = all
	}
	for _, key := range []string{"items", "not"} {
		switch m[key].(type) {
		case map[string]any, bool:
			to[key] = c.convertSchema(m[key])
		}
	}
	if to["type"] == "array" && to["items"] == nil {
		to["items"] = map[string]any{}
	}
	switch more := m["additionalProperties"].(type) {
	case bool:
		to["additionalProperties"] = more
	case map[string]any:
		to["additionalProperties"] = c.convertSchema(more)
	}
	for _, key := range []string{"allOf", "anyOf", "oneOf"} {
		if list, ok := m[key].([]any); ok {
			all := []any{}
			for _, item := range list {
				all = append(all, c.convertSchema(item))
			}
			to[key] = all
		}
	}
	return to
}

// convertReference returns the schema that a local reference leads to. One that leads back to where it is
// allows everything, and so does one to elsewhere, which nobody fetches.
func (c *schemaConverter) convertReference(ref string) map[string]any {
	pointer, local := strings.CutPrefix(ref, "#")
	if !local || slices.Contains(c.open, ref) {
		return map[string]any{}
	}
	at := c.root
	for token := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		if token == "" {
			continue
		}
		m, _ := at.(map[string]any)
		at = m[strings.NewReplacer("~1", "/", "~0", "~").Replace(token)]
	}
	c.open = append(c.open, ref)
	defer func() { c.open = c.open[:len(c.open)-1] }()
	return c.convertSchema(at)
}

// convertTypes converts the types: OpenAPI v3 has one, which may be nullable.
func (c *schemaConverter) convertTypes(m, to map[string]any) {
	switch t := m["type"].(type) {
	case string:
		if t == "null" {
			to["nullable"] = true
			return
		}
		to["type"] = t
	case []any:
		others := slices.DeleteFunc(slices.Clone(t), func(v any) bool { return v == "null" })
		if len(others) < len(t) {
			to["nullable"] = true
		}
		if len(others) == 1 {
			to["type"] = others[0]
		} else if _, has := m["anyOf"]; !has && len(others) > 1 {
			alternatives := []any{}
			for _, v := range others {
				alternative := map[string]any{"type": v}
				if v == "array" {
					alternative["items"] = map[string]any{}
				}
				alternatives = append(alternatives, alternative)
			}
			to["anyOf"] = alternatives
		}
	}
}

// convertBounds converts exclusive bounds, which are numbers in one and flags in the other.
func (c *schemaConverter) convertBounds(m, to map[string]any) {
	for exclusive, bound := range map[string]string{"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"} {
		switch value := m[exclusive].(type) {
		case bool:
			to[exclusive] = value
		case json.Number:
			to[bound], to[exclusive] = value, true
		}
	}
}
