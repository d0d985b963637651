package render

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"helm.sh/helm/v4/pkg/chart/common/util"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	chartutil "helm.sh/helm/v4/pkg/chart/v2/util"
)

// checkValues holds values against the schemas of a chart and of those in it, as helm does,
// except that it fetches nothing: what a schema refers to elsewhere allows everything. It
// changes the chart.
func checkValues(c *chart.Chart, values map[string]any) error {
	if err := chartutil.ProcessDependencies(c, values); err != nil {
		return oneLine(err, c.Name())
	}
	all, err := util.CoalesceValues(c, values)
	if err != nil {
		return oneLine(err, c.Name())
	}
	return checkChartValues(c, all.AsMap(), nil)
}

func checkChartValues(c *chart.Chart, values map[string]any, location []string) error {
	if c.Schema != nil {
		schema, err := compileSchema(c.Schema)
		if err != nil {
			return fmt.Errorf("values.schema.json of chart %s: %w", c.Name(), err)
		}
		var invalid *jsonschema.ValidationError
		if err := schema.Validate(values); errors.As(err, &invalid) {
			return firstViolation(invalid, location)
		} else if err != nil {
			return fmt.Errorf("values.schema.json of chart %s: %w", c.Name(), err)
		}
	}
	for _, sub := range c.Dependencies() {
		at := append(slices.Clone(location), sub.Name())
		switch own := values[sub.Name()].(type) {
		case nil:
		case map[string]any:
			if err := checkChartValues(sub, own, at); err != nil {
				return err
			}
		default:
			return fmt.Errorf("value %s: is not a mapping, but chart %s needs one", strings.Join(at, "."), sub.Name())
		}
	}
	return nil
}

// noSchemaLoader loads the schemas that a schema refers to by URL: each allows everything.
type noSchemaLoader struct{}

func (noSchemaLoader) Load(string) (any, error) { return true, nil }

func compileSchema(data []byte) (*jsonschema.Schema, error) {
	schema, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	compile := func() (*jsonschema.Schema, error) {
		const name = "file:///values.schema.json"
		compiler := jsonschema.NewCompiler()
		compiler.UseLoader(noSchemaLoader{})
		if err := compiler.AddResource(name, schema); err != nil {
			return nil, err
		}
		return compiler.Compile(name)
	}
	compiled, err := compile()
	if err != nil {
		// What allows everything has no parts to refer to.
		loosenReferences(schema)
		compiled, err = compile()
	}
	return compiled, err
}

// loosenReferences makes references to parts of other schemas ones to all of them.
func loosenReferences(schema any) {
	switch s := schema.(type) {
	case map[string]any:
		if ref, ok := s["$ref"].(string); ok && !strings.HasPrefix(ref, "#") {
			s["$ref"], _, _ = strings.Cut(ref, "#")
		}
		for _, child := range s {
			loosenReferences(child)
		}
	case []any:
		for _, child := range s {
			loosenReferences(child)
		}
	}
}

// firstViolation is the first of the places where values break a schema.
func firstViolation(invalid *jsonschema.ValidationError, location []string) error {
	var found []*jsonschema.ValidationError
	var collect func(*jsonschema.ValidationError)
	collect = func(e *jsonschema.ValidationError) {
		switch e.ErrorKind.(type) {
		case *kind.AnyOf, *kind.OneOf:
		default:
			for _, cause := range e.Causes {
				collect(cause)
			}
			if len(e.Causes) > 0 {
				return
			}
		}
		found = append(found, e)
	}
	collect(invalid)
	first := slices.MinFunc(found, func(a, b *jsonschema.ValidationError) int {
		return slices.Compare(a.InstanceLocation, b.InstanceLocation)
	})
	name := append(slices.Clone(location), first.InstanceLocation...)
	more := ""
	if len(found) > 1 {
		more = fmt.Sprintf(", and %d more", len(found)-1)
	}
	what := "is not one of the allowed values"
	switch k := first.ErrorKind.(type) {
	case *kind.AdditionalProperties:
		name, what = append(name, k.Properties[0]), "is not known"
	case *kind.Required:
		name, what = append(name, k.Missing[0]), "is missing"
	case *kind.AnyOf, *kind.OneOf:
	default:
		if output := first.BasicOutput(); output.Error != nil {
			what = output.Error.String()
		}
	}
	return fmt.Errorf("value %s: %s (values.schema.json of the chart%s)", strings.Join(name, "."), what, more)
}
