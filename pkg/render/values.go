package render

import (
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/manifest"
)

// Values are a site's values: a mapping from the names of bundles to what their templates
// take.
type Values struct {
	file    *manifest.File
	root    *yaml.Node
	bundles map[string]*yaml.Node
	set     []Assignment
}

// ParseValues reads a site's values file.
func ParseValues(fileName string, data []byte) (*Values, error) {
	file, err := manifest.Parse(fileName, data)
	if err != nil {
		return nil, err
	}
	v := &Values{file: file, bundles: map[string]*yaml.Node{}}
	if len(file.Documents) == 0 {
		return v, nil
	}
	if len(file.Documents) > 1 {
		return nil, file.Errorf(file.Documents[1], "a values file is one document, this is the second")
	}
	v.root = file.Documents[0]
	if v.root.Kind != yaml.MappingNode {
		return nil, file.Errorf(v.root, "values are a mapping from bundle names to their values")
	}
	for i := 0; i+1 < len(v.root.Content); i += 2 {
		key, value := v.root.Content[i], v.root.Content[i+1]
		left := maxNodes
		if value = expand(value, &left); left < 0 {
			return nil, file.Errorf(key, "the values of bundle %q have over %d parts with their aliases", key.Value, maxNodes)
		}
		if value.Kind != yaml.MappingNode {
			return nil, file.Errorf(value, "the values of bundle %q are no mapping", key.Value)
		}
		v.bundles[key.Value] = value
	}
	return v, nil
}

// maxNodes is the limit on a bundle's values, which aliases can make endless.
const maxNodes = 100_000

// expand puts what aliases lead to in their place, since a bundle gets its part of the file
// without the part that has the anchor. left is counted down, to below 0 when it is too much.
func expand(node *yaml.Node, left *int) *yaml.Node {
	for node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	expanded := *node
	expanded.Anchor, expanded.Content = "", make([]*yaml.Node, 0, len(node.Content))
	for _, child := range node.Content {
		if *left--; *left < 0 {
			break
		}
		expanded.Content = append(expanded.Content, expand(child, left))
	}
	return &expanded
}

// Check holds the values against the bundles that there are, so that a mistyped name is an
// error and not a value that nothing reads.
func (v *Values) Check(bundles []string) error {
	if v == nil {
		return nil
	}
	for i := 0; v.root != nil && i+1 < len(v.root.Content); i += 2 {
		if key := v.root.Content[i]; !slices.Contains(bundles, key.Value) {
			return v.noBundle(v.file.Errorf(key, "there is no bundle %q", key.Value), bundles)
		}
	}
	for _, a := range v.set {
		if !slices.Contains(bundles, a.Bundle) {
			return v.noBundle(&manifest.Error{File: a.text, Problem: "there is no bundle \"" + a.Bundle + "\""}, bundles)
		}
	}
	return nil
}

func (v *Values) noBundle(e *manifest.Error, bundles []string) error {
	e.Hint = "the bundles are " + strings.Join(bundles, ", ")
	return e
}

// of is the values of one bundle as a YAML file, or nil.
func (v *Values) of(bundleName string) ([]byte, error) {
	if v == nil || v.bundles[bundleName] == nil {
		return nil, nil
	}
	return yaml.Marshal(v.bundles[bundleName])
}
