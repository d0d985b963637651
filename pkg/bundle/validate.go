package bundle

import (
	"bytes"
	"cmp"
	"embed"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/lazyregexp"
	"krtpkg.dev/krtpkg/pkg/manifest"
)

// The schemas are generated from the Go types (go generate ./pkg/bundle) and are what
// editors get: a definition is valid here if and only if it is valid there.
//
//go:generate go test -run TestSchemasAreCurrent -update .
//go:embed schema/*.json
var schemas embed.FS

// DefinitionSchema returns the JSON schema (draft 2020-12) of definitions of a kind.
func DefinitionSchema(kind string) ([]byte, error) {
	return schemas.ReadFile("schema/" + strings.ToLower(kind) + ".json")
}

// validateSchema holds the document against the schema of its kind.
func (d *Definition) validateSchema(kindName string) error {
	schema, err := compiledSchema(kindName)
	if err != nil {
		return err
	}
	value, err := d.toPlainValue(d.root)
	if err != nil {
		return err
	}
	err = schema.Validate(value)
	var invalid *jsonschema.ValidationError
	if !errors.As(err, &invalid) {
		return err
	}
	var found []*manifest.Error
	d.explainViolation(invalid, schema, &found)
	return joinErrors(dropFollowUpErrors(found))
}

// dropFollowUpErrors drops errors of a missing field if the mistyped name of that field is reported already.
func dropFollowUpErrors(found []*manifest.Error) []*manifest.Error {
	meant := map[string]bool{}
	for _, e := range found {
		if e.Hint != "" {
			meant[e.Hint] = true
		}
	}
	return slices.DeleteFunc(found, func(e *manifest.Error) bool {
		field, missing := strings.CutSuffix(e.Problem, " is missing")
		return missing && meant[didYouMean(field[strings.LastIndex(field, ".")+1:])]
	})
}

func didYouMean(name string) string { return fmt.Sprintf("did you mean %q?", name) }

var compiledSchema = func() func(string) (*jsonschema.Schema, error) {
	var mu sync.Mutex
	known := map[string]*jsonschema.Schema{}
	return func(kindName string) (*jsonschema.Schema, error) {
		mu.Lock()
		defer mu.Unlock()
		if s := known[kindName]; s != nil {
			return s, nil
		}
		data, err := DefinitionSchema(kindName)
		if err != nil {
			return nil, err
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
		if err != nil {
			return nil, err
		}
		compiler := jsonschema.NewCompiler()
		if err := compiler.AddResource(kindName, doc); err != nil {
			return nil, err
		}
		schema, err := compiler.Compile(kindName)
		if err != nil {
			return nil, err
		}
		known[kindName] = schema
		return schema, nil
	}
}()

// toPlainValue turns nodes into the values that the schema library knows. Aliases are refused:
// definitions are short, and an alias can make one endlessly long.
func (d *Definition) toPlainValue(node *yaml.Node) (any, error) {
	switch node.Kind {
	case yaml.MappingNode:
		m := make(map[string]any, len(node.Content)/2)
		for i := 0; i+1 < len(node.Content); i += 2 {
			value, err := d.toPlainValue(node.Content[i+1])
			if err != nil {
				return nil, err
			}
			m[node.Content[i].Value] = value
		}
		return m, nil
	case yaml.SequenceNode:
		s := make([]any, len(node.Content))
		for i, item := range node.Content {
			value, err := d.toPlainValue(item)
			if err != nil {
				return nil, err
			}
			s[i] = value
		}
		return s, nil
	case yaml.ScalarNode:
		var value any
		if err := node.Decode(&value); err != nil {
			return node.Value, nil // a tag that does not fit: as text, which is what the schema refuses
		}
		if _, isTime := value.(fmt.Stringer); isTime { // an unquoted date
			return node.Value, nil
		}
		return value, nil
	}
	return nil, d.file.Errorf(node, "aliases are not allowed in a definition")
}

// explainViolation collects an error for each leaf of the schema library's tree of causes.
func (d *Definition) explainViolation(e *jsonschema.ValidationError, schema *jsonschema.Schema, found *[]*manifest.Error) {
	for _, cause := range e.Causes {
		d.explainViolation(cause, schema, found)
	}
	if len(e.Causes) > 0 {
		return
	}
	field := make([]any, len(e.InstanceLocation))
	for i, token := range e.InstanceLocation {
		field[i] = token
	}
	node := findNode(d.root, field)
	name := fieldName(e.InstanceLocation)
	last := ""
	if len(field) > 0 {
		last = e.InstanceLocation[len(field)-1]
	}
	switch k := e.ErrorKind.(type) {
	case *kind.AdditionalProperties:
		for _, unknown := range k.Properties {
			problem := d.file.Errorf(keyNode(node, unknown), "unknown field %q", unknown)
			at := schemaAt(schema, e.InstanceLocation)
			if near := cmp.Or(manifest.NearestName(unknown, knownFields(at)), findNested(at, unknown, maxNested)); near != "" {
				problem.Hint = didYouMean(near)
			}
			*found = append(*found, problem)
		}
	case *kind.Required:
		for _, missing := range k.Missing {
			*found = append(*found, d.file.Errorf(node, "%s is missing", strings.TrimPrefix(name+"."+missing, ".")))
		}
	case *kind.Type:
		*found = append(*found, d.explainType(node, name, last, k))
	case *kind.Pattern:
		problem := d.file.Errorf(node, "%s %q %s", name, k.Got, cmp.Or(wanted[last], "does not match "+k.Want))
		*found = append(*found, problem)
	case *kind.Enum:
		*found = append(*found, d.file.Errorf(node, "%s is %v, want %s", name, k.Got, joinWords(k.Want)))
	case *kind.MinItems, *kind.MinLength:
		*found = append(*found, d.file.Errorf(node, "%s is empty", name))
	case *kind.MaxLength:
		*found = append(*found, d.file.Errorf(node, "%s has %d characters, want %d at most", name, k.Got, k.Want))
	case *kind.Minimum, *kind.Maximum:
		*found = append(*found, d.file.Errorf(node, "%s is %s, want a number from 0 to 6", name, node.Value))
	default:
		*found = append(*found, d.file.Errorf(node, "%s: %v", name, e))
	}
}

// nameRule is the pattern of Metadata.Name.
var nameRule = lazyregexp.New(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// wanted says in words what the pattern of a field wants.
var wanted = map[string]string{
	"name":       "is not a name: want lower-case letters, digits and dashes, at most 63",
	"version":    "is not a semantic version: want MAJOR.MINOR.PATCH, as in 1.2.3 or 2.0.0-rc.1",
	"category":   "is not a category: want lower-case letters, digits and dashes",
	"url":        "is not an https URL: want https://…",
	"sha256":     "is not a sha256 digest: want 64 hexadecimal digits in lower case",
	"commit":     "is not a commit: want its full id, 40 hexadecimal digits in lower case",
	"chart":      "is not a chart name: a chart in a folder is dir: FOLDER with template: helm",
	"repository": "is not a chart repository: want https://… or oci://…",
	"release":    "is not a release name: want lower-case letters, digits and dashes, at most 53",
	"namespace":  "is not a namespace: want lower-case letters, digits and dashes",
	"ref":        "is not a reference: want registry/repository:tag, to which krtpkg update adds the digest, or oci:folder@sha256:…",
}

// schemaAt returns the part of a schema for a place; nil if it has none.
func schemaAt(schema *jsonschema.Schema, location []string) *jsonschema.Schema {
	for _, token := range append([]string{""}, location...) {
		if token != "" {
			if item, isSchema := schema.Items2020, schema.Items2020 != nil; isSchema && isIndex(token) {
				schema = item
			} else {
				schema = schema.Properties[token]
			}
		}
		if schema = resolveSchema(schema); schema == nil {
			return nil
		}
	}
	return schema
}

func resolveSchema(schema *jsonschema.Schema) *jsonschema.Schema {
	for schema != nil && schema.Ref != nil {
		schema = schema.Ref
	}
	return schema
}

// knownFields returns the names that a schema knows, sorted.
func knownFields(schema *jsonschema.Schema) []string {
	if schema == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(schema.Properties))
}

// maxNested is how many levels below a place a field is looked for that is not known there.
const maxNested = 3

// findNested returns the path of a field of a name below a schema, "helm.namespace" or "sources[].helm.namespace":
// the shortest, or "" for none.
func findNested(schema *jsonschema.Schema, name string, levels int) (found string) {
	if levels == 0 {
		return ""
	}
	for _, field := range knownFields(schema) {
		at, inner := field, resolveSchema(schema.Properties[field])
		if inner != nil && inner.Items2020 != nil {
			at, inner = field+"[]", resolveSchema(inner.Items2020)
		}
		path := ""
		if inner != nil && inner.Properties[name] != nil {
			path = at + "." + name
		} else if deeper := findNested(inner, name, levels-1); deeper != "" {
			path = at + "." + deeper
		}
		if path != "" && (found == "" || strings.Count(path, ".") < strings.Count(found, ".")) {
			found = path
		}
	}
	return found
}

func isIndex(token string) bool {
	_, err := strconv.Atoi(token)
	return err == nil
}

// explainType explains a value of the wrong type.
func (d *Definition) explainType(node *yaml.Node, name, last string, k *kind.Type) *manifest.Error {
	if k.Got == "number" && wanted[last] != "" {
		return d.file.Errorf(node, "%s %s %s", name, node.Value, wanted[last])
	}
	problem := d.file.Errorf(node, "%s is %s, want %s", name, typeName[k.Got], typeName[k.Want[0]])
	if k.Want[0] == "string" && node.Kind == yaml.ScalarNode && k.Got != "null" {
		problem.Hint = fmt.Sprintf("write it in quotes: %q", node.Value)
	}
	return problem
}

// typeName is what YAML calls the types of JSON schema.
var typeName = map[string]string{
	"null": "empty", "object": "a mapping", "array": "a list", "string": "a string",
	"number": "a number", "integer": "a whole number", "boolean": "true or false",
}

// fieldName writes a place as users do: spec.sources[0].url.
func fieldName(location []string) string {
	var name strings.Builder
	for _, token := range location {
		switch {
		case isIndex(token):
			fmt.Fprintf(&name, "[%s]", token)
		case name.Len() == 0:
			name.WriteString(token)
		default:
			name.WriteString("." + token)
		}
	}
	return name.String()
}

func joinWords(values []any) string {
	words := make([]string, len(values))
	for i, v := range values {
		words[i] = fmt.Sprint(v)
	}
	return strings.Join(words, " or ")
}
