package render

import (
	"slices"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/lazyregexp"
)

// namesSecret matches keys that name a Secret instead of holding one.
var namesSecret = lazyregexp.New(`(?i)(name|ref|existing_?secret)$`)

// MaskConfidential returns the values with every text and number hidden whose key, or that of a mapping around it, says that it is
// kept from others.
func (v *Values) MaskConfidential() *Values {
	if v == nil {
		return nil
	}
	masked := &Values{bundles: map[string]*yaml.Node{}}
	for name, node := range v.bundles {
		masked.bundles[name] = maskConfidential(node, false)
	}
	return masked
}

func maskConfidential(n *yaml.Node, secret bool) *yaml.Node {
	if n.Kind == yaml.ScalarNode {
		if !secret || n.Value == "" || n.ShortTag() == "!!bool" || n.ShortTag() == "!!null" {
			return n
		}
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: "(hidden)"}
	}
	masked := *n
	masked.Content = slices.Clone(n.Content)
	for i, child := range masked.Content {
		switch {
		case n.Kind != yaml.MappingNode:
			masked.Content[i] = maskConfidential(child, secret)
		case i%2 == 1:
			key := n.Content[i-1].Value
			masked.Content[i] = maskConfidential(child, (secret || secretKey.MatchString(key)) && !namesSecret.MatchString(key))
		}
	}
	return &masked
}
