package render

import (
	"maps"
	"slices"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/manifest"
)

// Over gives values with v's over those of base: mappings are merged, all else replaces. Either
// may be nil.
func (v *Values) Over(base *Values) *Values {
	if base == nil {
		return v
	}
	if v == nil {
		return base
	}
	both := &Values{file: v.file, root: v.root, bundles: maps.Clone(base.bundles)}
	both.set = append(slices.Clone(base.set), v.set...)
	for name, node := range v.bundles {
		both.bundles[name] = over(node, both.bundles[name])
	}
	return both
}

func over(node, base *yaml.Node) *yaml.Node {
	if base == nil || base.Kind != yaml.MappingNode || node.Kind != yaml.MappingNode {
		return node
	}
	both := *base
	both.Content = slices.Clone(merged(base))
	content := merged(node)
	for i := 0; i+1 < len(content); i += 2 {
		at := -1
		for k := 0; k+1 < len(both.Content); k += 2 {
			if both.Content[k].Value == content[i].Value {
				at = k
			}
		}
		if at < 0 {
			both.Content = append(both.Content, content[i], content[i+1])
		} else {
			both.Content[at+1] = over(content[i+1], both.Content[at+1])
		}
	}
	return &both
}

// Only gives the values of the bundles that are named; those of others are not known any more.
func (v *Values) Only(bundles []string) *Values {
	if v == nil {
		return nil
	}
	kept := &Values{bundles: map[string]*yaml.Node{}}
	for name, node := range v.bundles {
		if slices.Contains(bundles, name) {
			kept.bundles[name] = node
		}
	}
	return kept
}

// Node gives the values as one mapping from the names of bundles, in order; nil if there are none.
func (v *Values) Node() *yaml.Node {
	if v == nil || len(v.bundles) == 0 {
		return nil
	}
	all := mapping()
	for _, name := range slices.Sorted(maps.Keys(v.bundles)) {
		key := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: name}
		all.Content = append(all.Content, key, uncommented(v.bundles[name]))
	}
	return all
}

// FromNode is the other way of [Values.Node].
func FromNode(name string, node *yaml.Node) (*Values, error) {
	if node == nil || node.IsZero() {
		return nil, nil
	}
	data, err := yaml.Marshal(node)
	if err != nil {
		return nil, err
	}
	return ParseValues(name, data)
}

// Texts are all scalars of the values that are not empty.
func (v *Values) Texts() []string {
	if v == nil {
		return nil
	}
	var texts []string
	for _, node := range v.bundles {
		walkScalars(node, func(n *yaml.Node) { texts = append(texts, n.Value) })
	}
	slices.Sort(texts)
	return slices.DeleteFunc(slices.Compact(texts), func(s string) bool { return s == "" })
}

// Masked gives the values with every scalar that v has in common with secret hidden.
func (v *Values) Masked(secret *Values) *Values {
	if v == nil || secret == nil {
		return v
	}
	masked := &Values{bundles: map[string]*yaml.Node{}}
	for name, node := range v.bundles {
		masked.bundles[name] = mask(node, secret.bundles[name])
	}
	return masked
}

func mask(node, secret *yaml.Node) *yaml.Node {
	if secret == nil {
		return node
	}
	if node.Kind != yaml.MappingNode || secret.Kind != yaml.MappingNode {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: "(from a Secret)"}
	}
	masked := *node
	masked.Content = slices.Clone(merged(node))
	for i := 0; i+1 < len(masked.Content); i += 2 {
		masked.Content[i+1] = mask(masked.Content[i+1], manifest.Get(secret, masked.Content[i].Value))
	}
	return &masked
}

func walkScalars(n *yaml.Node, each func(*yaml.Node)) {
	if n.Kind == yaml.ScalarNode {
		each(n)
	}
	for i, child := range n.Content {
		if n.Kind != yaml.MappingNode || i%2 == 1 {
			walkScalars(child, each)
		}
	}
}

// uncommented makes the bytes of equal values equal: comments and flow style are no values.
func uncommented(n *yaml.Node) *yaml.Node {
	plain := *n
	plain.HeadComment, plain.LineComment, plain.FootComment = "", "", ""
	// A string that looks like something else is quoted all the same, by its tag.
	plain.Style &= yaml.LiteralStyle | yaml.FoldedStyle
	if plain.Kind == yaml.ScalarNode {
		plain.Tag = n.ShortTag()
	}
	plain.Content = make([]*yaml.Node, len(n.Content))
	for i, child := range n.Content {
		plain.Content[i] = uncommented(child)
	}
	return &plain
}
