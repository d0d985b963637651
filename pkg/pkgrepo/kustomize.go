package pkgrepo

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/manifest"
)

// siteRepository stands for the repository in which a site has a runtime, until that is known.
const siteRepository = "krtpkg.invalid/site"

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
	Version   string `yaml:"version"`
	Kind      string `yaml:"kind"`
	Name      string `yaml:"name,omitempty"`
	Namespace string `yaml:"namespace,omitempty"`
}

// operation is one of a JSON patch.
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

// imagePatches are what puts the locked images of a bundle, as a site has them, into its plain
// resources: exactly where [render.Bundle] does. The reason says why they can't be.
func imagePatches(b *bundle.Content) (patches []patch, reason string, err error) {
	plain, reason := b.Plain()
	if reason != "" {
		return nil, reason, nil
	}
	finder := b.Bundle.Spec.Finder()
	locate := func(image name.Digest) string { return siteRepository + "@" + image.DigestStr() }
	for _, f := range b.Files {
		if !slices.Contains(plain, f.Path) {
			continue
		}
		before, err := manifest.Parse(f.Path, f.Data)
		if err != nil {
			return nil, "", err
		}
		edited, err := manifest.Parse(f.Path, f.Data)
		if err != nil {
			return nil, "", err
		}
		data, err := b.Images.Relocate(edited, finder, locate)
		if err != nil {
			return nil, "", err
		}
		if bytes.Equal(data, f.Data) {
			continue
		}
		after, err := manifest.Parse(f.Path, data)
		if err != nil {
			return nil, "", err
		}
		for i, doc := range before.Documents {
			items, changed := manifest.Items(doc), manifest.Items(after.Documents[i])
			for k, item := range items {
				var operations []operation
				if at := difference(item, changed[k], "", &operations); at != nil {
					return nil, fmt.Sprintf("%s:%d: an image in what is merged from elsewhere can't be patched", f.Path, at.Line), nil
				}
				if len(operations) == 0 {
					continue
				}
				text, err := compact(operations)
				if err != nil {
					return nil, "", err
				}
				patches = append(patches, patch{targetOf(item), text})
			}
		}
	}
	return patches, "", nil
}

// difference collects what makes a node of another that has the same shape and other texts. It
// gives the node that no JSON pointer (RFC 6901) leads to, where one differs.
func difference(from, to *yaml.Node, pointer string, all *[]operation) (lost *yaml.Node) {
	if from.Kind == yaml.AliasNode {
		return difference(from.Alias, to.Alias, pointer, all)
	}
	switch from.Kind {
	case yaml.ScalarNode:
		if from.Value != to.Value {
			*all = append(*all, operation{"replace", pointer, to.Value})
		}
	case yaml.SequenceNode:
		for i, item := range from.Content {
			if lost = difference(item, to.Content[i], pointer+"/"+strconv.Itoa(i), all); lost != nil {
				return lost
			}
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(from.Content); i += 2 {
			key, known := from.Content[i], len(*all)
			if lost = difference(from.Content[i+1], to.Content[i+1], pointer+"/"+escape.Replace(key.Value), all); lost != nil {
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
	value := func(in *yaml.Node, key string) string {
		if n := manifest.Get(in, key); n != nil {
			return n.Value
		}
		return ""
	}
	group, version, grouped := strings.Cut(value(resource, "apiVersion"), "/")
	if !grouped {
		group, version = "", group
	}
	metadata := manifest.Get(resource, "metadata")
	return patchTarget{group, version, value(resource, "kind"), regexp.QuoteMeta(value(metadata, "name")), regexp.QuoteMeta(value(metadata, "namespace"))}
}

// compact is JSON on one line, with <, > and & as they are.
func compact(value any) (string, error) {
	var out strings.Builder
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(value)
	return strings.TrimSpace(out.String()), err
}
