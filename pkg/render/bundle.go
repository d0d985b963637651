package render

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/tracing"
)

// Manifests are what a bundle comes to at a target.
type Manifests struct {
	// Files are what is applied, sorted by path.
	Files []bundle.File
	// Later are the hooks of Helm that run when the bundle is deleted, or goes back to this version.
	Later []bundle.File
	// Hooks are those in Later, in the order in which they run, and Tests those that are left out.
	Hooks, Tests []Hook
	// Notes are what the user should know of.
	Notes []string
	// Namespaces maps a path in Files to the namespace for resources that name none and whose scope only the
	// cluster knows.
	Namespaces map[string]string
}

// RenderBundle renders a bundle. locate gives the reference under which the target finds a locked
// image. An image in the rendered manifests that the bundle's lock does not name is an
// error, even where a site's value brought it in, and so are rules for kapp that would change one.
// A chart that the values do not settle is an [*UnstableError].
func RenderBundle(ctx context.Context, b *bundle.Content, values *Values, locate func(name.Digest) string) ([]bundle.File, error) {
	m, err := RenderAll(ctx, b, values, locate)
	if err != nil {
		return nil, err
	}
	return m.Files, nil
}

// RenderAll is [RenderBundle] with what the target does not apply with the rest.
func RenderAll(ctx context.Context, b *bundle.Content, values *Values, locate func(name.Digest) string) (_ *Manifests, err error) {
	ctx, end := tracing.Start(ctx, "render bundle", tracing.Bundle(b.Bundle.Metadata.Name))
	defer func() { end(err) }()
	if err := values.checkKeys(b.Bundle); err != nil {
		return nil, err
	}
	own, err := values.valuesOf(b.Bundle.Metadata.Name)
	if err != nil {
		return nil, err
	}
	m, err := renderTemplates(ctx, b, own, false)
	if err != nil {
		return nil, err
	}
	return relocateImages(b, m, locate)
}

// relocateImages puts the locked images into rendered files.
func relocateImages(b *bundle.Content, m *Manifests, locate func(name.Digest) string) (*Manifests, error) {
	// kapp reads no others; whoever pipes what is rendered would.
	m.Files = slices.DeleteFunc(m.Files, func(f bundle.File) bool { return !bundle.IsManifestName(f.Path) })
	finder := b.Bundle.Spec.Finder()
	var files []*manifest.File
	var all []images.Found
	for _, rendered := range [][]bundle.File{m.Files, m.Later} {
		for i, f := range rendered {
			parsed, err := manifest.Parse(f.Path, f.Data)
			if err != nil {
				return nil, err
			}
			found, err := finder.Find(parsed)
			if err != nil {
				return nil, err
			}
			files, all = append(files, parsed), append(all, found...)
			if rendered[i].Data, err = b.Images.RelocateFound(parsed, found, locate); err != nil {
				return nil, err
			}
		}
	}
	return m, CheckKappRules(files, all)
}

// CheckImages refuses a bundle whose manifests, with the defaults of their values, name an image for a
// node to run that its lock does not have: such a bundle was not made by a build.
func CheckImages(ctx context.Context, b *bundle.Content) error {
	m, err := RenderDefaults(ctx, b)
	if err != nil {
		return err
	}
	_, err = relocateImages(b, m, name.Digest.Name)
	return err
}

// RenderTemplates renders what the target renders of a bundle, with values as a YAML file (nil for
// their defaults), and leaves images as they are. Files come out sorted by path.
func RenderTemplates(ctx context.Context, b *bundle.Content, values []byte) ([]bundle.File, error) {
	m, err := renderTemplates(ctx, b, values, false)
	if err != nil {
		return nil, err
	}
	return m.Files, nil
}

// RenderDefaults is [RenderTemplates] for a build, which has no values of a site: values that the schema wants a site
// to set keep their defaults, and a chart that renders differently each time is accepted, since a site's values may fix
// that.
func RenderDefaults(ctx context.Context, b *bundle.Content) (*Manifests, error) {
	return renderTemplates(ctx, b, nil, true)
}

// FinishBuilt turns the files that the build rendered into files of a bundle: resources are in the
// namespace of their source, and hooks of Helm are told to kapp, or lie apart in [bundle.HooksDir].
// What the target renders is left to it. It returns the tests of Helm that it has left out.
func FinishBuilt(b *bundle.Content) (tests []Hook, err error) {
	own := slices.Clone(b.Files)
	_, built, err := splitTargets(b)
	if err != nil {
		return nil, err
	}
	m, err := finishRendered(&b.Bundle.Spec, built, b.Files)
	if err != nil {
		return nil, err
	}
	isBuilt := map[string]bool{}
	for _, f := range built {
		isBuilt[f.Path] = true
	}
	own = slices.DeleteFunc(own, func(f bundle.File) bool { return isBuilt[f.Path] })
	b.Files = slices.Concat(own, m.Files, m.Later)
	return m.Tests, nil
}

// finishRendered places the resources of rendered files and separates the hooks from them, source by source.
// all are the files among which kinds are defined.
func finishRendered(spec *bundle.BundleSpec, rendered, all []bundle.File) (*Manifests, error) {
	m := &Manifests{Namespaces: map[string]string{}}
	var scopes Scopes
	rest := rendered
	for _, s := range append(slices.Clone(spec.Sources), bundle.Source{}) {
		own, release := rest, "."
		if s.Path != "" {
			release = s.Path
			rest, own = splitAt(rest, path.Join(bundle.ConfigDir, s.Path))
		}
		if s.Helm != nil && s.Helm.Namespace != "" {
			if scopes == nil {
				scopes = ScopesOf(all)
			}
			own = slices.Clone(own)
			for i, f := range own {
				placed, unknown, err := placeFile(f, s.Helm.Namespace, scopes)
				if err != nil {
					return nil, err
				}
				if own[i] = placed; unknown {
					m.Namespaces[f.Path] = s.Helm.Namespace
				}
			}
		}
		l, err := separateHooks(release, own)
		if err != nil {
			return nil, err
		}
		m.Files, m.Tests = append(m.Files, l.applied...), append(m.Tests, l.tests...)
		for _, f := range l.later {
			f.Path = path.Join(bundle.HooksDir, strings.TrimPrefix(f.Path, bundle.ConfigDir+"/"))
			m.Later = append(m.Later, f)
		}
	}
	return m, nil
}

func renderTemplates(ctx context.Context, b *bundle.Content, values []byte, unset bool) (*Manifests, error) {
	inputs, rendered, err := splitTargets(b)
	if err != nil {
		return nil, err
	}
	takes := false
	var notes []string
	for _, in := range inputs {
		in.Note = func(text string) { notes = append(notes, in.at+": "+text) }
		if in.Source.Template != "" || len(in.Overlays) > 0 {
			takes = true
			in.Values = append(in.Values, values)
		}
		in.Unset = unset
		render := RenderStable
		if unset {
			render = RenderSource
		}
		out, err := render(ctx, in.Input)
		if err != nil {
			return nil, fmt.Errorf("render %s: %w", in.at, err)
		}
		for _, f := range out {
			rendered = append(rendered, bundle.File{Path: path.Join(in.dir, f.Path), Data: f.Data})
		}
	}
	if len(values) > 0 && !takes {
		return nil, errors.New("accepts no values: " + ExplainNoValues(b.Bundle))
	}
	m, err := finishRendered(&b.Bundle.Spec, rendered, slices.Concat(rendered, b.Files))
	if err != nil {
		return nil, err
	}
	m.Notes = notes
	_, kept := splitAt(b.Files, bundle.HooksDir)
	m.Later = append(m.Later, kept...)
	for _, files := range [][]bundle.File{m.Files, m.Later} {
		slices.SortFunc(files, func(a, b bundle.File) int { return cmp.Compare(a.Path, b.Path) })
	}
	m.Hooks, _, err = ParseHooks(m.Later)
	return m, err
}

// templateTarget is what the target renders of one source: what is at a place of the bundle, and the
// folder that it is rendered into.
type templateTarget struct {
	Input
	at, dir string
}

// splitTargets takes a bundle's files apart into what the target renders, source by source, and the
// rest.
func splitTargets(b *bundle.Content) (inputs []templateTarget, rest []bundle.File, err error) {
	rest, overlays := splitAt(b.Files, bundle.OverlaysDir)
	rest, _ = splitAt(rest, bundle.HooksDir)
	for i := range b.Bundle.Spec.Sources {
		source := &b.Bundle.Spec.Sources[i]
		if !source.AtTarget() {
			continue
		}
		in := templateTarget{at: path.Join(bundle.ConfigDir, source.Path)}
		in.Source, in.Name, in.dir = source, b.Bundle.Metadata.Name, in.at
		rest, in.Files = splitAt(rest, in.at)
		if len(in.Files) == 1 && in.Files[0].Path == in.at {
			in.dir = path.Dir(in.at)
		}
		_, in.Overlays = splitAt(overlays, path.Join(bundle.OverlaysDir, source.Path))
		in.Files = pathsBelow(in.Files, in.at)
		in.Overlays = pathsBelow(in.Overlays, path.Join(bundle.OverlaysDir, source.Path))
		own, err := source.Values.Bytes()
		if err != nil {
			return nil, nil, err
		}
		if own != nil {
			in.Values = append(in.Values, own)
		}
		inputs = append(inputs, in)
	}
	return inputs, rest, nil
}

// ValuesSchemas describes the values that a bundle takes, as an OpenAPI v3 schema in YAML: that of
// its one template, or all of them, of which each must hold. It is nil where nothing does.
func ValuesSchemas(ctx context.Context, b *bundle.Content) (*yaml.Node, error) {
	return describeSources(b, func(in Input) (*yaml.Node, error) { return in.readSchema(ctx) })
}

// DescribeValues is [ValuesSchemas] for people: it has what counts where a site sets nothing, a chart's own values
// and those of the definition, as defaults, and a property for each of them.
func DescribeValues(ctx context.Context, b *bundle.Content) (*yaml.Node, error) {
	return describeSources(b, func(in Input) (*yaml.Node, error) {
		schema, err := in.readSchema(ctx)
		if err != nil {
			return nil, err
		}
		defaults, err := in.readDefaults()
		if err != nil || schema == nil && in.Source.Template != bundle.TemplateHelm {
			return schema, err
		}
		if schema == nil {
			schema = newMapping()
		}
		addDefaults(schema, defaults)
		return schema, nil
	})
}

// readSchema returns [ValuesSchema] as a node; nil without a schema.
func (in Input) readSchema(ctx context.Context) (*yaml.Node, error) {
	data, err := ValuesSchema(ctx, in)
	if err != nil {
		return nil, err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil || doc.Kind != yaml.DocumentNode {
		return nil, err
	}
	return doc.Content[0], nil
}

// describeSources puts together what describes each source that the target renders.
func describeSources(b *bundle.Content, describe func(Input) (*yaml.Node, error)) (*yaml.Node, error) {
	inputs, _, err := splitTargets(b)
	if err != nil {
		return nil, err
	}
	var all []*yaml.Node
	for _, in := range inputs {
		schema, err := describe(in.Input)
		if err != nil {
			return nil, fmt.Errorf("schema of %s: %w", in.at, err)
		}
		if schema != nil {
			all = append(all, schema)
		}
	}
	switch len(all) {
	case 0:
		return nil, nil
	case 1:
		return all[0], nil
	}
	each := newMapping()
	each.Content = []*yaml.Node{{Kind: yaml.ScalarNode, Value: "allOf"}, {Kind: yaml.SequenceNode, Content: all}}
	return each, nil
}

// ExplainNoValues returns why a bundle takes no values from a site.
func ExplainNoValues(b *bundle.Bundle) string {
	if slices.ContainsFunc(b.Spec.Sources, func(s bundle.Source) bool {
		return s.Template == bundle.TemplateHelm || s.Template == bundle.TemplateYTT
	}) {
		return "its templates are rendered at the build; render: target in the definition leaves that to the site"
	}
	return "none of its sources is a template"
}

// splitAt takes the files at and below a path out of others.
func splitAt(files []bundle.File, at string) (others, own []bundle.File) {
	for _, f := range files {
		if f.Path == at || strings.HasPrefix(f.Path, at+"/") {
			own = append(own, f)
		} else {
			others = append(others, f)
		}
	}
	return others, own
}

// pathsBelow are files by their paths below another; the file at that path itself by its name.
func pathsBelow(files []bundle.File, at string) []bundle.File {
	var relative []bundle.File
	for _, f := range files {
		p := path.Base(f.Path)
		if f.Path != at {
			p = strings.TrimPrefix(f.Path, at+"/")
		}
		relative = append(relative, bundle.File{Path: p, Data: f.Data})
	}
	return relative
}
