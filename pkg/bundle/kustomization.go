package bundle

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/manifest"
)

// fileKustomization at the top makes a bundle a base for kustomize, and so for Flux, Argo CD and
// kubectl apply -k.
const fileKustomization = "kustomization.yaml"

// kappGroup is the API group of what configures kapp and is in no cluster.
const kappGroup = "kapp.k14s.io/"

// Plain returns the files of a bundle that hold its resources, sorted by path, where these are there
// for anyone to take as they are. Otherwise it gives the reason: something has to be rendered at
// the target, or kustomize would stop at it.
func (c *Content) Plain() (files []string, reason string) {
	files, reason = c.plain()
	if reason == "" && c.noBase {
		return nil, "it was built by an older krtpkg and has no " + fileKustomization
	}
	return files, reason
}

func (c *Content) plain() (files []string, reason string) {
	for i := range c.Bundle.Spec.Sources {
		if s := &c.Bundle.Spec.Sources[i]; s.AtTarget() {
			return nil, fmt.Sprintf("its source %s is a template, which the target renders with its values", s.Path)
		}
	}
	seen := map[string]string{}
	for _, f := range c.Files {
		if !strings.HasPrefix(f.Path, ConfigDir+"/") || !slices.Contains([]string{".yaml", ".yml", ".json"}, path.Ext(f.Path)) {
			continue
		}
		parsed, err := manifest.Parse(f.Path, f.Data)
		if err != nil {
			return nil, err.Error()
		}
		resources, rules := 0, 0
		for _, doc := range parsed.Documents {
			if strings.HasPrefix(manifest.Text(doc, "apiVersion"), kappGroup) {
				rules++
				continue
			}
			resources++
			for _, r := range manifest.Items(doc) {
				id := identity(r)
				if first, twice := seen[id]; twice {
					return nil, fmt.Sprintf("%s is both in %s and in %s", id, first, f.Path)
				}
				seen[id] = f.Path
			}
		}
		switch {
		case resources > 0 && rules > 0:
			return nil, f.Path + " has rules for kapp next to resources"
		case resources > 0:
			files = append(files, f.Path)
		}
	}
	if len(files) == 0 {
		return nil, "it holds no resources"
	}
	slices.Sort(files)
	return files, ""
}

// kustomization returns that of a bundle of plain resources; nil for any other content.
func (c *Content) kustomization() ([]byte, error) {
	if c.Bundle == nil {
		return nil, nil
	}
	files, _ := c.plain()
	if len(files) == 0 {
		return nil, nil
	}
	return marshal(struct {
		APIVersion string   `yaml:"apiVersion"`
		Kind       string   `yaml:"kind"`
		Resources  []string `yaml:"resources"`
	}{"kustomize.config.k8s.io/v1beta1", "Kustomization", files})
}

// identity returns what kustomize knows a resource by, in words.
func identity(resource *yaml.Node) string {
	group, _, _ := strings.Cut(manifest.Text(resource, "apiVersion"), "/")
	metadata := manifest.Get(resource, "metadata")
	words := []string{manifest.Text(resource, "kind"), manifest.Text(metadata, "name")}
	if strings.Contains(manifest.Text(resource, "apiVersion"), "/") {
		words[0] += "." + group
	}
	if namespace := manifest.Text(metadata, "namespace"); namespace != "" {
		words = append(words, "in "+namespace)
	}
	return strings.Join(words, " ")
}
