package bundle

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/manifest"
)

// Definition is a parsed definition: exactly one of Bundle and Runtime is set.
type Definition struct {
	Bundle  *Bundle
	Runtime *Runtime

	file *manifest.File
	root *yaml.Node
}

// Metadata returns the definition's name and version.
func (d *Definition) Metadata() Metadata {
	if d.Bundle != nil {
		return d.Bundle.Metadata
	}
	return d.Runtime.Metadata
}

// Errorf returns an error at the place of a field, named by its path: "spec", "sources", 0, "url".
func (d *Definition) Errorf(field []any, format string, args ...any) *manifest.Error {
	return d.file.Errorf(findNode(d.root, field), format, args...)
}

// SetField puts another value into a field that has one, named as for [Definition.Errorf]; the
// definition itself stays as it was parsed. Every other byte of [Definition.Bytes] is kept.
func (d *Definition) SetField(field []any, value string) error {
	node := findNode(d.root, field)
	span, err := d.file.ScalarSpan(node, 0, len(node.Value))
	if err != nil {
		return err
	}
	return d.file.ReplaceSpan(span, value)
}

// Bytes returns the definition's text, with what was [Definition.SetField].
func (d *Definition) Bytes() []byte { return d.file.Bytes() }

// Parse reads a definition strictly: an unknown or mistyped field, a missing one and a
// value that cannot be are errors, each a [*manifest.Error] with its place; several are
// joined, in the order of the file.
func Parse(name string, data []byte) (*Definition, error) {
	file, err := manifest.Parse(name, data)
	if err != nil {
		return nil, err
	}
	switch len(file.Documents) {
	case 1:
	case 0:
		return nil, &manifest.Error{File: name, Problem: "the definition is empty", Hint: "want apiVersion, kind, metadata and spec"}
	default:
		return nil, file.Errorf(file.Documents[1], "a definition must be a single document, this is the second")
	}
	d := &Definition{file: file, root: file.Documents[0]}
	if err := d.decodeRoot(); err != nil {
		return nil, err
	}
	return d, d.checkRules()
}

func (d *Definition) decodeRoot() error {
	if d.root.Kind != yaml.MappingNode {
		return d.file.Errorf(d.root, "a definition must be a mapping with apiVersion, kind, metadata and spec")
	}
	kindNode := manifest.GetValue(d.root, "kind")
	if kindNode == nil {
		return d.file.Errorf(d.root, "kind is missing: want Bundle or Runtime")
	}
	var into any
	switch kindNode.Value {
	case KindBundle:
		d.Bundle = &Bundle{}
		into = d.Bundle
	case KindRuntime:
		d.Runtime = &Runtime{}
		into = d.Runtime
	default:
		return d.file.Errorf(kindNode, "kind %q is not a definition: want Bundle or Runtime", kindNode.Value)
	}
	if err := d.validateSchema(kindNode.Value); err != nil {
		return err
	}
	if err := d.root.Decode(into); err != nil {
		return d.file.Errorf(d.root, "%v", err)
	}
	return nil
}

// findNode follows keys and indexes to a node; where a step is missing, the last node there is.
func findNode(node *yaml.Node, field []any) *yaml.Node {
	for _, step := range field {
		var next *yaml.Node
		switch node.Kind {
		case yaml.MappingNode:
			next = manifest.GetValue(node, fmt.Sprint(step))
		case yaml.SequenceNode:
			if i, err := strconv.Atoi(fmt.Sprint(step)); err == nil && i < len(node.Content) {
				next = node.Content[i]
			}
		}
		if next == nil {
			return node
		}
		node = next
	}
	return node
}

// keyNode returns the node of a mapping's key itself.
func keyNode(mapping *yaml.Node, name string) *yaml.Node {
	for i := 0; i < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == name {
			return mapping.Content[i]
		}
	}
	return mapping
}

// joinErrors sorts errors by place, so that the same file always gives the same text.
func joinErrors(found []*manifest.Error) error {
	slices.SortStableFunc(found, func(a, b *manifest.Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Problem, b.Problem))
	})
	all := make([]error, len(found))
	for i, e := range found {
		all[i] = e
	}
	return errors.Join(all...)
}
