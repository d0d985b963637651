package render

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/manifest"
)

// Assignment is one value for one bundle, as a command line gives it.
type Assignment struct {
	// Bundle is the name of the bundle.
	Bundle string
	// Path leads to the value through the bundle's mappings.
	Path []string

	text  string
	value *yaml.Node
}

// ParseAssignment reads bundle.key.path=value. The value is a string, or YAML if isYAML. A
// dot that is part of a key is written \. and a backslash \\.
func ParseAssignment(text string, isYAML bool) (Assignment, error) {
	name, value, ok := strings.Cut(text, "=")
	if !ok {
		return Assignment{}, fmt.Errorf("%q is not an assignment: want bundle.key=value", text)
	}
	if !utf8.ValidString(text) {
		return Assignment{}, fmt.Errorf("%q is not UTF-8", text)
	}
	keys, err := splitKeys(name)
	if err != nil {
		return Assignment{}, err
	}
	a := Assignment{Bundle: keys[0], Path: keys[1:], text: name}
	a.value = &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: value, Style: yaml.DoubleQuotedStyle}
	if !isYAML {
		return a, nil
	}
	file, err := manifest.Parse(name, []byte(value))
	if err != nil {
		return Assignment{}, err
	}
	switch len(file.Documents) {
	case 0:
		a.value = &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}
	case 1:
		if a.value, ok = manifest.ExpandAliases(file.Documents[0]); !ok {
			return Assignment{}, fmt.Errorf("%s has more than %d parts with its aliases expanded", name, manifest.MaxValues)
		}
	default:
		return Assignment{}, fmt.Errorf("%s: want a single document", name)
	}
	return a, nil
}

// splitKeys takes the path of an assignment apart.
func splitKeys(path string) ([]string, error) {
	keys := []string{""}
	for i := 0; i < len(path); i++ {
		c := path[i]
		switch {
		case c == '\\' && i+1 < len(path) && (path[i+1] == '.' || path[i+1] == '\\'):
			i++
			keys[len(keys)-1] += path[i : i+1]
		case c == '.':
			keys = append(keys, "")
		default:
			keys[len(keys)-1] += path[i : i+1]
		}
	}
	for _, key := range keys {
		if key == "" || len(keys) < 2 {
			return nil, fmt.Errorf("%q is not a path to a value: want bundle.key or bundle.key.key", path)
		}
	}
	return keys, nil
}

// WithAssignments returns the values with assignments over them, later ones over earlier ones. It leaves
// v, which may be nil, as it was.
func (v *Values) WithAssignments(assignments ...Assignment) (*Values, error) {
	with := &Values{bundles: map[string]*yaml.Node{}, files: map[*yaml.Node]string{}}
	if v != nil {
		maps.Copy(with.files, v.files)
		with.file, with.root = v.file, v.root
		with.set = append(with.set, v.set...)
		maps.Copy(with.bundles, v.bundles)
	}
	with.set = append(with.set, assignments...)
	for _, a := range assignments {
		top := with.bundles[a.Bundle]
		if top == nil {
			top = newMapping()
		}
		changed, err := a.applyTo(top, 0)
		if err != nil {
			return nil, err
		}
		with.bundles[a.Bundle] = changed
		with.placeNode(a.value, a.text)
	}
	return with, nil
}

// applyTo returns a mapping with the assignment's value in it; depth of its keys lead there.
func (a Assignment) applyTo(node *yaml.Node, depth int) (*yaml.Node, error) {
	if depth == len(a.Path) {
		return a.value, nil
	}
	if node.Kind == yaml.ScalarNode && node.ShortTag() == "!!null" {
		node = newMapping()
	}
	if node.Kind != yaml.MappingNode {
		through := strings.Join(append([]string{a.Bundle}, a.Path[:depth]...), ".")
		return nil, fmt.Errorf("%s: %s is not a mapping", a.text, through)
	}
	changed := *node
	changed.Content = slices.Clone(node.Content)
	key := a.Path[depth]
	for i := 0; i+1 < len(changed.Content); i += 2 {
		if manifest.KeyName(changed.Content[i]) == key {
			value, err := a.applyTo(changed.Content[i+1], depth+1)
			changed.Content[i+1] = value
			return &changed, err
		}
	}
	value, err := a.applyTo(newMapping(), depth+1)
	changed.Content = append(changed.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: key, Style: yaml.DoubleQuotedStyle}, value)
	return &changed, err
}

func newMapping() *yaml.Node { return &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"} }
