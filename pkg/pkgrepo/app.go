package pkgrepo

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/lazyregexp"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/render"
)

// appSpec is what kapp-controller does to a package: fetch, template, deploy.
type appSpec struct {
	Fetch    []fetchSpec    `yaml:"fetch"`
	Template []templateStep `yaml:"template"`
	Deploy   []deploySpec   `yaml:"deploy"`
}

type fetchSpec struct {
	ImgpkgBundle *imgpkgBundle `yaml:"imgpkgBundle,omitempty"`
	Inline       *inlinePaths  `yaml:"inline,omitempty"`
	// Path is the folder for what is fetched.
	Path string `yaml:"path,omitempty"`
}

type imgpkgBundle struct {
	Image string `yaml:"image"`
}

type inlinePaths struct {
	Paths map[string]string `yaml:"paths"`
}

type templateStep struct {
	Ytt  *yttStep  `yaml:"ytt,omitempty"`
	Helm *helmStep `yaml:"helmTemplate,omitempty"`
	Kbld *kbldStep `yaml:"kbld,omitempty"`
}

type yttStep struct {
	Paths      []string     `yaml:"paths"`
	FileMarks  []string     `yaml:"fileMarks,omitempty"`
	ValuesFrom []valuesPath `yaml:"valuesFrom,omitempty"`
}

type helmStep struct {
	Name              string            `yaml:"name"`
	Namespace         string            `yaml:"namespace"`
	Path              string            `yaml:"path"`
	ValuesFrom        []valuesPath      `yaml:"valuesFrom,omitempty"`
	KubernetesVersion kubernetesVersion `yaml:"kubernetesVersion"`
	KubernetesAPIs    *kubernetesAPIs   `yaml:"kubernetesAPIs,omitempty"`
}

type valuesPath struct {
	Path string `yaml:"path"`
}

type kubernetesVersion struct {
	Version string `yaml:"version"`
}

type kubernetesAPIs struct {
	GroupVersions []string `yaml:"groupVersions"`
}

type kbldStep struct {
	Paths []string `yaml:"paths"`
}

type deploySpec struct {
	Kapp kappSpec `yaml:"kapp"`
}

type kappSpec struct {
	RawOptions []string `yaml:"rawOptions,omitempty"`
}

// Where a bundle with values of its own is fetched to, next to those. kapp-controller takes no
// values for its engines but files and Secrets.
const (
	ownFolder  = "values"
	ownValues  = "values.yaml"
	mainFolder = "bundle"
)

// appOf returns how kapp-controller comes to the manifests of a bundle, or why it cannot.
func appOf(b *Bundle) (appSpec, string) {
	app := appSpec{Deploy: []deploySpec{{}}}
	source, reason := findRendered(b.Content)
	if reason != "" {
		return app, reason
	}
	root := ""
	app.Fetch = []fetchSpec{{ImgpkgBundle: &imgpkgBundle{b.Image.Name()}}}
	var values []valuesPath
	if source != nil && !source.Values.IsZero() {
		data, err := source.Values.Bytes()
		if err != nil {
			return app, err.Error()
		}
		root = mainFolder
		app.Fetch[0].Path = mainFolder
		app.Fetch = append(app.Fetch, fetchSpec{Inline: &inlinePaths{map[string]string{ownValues: string(data)}}, Path: ownFolder})
		values = []valuesPath{{path.Join(ownFolder, ownValues)}}
	}
	kbld := &kbldStep{}
	if source != nil {
		engine, reason := engineOf(b.Content, source, root)
		if reason != "" {
			return app, reason
		}
		if engine.Ytt != nil {
			engine.Ytt.ValuesFrom = values
		} else {
			engine.Helm.ValuesFrom = values
		}
		app.Template = append(app.Template, engine)
		kbld.Paths = append(kbld.Paths, "-")
	}
	for _, s := range b.Bundle.Spec.Sources {
		if !s.AtTarget() {
			kbld.Paths = append(kbld.Paths, path.Join(root, bundle.ConfigDir, s.Path))
		}
	}
	kbld.Paths = append(kbld.Paths, path.Join(root, ".imgpkg/images.yml"))
	app.Template = append(app.Template, templateStep{Kbld: kbld})
	return app, ""
}

// findRendered returns the one source of a bundle that the target renders; nil if it renders none.
func findRendered(b *bundle.Content) (*bundle.Source, string) {
	var source *bundle.Source
	for i := range b.Bundle.Spec.Sources {
		s := &b.Bundle.Spec.Sources[i]
		switch {
		case !s.AtTarget():
		case source != nil:
			return nil, "the target renders several of its sources, and each with the values; kapp-controller gives values to the first"
		default:
			source = s
		}
	}
	return source, ""
}

// lifecycle matches what marks hooks in charts, and what is to stay on a cluster.
var lifecycle = lazyregexp.New(`helm\.sh/(hook|resource-policy)["']?\s*:`)

// engineOf returns the step that renders a source.
func engineOf(b *bundle.Content, s *bundle.Source, root string) (templateStep, string) {
	at := path.Join(bundle.ConfigDir, s.Path)
	overlays := path.Join(bundle.OverlaysDir, s.Path)
	if s.Template != bundle.TemplateHelm {
		ytt := &yttStep{Paths: []string{path.Join(root, at)}}
		if len(s.Overlays) > 0 {
			ytt.Paths = append(ytt.Paths, path.Join(root, overlays))
		}
		if s.Template == "" {
			// Whatever their comments look like, nothing in plain manifests is a template.
			for _, f := range b.Files {
				if name, below := strings.CutPrefix(f.Path, at+"/"); below {
					ytt.FileMarks = append(ytt.FileMarks, name+":type=yaml-plain")
				} else if f.Path == at {
					ytt.FileMarks = append(ytt.FileMarks, path.Base(at)+":type=yaml-plain")
				}
			}
			slices.Sort(ytt.FileMarks) // a bundle that is opened has its files by path
		}
		return templateStep{Ytt: ytt}, ""
	}
	options := cmp.Or(s.Helm, &bundle.Helm{})
	switch {
	case len(s.Overlays) > 0:
		return templateStep{}, "overlays over a chart that the target renders: kapp-controller passes values to the first engine only"
	case options.CreateNamespace:
		return templateStep{}, "a chart that the target renders has helm.createNamespace, which kapp-controller does not support"
	}
	for _, f := range b.Files {
		if match := lifecycle.Get().FindSubmatch(f.Data); match != nil && strings.HasPrefix(f.Path, at+"/") && strings.Contains(f.Path, "/templates/") {
			what := "hooks or tests, which kapp-controller would install like resources"
			if string(match[1]) == "resource-policy" {
				what = "resources to keep, which kapp-controller would delete"
			}
			return templateStep{}, fmt.Sprintf("a chart that the target renders has %s: %s", what, strings.TrimPrefix(f.Path, at+"/"))
		}
	}
	helm := &helmStep{
		Name: cmp.Or(options.Release, b.Metadata().Name), Namespace: cmp.Or(options.Namespace, "default"), Path: path.Join(root, at),
		KubernetesVersion: kubernetesVersion{strings.TrimPrefix(cmp.Or(options.Kubernetes, render.DefaultKubernetes), "v")},
	}
	if len(options.APIVersions) > 0 {
		helm.KubernetesAPIs = &kubernetesAPIs{options.APIVersions}
	}
	return templateStep{Helm: helm}, ""
}

// renderedBundle is what a bundle renders to with the defaults of its values. Each file is parsed, and searched for images,
// once, when that is first needed.
type renderedBundle struct {
	*render.Manifests
	content *bundle.Content
	parsed  []*manifest.File
	found   map[*manifest.File][]images.Found
}

func renderDefaults(ctx context.Context, b *bundle.Content) (*renderedBundle, error) {
	m, err := render.RenderDefaults(ctx, b)
	if err != nil {
		return nil, err
	}
	return &renderedBundle{m, b, make([]*manifest.File, len(m.Files)), map[*manifest.File][]images.Found{}}, nil
}

// parseFile returns a file of the bundle by its index.
func (r *renderedBundle) parseFile(i int) (parsed *manifest.File, err error) {
	if r.parsed[i] == nil {
		r.parsed[i], err = manifest.Parse(r.Files[i].Path, r.Files[i].Data)
	}
	return r.parsed[i], err
}

// findImages returns what is found in a parsed file, of which r may know it already. r may be nil.
func (r *renderedBundle) findImages(parsed *manifest.File, finder *images.Finder) (found []images.Found, err error) {
	if r == nil {
		return finder.Find(parsed)
	}
	found, known := r.found[parsed]
	if !known {
		if found, err = finder.Find(parsed); err == nil {
			r.found[parsed] = found
		}
	}
	return found, err
}

// plainFiles returns the files that were parsed as they are in the bundle, by their paths. r may be nil.
func (r *renderedBundle) plainFiles() map[string]*manifest.File {
	if r == nil {
		return nil
	}
	own := map[string][]byte{}
	for _, f := range r.content.Files {
		own[f.Path] = f.Data
	}
	plain := map[string]*manifest.File{}
	for i, f := range r.Files {
		if data, is := own[f.Path]; is && r.parsed[i] != nil && bytes.Equal(data, f.Data) {
			plain[f.Path] = r.parsed[i]
		}
	}
	return plain
}

// checkRewritable looks whether kbld, which replaces the values of keys called image, replaces what
// krtpkg does: all images, and nothing else, since it would look for that in a registry; and whether
// its hooks run as they are to.
func (r *renderedBundle) checkRewritable() (string, error) {
	locked := map[string]bool{}
	for _, l := range r.content.Images {
		locked[l.Reference] = true
	}
	finder := r.content.Bundle.Spec.Finder()
	for i, f := range r.Files {
		parsed, err := r.parseFile(i)
		if err != nil {
			return "", err
		}
		found, err := r.findImages(parsed, finder)
		if err != nil {
			return "", err
		}
		for _, image := range found {
			inString := strings.Contains(image.Path, " | ")
			if image.State == images.Image && (inString || !strings.HasSuffix("."+image.Path, ".image") || !locked[image.Image]) {
				return fmt.Sprintf("kbld does not find image %q at %s of %s", image.Image, image.Path, image.Resource), nil
			}
		}
		for _, doc := range parsed.Documents {
			if at := imageKeyBut(doc, locked); at != nil {
				return fmt.Sprintf("%s:%d: kbld would take %q for an image", f.Path, at.Line, at.Value), nil
			}
		}
	}
	return packageHooks(r.parsed), nil
}

// imageKey returns the value of some key called image that is a string.
func imageKey(n *yaml.Node) *yaml.Node { return imageKeyBut(n, nil) }

func imageKeyBut(n *yaml.Node, known map[string]bool) *yaml.Node {
	for i, child := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 1 && n.Content[i-1].Value == "image" &&
			child.Kind == yaml.ScalarNode && child.Tag == "!!str" && !known[child.Value] {
			return child
		}
		if at := imageKeyBut(child, known); at != nil {
			return at
		}
	}
	return nil
}
