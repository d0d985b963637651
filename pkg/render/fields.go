package render

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/manifest"
)

// RenderWithoutValues is [RenderAll] for who has no values of a site: what only a site can set has its default, even
// if a rule of the schema refuses that. A chart that renders differently each time does so here.
func RenderWithoutValues(ctx context.Context, b *bundle.Content, locate func(name.Digest) string) (*Manifests, error) {
	m, err := RenderDefaults(ctx, b)
	if err != nil {
		return nil, err
	}
	return relocateImages(b, m, locate)
}

// ValueField is a value that a bundle takes.
type ValueField struct {
	// Type is that of the schema; of a chart without one that of the default. It may be empty.
	Type string
	// Default is the default as JSON; empty if there is none. A long one is cut to some 200 bytes, and ends with the
	// digest of all of it, so that two of them can be compared.
	Default string
	// Required reports whether a site must set it: it has no default that the schema accepts.
	Required bool
	// Allowed are the values that it can have, as JSON, cut like Default; nil if there are no such limits.
	Allowed []string
	// Description is what the schema says of it.
	Description string
}

// ListValues returns the values that a bundle takes by their paths, as assignments have them (KEY.KEY): by the schema
// of a template, and of a chart by the defaults in its values.yaml too. It returns nil where nothing takes values.
func ListValues(ctx context.Context, b *bundle.Content) (map[string]ValueField, error) {
	schema, err := ValuesSchemas(ctx, b)
	if err != nil {
		return nil, err
	}
	inputs, _, err := splitTargets(b)
	if err != nil {
		return nil, err
	}
	l := valueLister{fields: map[string]ValueField{}, objects: map[string]bool{}, left: manifest.MaxValues}
	for _, in := range inputs {
		if in.Source.Template == bundle.TemplateHelm {
			if err := l.addChartDefaults(in.Input); err != nil {
				return nil, fmt.Errorf("%s: %w", in.at, err)
			}
		}
	}
	if schema != nil {
		l.addSchema("", schema, true)
	}
	if l.left < 0 {
		return nil, fmt.Errorf("the bundle takes more than %d values", manifest.MaxValues)
	}
	if len(l.fields) == 0 {
		return nil, nil
	}
	return l.fields, nil
}

// valueLister collects values by their paths.
type valueLister struct {
	fields map[string]ValueField
	// objects are the paths of the mappings that a chart has by itself.
	objects map[string]bool
	left    int // parts that may still come
}

// addChartDefaults adds what a chart's values.yaml and the definition set.
func (l *valueLister) addChartDefaults(in Input) error {
	var all *yaml.Node
	texts := in.Values
	if i := slices.IndexFunc(in.Files, func(f bundle.File) bool { return path.Clean(f.Path) == "values.yaml" }); i >= 0 {
		texts = append([][]byte{in.Files[i].Data}, texts...)
	}
	for _, text := range texts {
		file, err := manifest.Parse("values.yaml", text)
		if err != nil {
			return err
		}
		for _, document := range file.Documents {
			values, ok := manifest.ExpandAliases(document)
			if !ok {
				return fmt.Errorf("values.yaml has more than %d parts with its aliases expanded", manifest.MaxValues)
			}
			if values.Kind != yaml.MappingNode {
				continue
			}
			if all == nil {
				all = values
			} else {
				all = manifest.OverlayValues(all, values)
			}
		}
	}
	if all != nil {
		l.addDefaults("", all)
	}
	return nil
}

func (l *valueLister) addDefaults(at string, values *yaml.Node) {
	if l.left--; l.left < 0 {
		return
	}
	if values.Kind == yaml.MappingNode {
		l.objects[at] = true
	}
	if values.Kind != yaml.MappingNode || len(values.Content) == 0 {
		l.fields[at] = ValueField{Type: nodeType(values), Default: inlineJSON(values)}
		return
	}
	for i := 0; i+1 < len(values.Content); i += 2 {
		l.addDefaults(joinKey(at, values.Content[i].Value), values.Content[i+1])
	}
}

// addSchema adds what the schema of an object says of its values. One that need not be there requires none of them.
func (l *valueLister) addSchema(at string, schema *yaml.Node, isThere bool) {
	if l.left--; l.left < 0 {
		return
	}
	for schema.Kind == yaml.AliasNode {
		schema = schema.Alias
	}
	if parts := manifest.GetValue(schema, "allOf"); parts != nil {
		for _, part := range parts.Content {
			l.addSchema(at, part, isThere)
		}
	}
	required := map[string]bool{}
	if names := manifest.GetValue(schema, "required"); names != nil {
		for _, n := range names.Content {
			required[n.Value] = true
		}
	}
	properties := manifest.GetValue(schema, "properties")
	if properties == nil || properties.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i+1 < len(properties.Content); i += 2 {
		key, property := properties.Content[i].Value, properties.Content[i+1]
		for property.Kind == yaml.AliasNode {
			property = property.Alias
		}
		below := manifest.GetValue(property, "properties")
		if below != nil && len(below.Content) > 0 {
			hasDefault := l.objects[joinKey(at, key)] || manifest.GetValue(property, "default") != nil
			l.addSchema(joinKey(at, key), property, isThere && (required[key] || hasDefault))
			continue
		}
		l.addField(joinKey(at, key), property, isThere && required[key])
	}
}

func (l *valueLister) addField(at string, schema *yaml.Node, required bool) {
	if l.left--; l.left < 0 {
		return
	}
	f := l.fields[at]
	f.Type = manifest.GetText(schema, "type")
	if manifest.GetText(schema, "nullable") == "true" {
		f.Type = strings.TrimPrefix(f.Type+" or null", " or ")
	}
	value := manifest.GetValue(schema, "default")
	if value != nil {
		f.Default = inlineJSON(value)
	}
	if allowed := manifest.GetValue(schema, "enum"); allowed != nil {
		for _, one := range allowed.Content {
			f.Allowed = append(f.Allowed, inlineJSON(one))
		}
		slices.Sort(f.Allowed)
	}
	length, _ := strconv.Atoi(manifest.GetText(schema, "minLength"))
	tooShort := value != nil && value.Kind == yaml.ScalarNode && utf8.RuneCountInString(value.Value) < length
	f.Required = required && f.Default == "" || tooShort
	f.Description = strings.TrimSpace(manifest.GetText(schema, "description"))
	l.fields[at] = f
}

// joinKey returns the path of a key below another, as [ParseAssignment] takes it.
func joinKey(at, key string) string {
	key = strings.NewReplacer(`\`, `\\`, ".", `\.`).Replace(key)
	if at == "" {
		return key
	}
	return at + "." + key
}

// nodeType returns what a schema calls the type of a value.
func nodeType(value *yaml.Node) string {
	switch value.Kind {
	case yaml.MappingNode:
		return "object"
	case yaml.SequenceNode:
		return "array"
	}
	return map[string]string{"!!str": "string", "!!int": "integer", "!!float": "number", "!!bool": "boolean"}[value.ShortTag()]
}

// maxDefault is how much is shown of a default.
const maxDefault = 200

// inlineJSON returns a value as JSON, on one line. A long one is cut, and differs from others by its digest.
func inlineJSON(value *yaml.Node) string {
	var decoded any
	text := []byte(value.Value)
	if err := value.Decode(&decoded); err == nil {
		if data, err := json.Marshal(plainKeys(decoded)); err == nil {
			text = data
		}
	}
	if more := len(text) - maxDefault; more > 0 {
		return strings.ToValidUTF8(string(text[:maxDefault]), "") + fmt.Sprintf("… and %d more bytes (all: %s)", more, digest.FromBytes(text))
	}
	return string(text)
}

// plainKeys makes text of keys that JSON has no place for.
func plainKeys(value any) any {
	switch v := value.(type) {
	case map[any]any:
		all := map[string]any{}
		for key, one := range v {
			all[fmt.Sprint(key)] = plainKeys(one)
		}
		return all
	case map[string]any:
		for key := range maps.Clone(v) {
			v[key] = plainKeys(v[key])
		}
	case []any:
		for i := range v {
			v[i] = plainKeys(v[i])
		}
	}
	return value
}
