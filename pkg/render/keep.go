package render

import (
	"maps"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/lazyregexp"
	"krtpkg.dev/krtpkg/pkg/manifest"
)

// Override gives values with v's over those of base: mappings are merged, all else replaces. Either
// may be nil.
func (v *Values) Override(base *Values) *Values {
	if base == nil {
		return v
	}
	if v == nil {
		return base
	}
	both := &Values{file: v.file, root: v.root, bundles: maps.Clone(base.bundles), files: map[*yaml.Node]string{}}
	maps.Copy(both.files, base.files)
	maps.Copy(both.files, v.files)
	both.set = append(slices.Clone(base.set), v.set...)
	for name, node := range v.bundles {
		both.bundles[name] = manifest.OverlayValues(both.bundles[name], node)
	}
	return both
}

// SelectBundles returns the values of the bundles that are named; those of others are not known any more.
func (v *Values) SelectBundles(bundles []string) *Values {
	if v == nil {
		return nil
	}
	kept := &Values{bundles: map[string]*yaml.Node{}, files: v.files}
	for name, node := range v.bundles {
		if slices.Contains(bundles, name) {
			kept.bundles[name] = node
		}
	}
	return kept
}

// Node returns the values as one mapping from the names of bundles, in order, in their normal form:
// equal values have the same bytes. It is nil if there are none.
func (v *Values) Node() *yaml.Node {
	if v == nil || len(v.bundles) == 0 {
		return nil
	}
	all := newMapping()
	for _, name := range slices.Sorted(maps.Keys(v.bundles)) {
		key := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: name}
		all.Content = append(all.Content, key, manifest.NormalizeValues(v.bundles[name]))
	}
	return all
}

// Kept are the values of a runtime, as a cluster keeps them.
type Kept struct {
	// All are the values that it is rendered with.
	All *Values
	// Secret is what of them came from Secrets, so that it is not shown.
	Secret *Values
}

// keptValues is how values are written.
type keptValues struct {
	Values yaml.Node `yaml:"values,omitempty"`
	Secret yaml.Node `yaml:"fromSecrets,omitempty"`
}

// Encode writes the values; equal ones to equal bytes, and to none where there are no values.
func (k Kept) Encode() ([]byte, error) {
	node := k.All.Node()
	if node == nil {
		return nil, nil
	}
	kept := keptValues{Values: *node}
	if secret := k.Secret.Node(); secret != nil {
		kept.Secret = *secret
	}
	return manifest.EncodeYAML(kept)
}

// DecodeKept reads what [Kept.Encode] has written, and no other form of values. name is what errors call it.
func DecodeKept(name string, data []byte) (k Kept, err error) {
	file, err := manifest.Parse(name, data)
	if err != nil || len(file.Documents) == 0 {
		return k, err
	}
	if all := manifest.GetValue(file.Documents[0], "values"); all != nil {
		if k.All, err = fromNode(file, all); err != nil {
			return k, err
		}
	}
	if secret := manifest.GetValue(file.Documents[0], "fromSecrets"); secret != nil {
		if k.Secret, err = fromNode(file, secret); err != nil {
			return k, err
		}
	}
	if k.All == nil {
		return k, file.Errorf(file.Documents[0], "want the recorded values of a runtime below the key %q", "values")
	}
	return k, nil
}

// ListTexts returns all scalars of the values that are not empty.
func (v *Values) ListTexts() []string {
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

// shortestConfidential is the length from which on a text may be more than a word of everyday.
const shortestConfidential = 6

// secretKey matches keys of values that are kept from others.
var secretKey = lazyregexp.New(`(?i)pass|secret|token|credential|private|api_?key|auth`)

// ConfidentialTexts returns the texts among the values that should not be quoted in errors: all but numbers,
// switches, short words and images, and whatever has a key that says so.
func (v *Values) ConfidentialTexts() []string {
	if v == nil {
		return nil
	}
	var texts []string
	var walk func(n *yaml.Node, secret bool)
	walk = func(n *yaml.Node, secret bool) {
		if n.Kind == yaml.ScalarNode && (secret || n.ShortTag() == "!!str" && len(n.Value) >= shortestConfidential && !isImage(n.Value)) {
			texts = append(texts, n.Value)
		}
		for i, child := range n.Content {
			switch {
			case n.Kind != yaml.MappingNode:
				walk(child, secret)
			case i%2 == 1:
				walk(child, secret || secretKey.MatchString(n.Content[i-1].Value))
			}
		}
	}
	for _, node := range v.bundles {
		walk(node, false)
	}
	slices.Sort(texts)
	return slices.Compact(texts)
}

// isImage reports whether a text is an image with its registry: errors name these.
func isImage(text string) bool {
	host, _, found := strings.Cut(text, "/")
	if !found || !strings.ContainsAny(host, ".:") {
		return false
	}
	_, err := images.ParseReference(text)
	return err == nil
}

// MaskSecrets returns the values with every scalar that v has in common with secret hidden.
func (v *Values) MaskSecrets(secret *Values) *Values {
	if v == nil || secret == nil {
		return v
	}
	masked := &Values{bundles: map[string]*yaml.Node{}}
	for name, node := range v.bundles {
		masked.bundles[name] = maskNode(node, secret.bundles[name])
	}
	return masked
}

func maskNode(node, secret *yaml.Node) *yaml.Node {
	if secret == nil {
		return node
	}
	if node.Kind != yaml.MappingNode || secret.Kind != yaml.MappingNode {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: "(from a Secret)"}
	}
	masked := *node
	masked.Content = slices.Clone(node.Content)
	for i := 0; i+1 < len(masked.Content); i += 2 {
		masked.Content[i+1] = maskNode(masked.Content[i+1], manifest.FindValue(secret, masked.Content[i]))
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
