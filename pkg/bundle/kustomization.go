package bundle

import (
	"bytes"
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

// localConfig is the annotation of what kustomize reads and does not put out.
const localConfig = "config.kubernetes.io/local-config"

// kappGroup is the API group of what configures kapp and is in no cluster.
const kappGroup = "kapp.k14s.io/"

// PlainFiles returns the files of a bundle that hold its resources, sorted by path, where these are there
// for anyone to take as they are. Otherwise it gives the reason: something must be rendered at
// the target, or kustomize would stop at it.
func (c *Content) PlainFiles() (files []string, reason string) {
	plain, reason := c.readPlainFiles(nil)
	return pathsOf(plain), reason
}

// ParsePlainFiles is [Content.PlainFiles] with what is in the files. Those in parsed, by their paths, were parsed from the
// same bytes and are not parsed again.
func (c *Content) ParsePlainFiles(parsed map[string]*manifest.File) (files []*manifest.File, reason string) {
	plain, reason := c.readPlainFiles(parsed)
	for _, f := range plain {
		files = append(files, f.File)
	}
	return files, reason
}

func (c *Content) readPlainFiles(parsed map[string]*manifest.File) (files []plainFile, reason string) {
	files, reason = c.findPlainFiles(parsed)
	if reason == "" && c.opened && c.base == nil {
		return nil, "was built by an older krtpkg and lacks  " + fileKustomization
	}
	return files, reason
}

// plainFile is a file of resources.
type plainFile struct {
	*manifest.File
	path string
}

func pathsOf(files []plainFile) (paths []string) {
	for _, f := range files {
		paths = append(paths, f.path)
	}
	return paths
}

func (c *Content) findPlainFiles(known map[string]*manifest.File) (files []plainFile, reason string) {
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
		parsed := known[f.Path]
		if parsed == nil {
			var err error
			if parsed, err = manifest.Parse(f.Path, f.Data); err != nil {
				return nil, err.Error()
			}
		}
		resources, rules := 0, 0
		for _, doc := range parsed.Documents {
			if strings.HasPrefix(manifest.GetText(doc, "apiVersion"), kappGroup) {
				rules++
				continue
			}
			resources++
			for _, r := range manifest.ListItems(doc) {
				if notes := manifest.GetValue(manifest.GetValue(r, "metadata"), "annotations"); manifest.GetValue(notes, localConfig) != nil {
					return nil, fmt.Sprintf("%s in %s has the annotation %s, and kustomize would leave it out", resourceIdentity(r), f.Path, localConfig)
				}
				id := resourceIdentity(r)
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
			files = append(files, plainFile{parsed, f.Path})
		}
	}
	if len(files) == 0 {
		return nil, "has no resources"
	}
	slices.SortFunc(files, func(a, b plainFile) int { return strings.Compare(a.path, b.path) })
	return files, ""
}

// makeKustomization returns that of a bundle of plain resources; nil for any other content.
func (c *Content) makeKustomization() ([]byte, error) {
	if c.Bundle == nil {
		return nil, nil
	}
	files, _ := c.findPlainFiles(c.parsed)
	if len(files) == 0 {
		return nil, nil
	}
	return manifest.EncodeYAML(base{baseVersion, baseKind, pathsOf(files)})
}

// base is all that the kustomization of a bundle says.
type base struct {
	APIVersion string   `yaml:"apiVersion"`
	Kind       string   `yaml:"kind"`
	Resources  []string `yaml:"resources"`
}

const (
	baseVersion = "kustomize.config.k8s.io/v1beta1"
	baseKind    = "Kustomization"
)

// checkBase refuses a kustomization that names anything but manifests of the bundle: controllers apply
// what it names, and krtpkg what is in config/.
func (c *Content) checkBase() error {
	if c.base == nil {
		return nil
	}
	var k base
	if err := decodeFile(File{fileKustomization, c.base}, &k); err != nil {
		return err
	}
	if k.APIVersion != baseVersion || k.Kind != baseKind {
		return fmt.Errorf("%s: is %s %s, want %s %s", fileKustomization, k.APIVersion, k.Kind, baseVersion, baseKind)
	}
	there := map[string]bool{}
	for _, f := range c.Files {
		there[f.Path] = strings.HasPrefix(f.Path, ConfigDir+"/") && IsManifestName(f.Path)
	}
	for _, name := range k.Resources {
		if !there[name] {
			return fmt.Errorf("%s: %q is not a manifest in %s/", fileKustomization, name, ConfigDir)
		}
	}
	return nil
}

// AlteredError names a file of an artifact that a build makes of the rest, and that says something else.
type AlteredError struct {
	// Artifact is the name of the bundle or runtime.
	Artifact, File string
}

func (e *AlteredError) Error() string {
	return fmt.Sprintf("%s: %s does not match the rest of the bundle", e.Artifact, e.File)
}

// CheckKustomization refuses an opened bundle whose kustomization is not the one that a build makes of
// its manifests. The error is an [*AlteredError].
func (c *Content) CheckKustomization() error {
	if c.base == nil {
		return nil
	}
	want, err := c.makeKustomization()
	if err != nil {
		return err
	}
	if !bytes.Equal(c.base, want) {
		return &AlteredError{c.Metadata().Name, fileKustomization}
	}
	return nil
}

// resourceIdentity returns what kustomize knows a resource by, in words.
func resourceIdentity(resource *yaml.Node) string {
	group, _, _ := strings.Cut(manifest.GetText(resource, "apiVersion"), "/")
	metadata := manifest.GetValue(resource, "metadata")
	words := []string{manifest.GetText(resource, "kind"), manifest.GetText(metadata, "name")}
	if strings.Contains(manifest.GetText(resource, "apiVersion"), "/") {
		words[0] += "." + group
	}
	if namespace := manifest.GetText(metadata, "namespace"); namespace != "" {
		words = append(words, "in "+namespace)
	}
	return strings.Join(words, " ")
}
