package render

import (
	"cmp"
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
)

// Bundle renders a bundle. locate gives the reference under which the target finds a locked
// image. An image in the rendered manifests that the bundle's lock does not name is an
// error, even where a site's value brought it in, and so are rules for kapp that would change one.
func Bundle(b *bundle.Content, values *Values, locate func(name.Digest) string) ([]bundle.File, error) {
	own, err := values.of(b.Bundle.Metadata.Name)
	if err != nil {
		return nil, err
	}
	rendered, err := Templates(b, own)
	if err != nil {
		return nil, err
	}
	return relocate(b, rendered, locate)
}

// relocate puts the locked images into rendered files.
func relocate(b *bundle.Content, rendered []bundle.File, locate func(name.Digest) string) ([]bundle.File, error) {
	finder := b.Bundle.Spec.Finder()
	files := make([]*manifest.File, len(rendered))
	var all []images.Found
	for i, f := range rendered {
		parsed, err := manifest.Parse(f.Path, f.Data)
		if err != nil {
			return nil, err
		}
		found, err := finder.Find(parsed)
		if err != nil {
			return nil, err
		}
		files[i], all = parsed, append(all, found...)
		if rendered[i].Data, err = b.Images.RelocateFound(parsed, found, locate); err != nil {
			return nil, err
		}
	}
	return rendered, CheckKappRules(files, all)
}

// CheckImages refuses a bundle whose manifests, with the defaults of their values, name an image for a
// node to run that its lock does not have: such a bundle was not made by a build.
func CheckImages(b *bundle.Content) error {
	files, err := Defaults(b)
	if err != nil {
		return err
	}
	_, err = relocate(b, files, name.Digest.Name)
	return err
}

// Templates renders what the target renders of a bundle, with values as a YAML file (nil for
// their defaults), and leaves images as they are. Files come out sorted by path.
func Templates(b *bundle.Content, values []byte) ([]bundle.File, error) {
	return templates(b, values, false)
}

// Defaults is [Templates] for a build: values that a site has to set, because a rule of the
// schema refuses their defaults, have those.
func Defaults(b *bundle.Content) ([]bundle.File, error) { return templates(b, nil, true) }

func templates(b *bundle.Content, values []byte, unset bool) ([]bundle.File, error) {
	inputs, rendered, err := targets(b)
	if err != nil {
		return nil, err
	}
	takes := false
	for _, in := range inputs {
		if in.Source.Template != "" || len(in.Overlays) > 0 {
			takes = true
			in.Values = append(in.Values, values)
		}
		in.Unset = unset
		out, err := Render(in.Input)
		if err != nil {
			return nil, fmt.Errorf("render %s: %w", in.at, err)
		}
		for _, f := range out {
			rendered = append(rendered, bundle.File{Path: path.Join(in.dir, f.Path), Data: f.Data})
		}
	}
	if len(values) > 0 && !takes {
		return nil, errors.New("it takes no values: none of its sources is a template")
	}
	slices.SortFunc(rendered, func(a, b bundle.File) int { return cmp.Compare(a.Path, b.Path) })
	return rendered, nil
}

// target is what the target renders of one source: what is at a place of the bundle, and the
// folder that it is rendered into.
type target struct {
	Input
	at, dir string
}

// targets takes a bundle's files apart into what the target renders, source by source, and the
// rest.
func targets(b *bundle.Content) (inputs []target, rest []bundle.File, err error) {
	rest, overlays := apart(b.Files, bundle.OverlaysDir)
	for i := range b.Bundle.Spec.Sources {
		source := &b.Bundle.Spec.Sources[i]
		if !source.AtTarget() {
			continue
		}
		in := target{at: path.Join(bundle.ConfigDir, source.Path)}
		in.Source, in.Name, in.dir = source, b.Bundle.Metadata.Name, in.at
		rest, in.Files = apart(rest, in.at)
		if len(in.Files) == 1 && in.Files[0].Path == in.at {
			in.dir = path.Dir(in.at)
		}
		_, in.Overlays = apart(overlays, path.Join(bundle.OverlaysDir, source.Path))
		in.Files = below(in.Files, in.at)
		in.Overlays = below(in.Overlays, path.Join(bundle.OverlaysDir, source.Path))
		if len(source.Values) > 0 {
			own, err := yaml.Marshal(source.Values)
			if err != nil {
				return nil, nil, err
			}
			in.Values = append(in.Values, own)
		}
		inputs = append(inputs, in)
	}
	return inputs, rest, nil
}

// Schemas describes the values that a bundle takes, as an OpenAPI v3 schema in YAML: that of
// its one template, or all of them, of which each has to hold. It is nil where nothing does.
func Schemas(b *bundle.Content) (*yaml.Node, error) {
	inputs, _, err := targets(b)
	if err != nil {
		return nil, err
	}
	var all []*yaml.Node
	for _, in := range inputs {
		data, err := Schema(in.Input)
		if err != nil {
			return nil, fmt.Errorf("schema of %s: %w", in.at, err)
		}
		var doc yaml.Node
		if err := yaml.Unmarshal(data, &doc); err != nil {
			return nil, err
		}
		if doc.Kind == yaml.DocumentNode {
			all = append(all, doc.Content[0])
		}
	}
	switch len(all) {
	case 0:
		return nil, nil
	case 1:
		return all[0], nil
	}
	each := mapping()
	each.Content = []*yaml.Node{{Kind: yaml.ScalarNode, Value: "allOf"}, {Kind: yaml.SequenceNode, Content: all}}
	return each, nil
}

// apart takes the files at and below a path out of others.
func apart(files []bundle.File, at string) (others, own []bundle.File) {
	for _, f := range files {
		if f.Path == at || strings.HasPrefix(f.Path, at+"/") {
			own = append(own, f)
		} else {
			others = append(others, f)
		}
	}
	return others, own
}

// below are files by their paths below another; the file at that path itself by its name.
func below(files []bundle.File, at string) []bundle.File {
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
