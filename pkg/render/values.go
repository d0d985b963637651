package render

import (
	"cmp"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/manifest"
)

// Values are a site's values: a mapping from the names of bundles to what their templates
// take.
type Values struct {
	file    *manifest.File
	root    *yaml.Node
	bundles map[string]*yaml.Node
	set     []Assignment
	// files are what the files are called that keys which ytt cannot take stand in.
	files map[*yaml.Node]string
}

// ParseValues reads a site's values file.
func ParseValues(fileName string, data []byte) (*Values, error) {
	file, err := manifest.Parse(fileName, data)
	if err != nil {
		return nil, err
	}
	switch len(file.Documents) {
	case 0:
		return &Values{file: file, bundles: map[string]*yaml.Node{}}, nil
	case 1:
		return fromNode(file, file.Documents[0])
	}
	return nil, file.Errorf(file.Documents[1], "a values file must be a single document, this is the second")
}

// fromNode returns the values that a node of a file holds.
func fromNode(file *manifest.File, root *yaml.Node) (*Values, error) {
	v := &Values{file: file, root: root, bundles: map[string]*yaml.Node{}, files: map[*yaml.Node]string{}}
	if v.root.Kind != yaml.MappingNode {
		return nil, file.Errorf(v.root, "values must be a mapping from bundle names to their values")
	}
	for i := 0; i+1 < len(v.root.Content); i += 2 {
		key, value := v.root.Content[i], v.root.Content[i+1]
		value, ok := manifest.ExpandAliases(value)
		if !ok {
			return nil, file.Errorf(key, "the values of bundle %q have more than %d parts with their aliases expanded", key.Value, manifest.MaxValues)
		}
		if value.Kind == yaml.ScalarNode && value.ShortTag() == "!!null" {
			continue // nothing is set, as where all that show values prints is still a comment
		}
		if value.Kind != yaml.MappingNode {
			return nil, file.Errorf(value, "the values of bundle %q are not a mapping", key.Value)
		}
		v.bundles[key.Value] = value
		v.placeNode(value, file.Name)
	}
	return v, nil
}

func (v *Values) placeNode(node *yaml.Node, fileName string) {
	for key := range manifest.NonStringKeys(node) {
		v.files[key] = fileName
	}
}

// checkKeys refuses keys that ytt cannot take, where ytt takes a bundle's values.
func (v *Values) checkKeys(b *bundle.Bundle) error {
	if v == nil || v.bundles[b.Metadata.Name] == nil || !slices.ContainsFunc(b.Spec.Sources, takesByYTT) {
		return nil
	}
	return manifest.CheckKeys(v.bundles[b.Metadata.Name], func(key *yaml.Node) string {
		return cmp.Or(v.files[key], "the values of bundle "+b.Metadata.Name)
	})
}

// takesByYTT reports whether a source gives the values of a site to ytt.
func takesByYTT(s bundle.Source) bool {
	return s.AtTarget() && (s.Template == bundle.TemplateYTT || s.Template == "" && len(s.Overlays) > 0)
}

// CheckBundles holds the values against the bundles that there are, so that a mistyped name is an
// error and not a value that nothing reads.
func (v *Values) CheckBundles(bundles []string) error {
	if v == nil {
		return nil
	}
	for i := 0; v.root != nil && i+1 < len(v.root.Content); i += 2 {
		if key := v.root.Content[i]; !slices.Contains(bundles, key.Value) {
			return v.noBundle(v.file.Errorf(key, "unknown bundle %q", key.Value), bundles)
		}
	}
	for _, a := range v.set {
		if !slices.Contains(bundles, a.Bundle) {
			return v.noBundle(&manifest.Error{File: a.text, Problem: "unknown bundle \"" + a.Bundle + "\""}, bundles)
		}
	}
	return nil
}

func (v *Values) noBundle(e *manifest.Error, bundles []string) error {
	e.Hint = "the bundles are " + strings.Join(bundles, ", ")
	return e
}

// valuesOf returns the values of one bundle as a YAML file, or nil.
func (v *Values) valuesOf(bundleName string) ([]byte, error) {
	if v == nil || v.bundles[bundleName] == nil {
		return nil, nil
	}
	return manifest.NewValues(v.bundles[bundleName]).Bytes()
}
