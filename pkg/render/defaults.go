package render

import (
	"fmt"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/manifest"
)

// readDefaults returns the values that a source has if a site sets none: those of a chart and of the charts below it,
// and those of the definition over them. It is nil if there are none.
func (in Input) readDefaults() (*yaml.Node, error) {
	var defaults *yaml.Node
	if in.Source.Template == bundle.TemplateHelm {
		var err error
		if defaults, err = readChartValues(in.Files, ""); err != nil {
			return nil, err
		}
	}
	for _, own := range in.givenValues() {
		node, err := parseDefaults("values of the definition", own)
		if err != nil {
			return nil, err
		}
		defaults = manifest.OverlayValues(defaults, node)
	}
	return defaults, nil
}

// readChartValues returns the values.yaml of the chart in a folder, with those of the charts below it under their names.
func readChartValues(files []bundle.File, folder string) (*yaml.Node, error) {
	values := newMapping()
	for _, f := range files {
		if f.Path != folder+"values.yaml" {
			continue
		}
		own, err := parseDefaults(f.Path, f.Data)
		if err != nil {
			return nil, err
		}
		if own != nil {
			values = own
		}
	}
	for _, f := range files {
		rest, below := strings.CutPrefix(f.Path, folder+"charts/")
		name, isChart := strings.CutSuffix(rest, "/Chart.yaml")
		if !below || !isChart || strings.Contains(name, "/") {
			continue
		}
		inner, err := readChartValues(files, folder+"charts/"+name+"/")
		if err != nil {
			return nil, err
		}
		if len(inner.Content) == 0 {
			continue
		}
		key := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: name}
		set := manifest.FindValue(values, key)
		if set == nil {
			values.Content = append(values.Content, key, inner)
			continue
		}
		values.Content[slices.Index(values.Content, set)] = manifest.OverlayValues(inner, set)
	}
	return values, nil
}

// parseDefaults reads a file of values; nil if it sets none.
func parseDefaults(name string, data []byte) (*yaml.Node, error) {
	file, err := manifest.Parse(name, data)
	if err != nil || len(file.Documents) == 0 {
		return nil, err
	}
	node, ok := manifest.ExpandAliases(file.Documents[0])
	switch {
	case !ok:
		return nil, fmt.Errorf("%s: more than %d parts with its aliases expanded", name, manifest.MaxValues)
	case node.Kind != yaml.MappingNode:
		return nil, nil
	}
	return node, nil
}

// addDefaults puts values into an OpenAPI schema as the defaults of its properties. Values that it does not know become
// properties, unless it allows no others.
func addDefaults(schema, values *yaml.Node) {
	if values == nil || schema.Kind != yaml.MappingNode {
		return
	}
	if manifest.GetValue(schema, "type") == nil {
		setField(schema, "type", &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: "object"})
	}
	more := manifest.GetValue(schema, "additionalProperties")
	isClosed := more != nil && more.Value == "false"
	properties := manifest.GetValue(schema, "properties")
	if properties == nil {
		properties = newMapping()
	}
	for i := 0; i+1 < len(values.Content); i += 2 {
		key, value := values.Content[i], values.Content[i+1]
		property := manifest.GetValue(properties, key.Value)
		switch {
		case property == nil && isClosed:
			continue
		case property == nil:
			property = newMapping()
			setField(properties, key.Value, property)
		}
		if value.Kind == yaml.MappingNode && len(value.Content) > 0 {
			addDefaults(property, value)
		} else {
			setField(property, "default", value)
		}
	}
	if len(properties.Content) > 0 {
		setField(schema, "properties", properties)
	}
}

// setField sets a field of a mapping.
func setField(mapping *yaml.Node, name string, value *yaml.Node) {
	if mapping.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == name {
			mapping.Content[i+1] = value
			return
		}
	}
	mapping.Content = append(mapping.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: name}, value)
}
