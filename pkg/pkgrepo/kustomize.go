package pkgrepo

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/render"
)

// siteRepository stands for the repository in which a site has a runtime, until that is known.
const siteRepository = bundle.Nowhere + "/site"

// patch puts the images of a site into one resource, as kustomize takes it in a kustomization, in
// a Kustomization of Flux and in an Application of Argo CD.
type patch struct {
	Target patchTarget `yaml:"target"`
	// Patch is a JSON patch (RFC 6902), which is YAML too.
	Patch string `yaml:"patch"`
}

// patchTarget selects a resource. kustomize takes name and namespace for regular expressions.
type patchTarget struct {
	Group     string `yaml:"group,omitempty"`
	Version   string `yaml:"version,omitempty"`
	Kind      string `yaml:"kind,omitempty"`
	Name      string `yaml:"name,omitempty"`
	Namespace string `yaml:"namespace,omitempty"`
	// Annotations is a selector of annotations.
	Annotations string `yaml:"annotationSelector,omitempty"`
}

func (t patchTarget) String() string {
	if t.Namespace == "" {
		return t.Kind + " " + t.Name + " without a namespace"
	}
	return t.Kind + " " + t.Name + " in " + t.Namespace
}

// patchTargets are all resources of a bundle.
type patchTargets []patchTarget

func targetsOf(files []*manifest.File) (all patchTargets) {
	for resource := range allResources(files) {
		all = append(all, targetOf(resource))
	}
	return all
}

// allResources returns those in files, and in lists there.
func allResources(files []*manifest.File) iter.Seq[*yaml.Node] {
	return func(yield func(*yaml.Node) bool) {
		for _, f := range files {
			for _, doc := range f.Documents {
				for _, item := range manifest.ListItems(doc) {
					if !yield(item) {
						return
					}
				}
			}
		}
	}
}

// ambiguousTarget returns a resource that a target selects besides the one that it is of: kustomize takes an empty
// group or namespace for any.
func (all patchTargets) ambiguousTarget(t patchTarget) (patchTarget, bool) {
	for _, other := range all {
		if other != t && other.Kind == t.Kind && other.Name == t.Name && other.Version == t.Version &&
			(t.Group == "" || t.Group == other.Group) && (t.Namespace == "" || t.Namespace == other.Namespace) {
			return other, true
		}
	}
	return patchTarget{}, false
}

// patchOperation is one of a JSON patch.
type patchOperation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// sitePatches returns what makes the plain files of a bundle the resources that [render.RenderBundle] and kapp come
// to at a site: the locked images as the site has them, the namespace where a resource names none,
// and nothing where a custom resource has null, which API servers refuse in what is applied by
// them. The reason says why they cannot be. rendered is nil or what the bundle renders to.
func sitePatches(b *bundle.Content, files []*manifest.File, rendered *renderedBundle, known render.Scopes) (patches []patch, reason string, err error) {
	contents := map[string][]byte{}
	for _, f := range b.Files {
		contents[f.Path] = f.Data
	}
	all := targetsOf(files)
	finder := b.Bundle.Spec.Finder()
	locate := func(image name.Digest) string { return siteRepository + "@" + image.DigestStr() }
	for _, before := range files {
		found, err := rendered.findImages(before, finder)
		if err != nil {
			return nil, "", err
		}
		data, err := b.Images.RelocateFound(before, found, locate)
		if err != nil {
			return nil, "", err
		}
		after := before
		if !bytes.Equal(data, contents[before.Name]) {
			if after, err = manifest.Parse(before.Name, data); err != nil {
				return nil, "", err
			}
		}
		for i, doc := range before.Documents {
			items, changed := manifest.ListItems(doc), manifest.ListItems(after.Documents[i])
			for k, item := range items {
				var operations []patchOperation
				if at := diffTexts(item, changed[k], "", &operations); at != nil {
					return nil, fmt.Sprintf("%s:%d: an image in merged YAML cannot be patched", before.Name, at.Line), nil
				}
				target := targetOf(item)
				if target.Namespace == "" {
					namespaced, isKnown := known.ScopeOf(item)
					own := namespaceOf(b.Bundle, before.Name)
					if !isKnown && own != "" {
						return nil, fmt.Sprintf("%s belongs to namespace %s if it is namespaced, but no bundle of the runtime defines its kind", target, own), nil
					}
					if namespaced {
						operations = append(operations, patchOperation{"add", "/metadata/namespace", cmp.Or(own, defaultNamespace)})
					}
				}
				if _, own := render.ScopeOfKind(manifest.GetText(item, "apiVersion"), target.Kind); !own {
					for n := 0; n+1 < len(item.Content); n += 2 {
						if key := item.Content[n].Value; key != "metadata" {
							removeNulls(item.Content[n+1], "/"+escape.Replace(key), &operations)
						}
					}
				}
				if len(operations) == 0 {
					continue
				}
				if other, twice := all.ambiguousTarget(target); twice {
					return nil, fmt.Sprintf("a patch of %s also matches %s", target, other), nil
				}
				text, err := encodeCompact(operations)
				if err != nil {
					return nil, "", err
				}
				patches = append(patches, patch{target, text})
			}
		}
	}
	return patches, "", nil
}

// namespaceOf returns that of the source which a file is of, for resources that name none; "" where the
// source has none.
func namespaceOf(b *bundle.Bundle, file string) string {
	for _, s := range b.Spec.Sources {
		at := path.Join(bundle.ConfigDir, s.Path)
		if s.Helm != nil && (file == at || strings.HasPrefix(file, at+"/")) {
			return s.Helm.Namespace
		}
	}
	return ""
}

// defaultNamespace is that of resources that name none, as for apply.
const defaultNamespace = "default"

// scopesOf returns the kinds that the bundles of a runtime define.
func scopesOf(bundles []Bundle) render.Scopes {
	all := render.Scopes{}
	for _, b := range bundles {
		maps.Copy(all, render.ScopesOf(b.Files))
	}
	return all
}

// removeNulls collects what takes the keys of mappings out that have null.
func removeNulls(node *yaml.Node, pointer string, all *[]patchOperation) {
	switch node.Kind {
	case yaml.AliasNode:
		removeNulls(node.Alias, pointer, all)
	case yaml.ScalarNode:
		if node.Tag == "!!null" {
			*all = append(*all, patchOperation{Op: "remove", Path: pointer})
		}
	case yaml.SequenceNode:
		for i, item := range node.Content {
			if item.Tag != "!!null" { // an item that is null has its place
				removeNulls(item, pointer+"/"+strconv.Itoa(i), all)
			}
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(node.Content); i += 2 {
			if key := node.Content[i]; key.Tag != "!!merge" {
				removeNulls(node.Content[i+1], pointer+"/"+escape.Replace(key.Value), all)
			}
		}
	}
}

// diffTexts collects what makes a node of another that has the same shape and other texts. It
// gives the node that no JSON pointer (RFC 6901) leads to, where one differs.
func diffTexts(from, to *yaml.Node, pointer string, all *[]patchOperation) (lost *yaml.Node) {
	if from.Kind == yaml.AliasNode {
		return diffTexts(from.Alias, to.Alias, pointer, all)
	}
	switch from.Kind {
	case yaml.ScalarNode:
		if from.Value != to.Value {
			*all = append(*all, patchOperation{"replace", pointer, to.Value})
		}
	case yaml.SequenceNode:
		for i, item := range from.Content {
			if lost = diffTexts(item, to.Content[i], pointer+"/"+strconv.Itoa(i), all); lost != nil {
				return lost
			}
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(from.Content); i += 2 {
			key, known := from.Content[i], len(*all)
			if lost = diffTexts(from.Content[i+1], to.Content[i+1], pointer+"/"+escape.Replace(key.Value), all); lost != nil {
				return lost
			}
			if key.Tag == "!!merge" && len(*all) > known {
				return key
			}
		}
	}
	return nil
}

// escape writes a key as a part of a JSON pointer (RFC 6901 §3).
var escape = strings.NewReplacer("~", "~0", "/", "~1")

func targetOf(resource *yaml.Node) patchTarget {
	group, version, grouped := strings.Cut(manifest.GetText(resource, "apiVersion"), "/")
	if !grouped {
		group, version = "", group
	}
	metadata := manifest.GetValue(resource, "metadata")
	return patchTarget{
		Group: group, Version: version, Kind: manifest.GetText(resource, "kind"),
		Name: regexp.QuoteMeta(manifest.GetText(metadata, "name")), Namespace: regexp.QuoteMeta(manifest.GetText(metadata, "namespace")),
	}
}

// encodeCompact is JSON on one line, with <, > and & as they are.
func encodeCompact(value any) (string, error) {
	var out strings.Builder
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(value)
	return strings.TrimSpace(out.String()), err
}
