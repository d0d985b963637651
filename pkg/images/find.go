// Package images finds the image references of Kubernetes manifests, locks them by digest
// and rewrites them without harm to the YAML.
//
// Call [Find] on each manifest file, [Resolve] on what was found to get a [Lock], and on
// the target [Relocate] to make the manifests run exactly what the lock names.
package images

import (
	"fmt"
	"strings"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/manifest"
)

// Found is an image reference in a manifest.
type Found struct {
	// Image is the reference as the author wrote it.
	Image string
	// File, Line and Column are where it stands; both count from 1.
	File         string
	Line, Column int
	// Resource is the kind and name of the resource that it belongs to.
	Resource string
	// Path is the way from the resource to the field, as in spec.containers[0].image.
	Path string

	node *yaml.Node
}

// Find lists the images in container fields of any kind of resource, in the order of the
// file: containers, initContainers and ephemeralContainers at any depth, so that a custom
// resource with a pod template counts too, and image volumes (Kubernetes v1.Volume).
func Find(f *manifest.File) ([]Found, error) {
	var found []Found
	for _, doc := range f.Documents {
		finder := finder{file: f, resource: describe(doc), seen: map[*yaml.Node]bool{}}
		if err := finder.walk(doc, ""); err != nil {
			return nil, err
		}
		found = append(found, finder.found...)
	}
	return found, nil
}

type finder struct {
	file     *manifest.File
	resource string
	seen     map[*yaml.Node]bool
	found    []Found
}

func (w *finder) walk(node *yaml.Node, path string) error {
	// Each node once, however many aliases lead to it: one may lead to itself, and a few
	// may multiply to millions.
	if w.seen[node] {
		return nil
	}
	w.seen[node] = true
	switch node.Kind {
	case yaml.AliasNode:
		return w.walk(node.Alias, path)
	case yaml.SequenceNode:
		for i, item := range node.Content {
			if err := w.walk(item, fmt.Sprintf("%s[%d]", path, i)); err != nil {
				return err
			}
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(node.Content); i += 2 {
			key, value := target(node.Content[i]).Value, node.Content[i+1]
			at := strings.TrimPrefix(path+"."+key, ".")
			if err := w.field(key, value, at); err != nil {
				return err
			}
			if err := w.walk(value, at); err != nil {
				return err
			}
		}
	}
	return nil
}

// field takes the images that a field of a pod holds, if it is one.
func (w *finder) field(key string, value *yaml.Node, path string) error {
	var within []string
	switch key {
	case "containers", "initContainers", "ephemeralContainers":
		within = []string{"image"}
	case "volumes":
		within = []string{"image", "reference"}
	default:
		return nil
	}
	if value = target(value); value.Kind != yaml.SequenceNode {
		return nil
	}
	for i, item := range value.Content {
		at := fmt.Sprintf("%s[%d].%s", path, i, strings.Join(within, "."))
		for _, node := range values(item, within, map[*yaml.Node]bool{}) {
			if err := w.take(node, at); err != nil {
				return err
			}
		}
	}
	return nil
}

// values are the scalars that keys lead to in a mapping and in those that it merges
// (yaml.org/type/merge.html). Readers differ in which of them wins, so each one counts.
func values(node *yaml.Node, keys []string, seen map[*yaml.Node]bool) []*yaml.Node {
	node = target(node)
	if len(keys) == 0 && node.Kind == yaml.ScalarNode {
		return []*yaml.Node{node}
	}
	if len(keys) == 0 || node.Kind != yaml.MappingNode || seen[node] {
		return nil
	}
	seen[node] = true
	var found []*yaml.Node
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := target(node.Content[i]), target(node.Content[i+1])
		switch {
		case key.Tag == "!!merge" && value.Kind == yaml.SequenceNode:
			for _, merged := range value.Content {
				found = append(found, values(merged, keys, seen)...)
			}
		case key.Tag == "!!merge":
			found = append(found, values(value, keys, seen)...)
		case key.Value == keys[0]:
			found = append(found, values(value, keys[1:], map[*yaml.Node]bool{})...)
		}
	}
	return found
}

func (w *finder) take(node *yaml.Node, path string) error {
	image := strings.TrimSpace(node.Value)
	if node.Tag == "!!null" || image == "" {
		// Whoever owns the resource fills it in: Deployments can't leave it out, but
		// templates of controllers can.
		return nil
	}
	if node.Tag != "!!str" {
		return w.file.Errorf(node, "%s: %s is %s, not an image reference", w.resource, path, node.Value)
	}
	w.found = append(w.found, Found{
		Image: image, File: w.file.Name, Line: node.Line, Column: node.Column,
		Resource: w.resource, Path: path, node: node,
	})
	return nil
}

func target(node *yaml.Node) *yaml.Node {
	if node != nil && node.Kind == yaml.AliasNode {
		return node.Alias
	}
	return node
}

func describe(doc *yaml.Node) string {
	kind, name := manifest.Get(doc, "kind"), manifest.Get(manifest.Get(doc, "metadata"), "name")
	switch {
	case kind == nil:
		return "document"
	case name == nil:
		return kind.Value
	}
	return kind.Value + " " + name.Value
}
