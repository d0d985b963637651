package images

import (
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/manifest"
)

// ControllerOperand is a kind of resource for which a controller may start containers whose images only the
// controller knows.
type ControllerOperand struct {
	// Kind is what a CustomResourceDefinition defines.
	Kind string
	// Fields are its fields for images, a few of them.
	Fields []string
	// File and Line are where it is defined.
	File string
	Line int
}

// maxOperandFields is how many fields of an operand are named.
const maxOperandFields = 3

// UnlockedOperands returns the kinds that files define with fields for images, and of which nothing
// found says which images those are: no resource of the kind names one, and neither do the arguments
// and the environment of any container, where controllers have their defaults.
func UnlockedOperands(files []*manifest.File, found []Found) (operands []ControllerOperand) {
	named := map[string]bool{}
	for _, f := range found {
		if f.State != Image {
			continue
		}
		if f.How == howArgument || f.How == howEnvironment {
			return nil
		}
		kind, _, _ := strings.Cut(f.Resource, " ")
		named[kind] = true
	}
	for _, f := range files {
		for _, doc := range f.Documents {
			if manifest.GetText(doc, "kind") != "CustomResourceDefinition" {
				continue
			}
			spec := resolveAlias(manifest.GetValue(doc, "spec"))
			kind := manifest.GetText(resolveAlias(manifest.GetValue(spec, "names")), "kind")
			fields := imageFields(spec, "", nil, map[*yaml.Node]bool{})
			if len(fields) > 0 && !named[kind] {
				operands = append(operands, ControllerOperand{kind, fields[:min(len(fields), maxOperandFields)], f.Name, doc.Line})
			}
		}
	}
	return operands
}

// imageFields returns the properties of a schema that hold images, but for those of containers.
func imageFields(node *yaml.Node, at string, fields []string, seen map[*yaml.Node]bool) []string {
	node = resolveAlias(node)
	if node == nil || seen[node] {
		return fields
	}
	seen[node] = true
	for i := 0; node.Kind == yaml.MappingNode && i+1 < len(node.Content); i += 2 {
		key, value := resolveAlias(node.Content[i]).Value, resolveAlias(node.Content[i+1])
		if key != "properties" || value.Kind != yaml.MappingNode {
			fields = imageFields(value, at, fields, seen)
			continue
		}
		for j := 0; j+1 < len(value.Content); j += 2 {
			name, property := resolveAlias(value.Content[j]).Value, resolveAlias(value.Content[j+1])
			path := strings.TrimPrefix(at+"."+name, ".")
			switch {
			case slices.Contains(podFields, name) || name == "status" && at == "":
			case isImageKey(name) && manifest.GetText(property, "type") == "string":
				if !slices.Contains(fields, path) { // a CRD has a schema for each version
					fields = append(fields, path)
				}
			default:
				fields = imageFields(property, path, fields, seen)
			}
		}
	}
	for _, item := range node.Content {
		if node.Kind == yaml.SequenceNode {
			fields = imageFields(item, at, fields, seen)
		}
	}
	return fields
}

// podFields hold containers, whose images who writes the resource gives.
var podFields = []string{"containers", "initContainers", "ephemeralContainers", "volumes", "sidecars"}
