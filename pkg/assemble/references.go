package assemble

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/render"
	"krtpkg.dev/krtpkg/pkg/resources"
)

// findImages lists what the target will render names, with the defaults of the templates' values.
// Each document must be a Kubernetes resource.
func (a *assembly) findImages(ctx context.Context) ([]images.Found, error) {
	rendered, err := render.RenderDefaults(ctx, a.Content)
	if err != nil {
		return nil, placeError(a.definition, []any{"spec", "sources"}, err)
	}
	finder := a.Bundle.Spec.Finder()
	var files []*manifest.File
	a.applied, a.later = nil, nil
	a.hooks, a.tests = rendered.Hooks, append(a.tests, rendered.Tests...)
	a.notes = append(a.notes, rendered.Notes...)
	own, parsedAs := map[string][]byte{}, map[string]*manifest.File{}
	for _, f := range a.Files {
		own[f.Path] = f.Data
	}
	var all []images.Found
	var left []string
	every := slices.Concat(rendered.Files, rendered.Later)
	read, err := a.readAll(ctx, every, finder)
	if err != nil {
		return nil, err
	}
	for i, f := range every {
		parsed := read[i].parsed
		if parsed == nil {
			left = append(left, strings.TrimPrefix(f.Path, bundle.ConfigDir+"/"))
			continue
		}
		files, all = append(files, parsed), append(all, read[i].found...)
		if data, is := own[f.Path]; is && bytes.Equal(data, f.Data) {
			parsedAs[f.Path] = parsed
		}
		checked := resources.File{File: parsed, Data: f.Data, Unset: a.isUnnamed(f.Path)}
		if i < len(rendered.Files) {
			a.applied = append(a.applied, checked)
		} else {
			a.later = append(a.later, checked)
		}
		a.texts[parsed.Name] = f.Data
	}
	a.UseParsed(parsedAs)
	if len(left) > 0 {
		a.notes = append(a.notes, "rendered, and not applied for their names: "+strings.Join(left, ", "))
	}
	if operands := images.UnlockedOperands(files, all); len(operands) > 0 && len(a.Bundle.Spec.Images) == 0 {
		a.notes = append(a.notes, noteOperands(operands))
	}
	return all, render.CheckKappRules(files, all)
}

// readManifest is a rendered file as it was read: parsed is nil if its name is not that of a manifest.
type readManifest struct {
	parsed *manifest.File
	found  []images.Found
	err    error
}

// readAll reads rendered files. The error is that of the first file that has one, whichever is read first.
func (a *assembly) readAll(ctx context.Context, files []bundle.File, finder *images.Finder) ([]readManifest, error) {
	read := make([]readManifest, len(files))
	manifest.ReadConcurrently(len(files), func(i int) {
		if read[i].err = ctx.Err(); read[i].err == nil && bundle.IsManifestName(files[i].Path) {
			read[i] = a.readFile(files[i], finder)
		}
	})
	for _, r := range read {
		if r.err != nil {
			return nil, r.err
		}
	}
	return read, nil
}

// readFile parses a rendered file, checks each document and finds the images.
func (a *assembly) readFile(f bundle.File, finder *images.Finder) (read readManifest) {
	name := cmp.Or(a.names[f.Path], a.names[configPath(f.Path)], a.renderedName(f.Path))
	if read.parsed, read.err = manifest.Parse(name, f.Data); read.err != nil {
		return read
	}
	if a.plainFiles[f.Path] {
		if read.err = checkPlain(read.parsed); read.err != nil {
			return read
		}
	}
	for _, doc := range read.parsed.Documents {
		if read.err = checkManifest(read.parsed, doc); read.err != nil {
			return read
		}
	}
	read.found, read.err = finder.Find(read.parsed)
	return read
}

// configPath returns where a hook would be if it were applied with the rest.
func configPath(file string) string {
	return path.Join(bundle.ConfigDir, strings.TrimPrefix(file, bundle.HooksDir+"/"))
}

// isUnnamed reports whether a file is made by a template alone.
func (a *assembly) isUnnamed(file string) bool {
	return a.names[file] == "" && a.names[configPath(file)] == ""
}

// checkReading refuses what kapp would refuse at the site, or read as something else. Hooks that are
// run alone are files of their own.
func (a *assembly) checkReading() error {
	if err := resources.CheckFiles(a.applied); err != nil {
		return err
	}
	for _, hooks := range a.later {
		if err := resources.CheckFiles([]resources.File{hooks}); err != nil {
			return err
		}
	}
	return nil
}

// noteOperands says of which kinds nothing is locked that a controller could start.
func noteOperands(operands []images.ControllerOperand) string {
	var kinds []string
	for _, o := range operands {
		kinds = append(kinds, fmt.Sprintf("%s (%s)", o.Kind, strings.Join(o.Fields, ", ")))
	}
	first := operands[0]
	return fmt.Sprintf("%s:%d: resources of these kinds name images, and nothing here says which their controller starts where they do not: %s; if it starts any, add them to images",
		first.File, first.Line, strings.Join(kinds, ", "))
}

// ErrSuspects is the error of manifests with strings that look like images but are not known to be.
var ErrSuspects = errors.New("looks like an image, but no rule decides whether it is one")

// wantedImages lists the images to lock: those of the manifests and those that the definition adds.
// What looks like an image and is neither locked nor allowed is an error.
func (a *assembly) wantedImages(ctx context.Context) ([]images.WantedImage, error) {
	found, err := a.findImages(ctx)
	if err != nil {
		return nil, err
	}
	if err := a.checkReading(); err != nil {
		return nil, err
	}
	finder := a.Bundle.Spec.Finder()
	var wanted []images.WantedImage
	for i, extra := range a.Bundle.Spec.Images {
		at := a.definition.Errorf([]any{"spec", "images", i, "image"}, "spec.images")
		wanted = append(wanted, images.WantedImage{Image: extra.Image, Where: at.Error()})
	}
	var suspects []error
	for _, f := range found {
		switch {
		case f.State == images.Image:
			if err := f.CheckEditable(); err != nil {
				return nil, err
			}
			if _, allowed := finder.AllowedReason(&f); allowed {
				a.notes = append(a.notes, f.Errorf("%s %q is an image and is locked: notImages is for values that only look like one", f.Path, f.Image).Error())
			}
			where := fmt.Sprintf("%s:%d:%d: %s: %s (%s)", f.File, f.Line, f.Column, f.Resource, f.Path, f.How)
			wanted = append(wanted, images.WantedImage{Image: f.Image, Where: where})
		case f.State == images.Suspect:
			suspects = append(suspects, suspectError(f))
		}
	}
	return wanted, errors.Join(suspects...)
}

// suspectError explains why something that could be an image is refused.
func suspectError(f images.Found) error {
	problem := f.Errorf("%s %q %v", f.Path, f.Image, ErrSuspects)
	if _, err := images.ParseReference(f.Image); err != nil {
		problem = f.Errorf("%s %v", f.Path, err)
	}
	field, entry := f.SuggestEntry()
	problem.Cause, problem.Hint = ErrSuspects, fmt.Sprintf("%s: [%s]", field, entry)
	return problem
}

// checkManifest reports whether a document can go onto a cluster: it is a resource, and none
// that only a tool on this side of it understands.
func checkManifest(f *manifest.File, doc *yaml.Node) error {
	if err := f.CheckResource(doc); err != nil {
		return err
	}
	group, _, _ := strings.Cut(manifest.GetValue(doc, "apiVersion").Value, "/")
	var problem *manifest.Error
	switch group {
	case "krtpkg.dev":
		// A source that is the definition's own folder takes the definition in.
		problem = f.Errorf(doc, "a definition is not a manifest for a cluster")
	case "kustomize.config.k8s.io":
		problem = f.Errorf(doc, "a kustomization is not a manifest for a cluster")
	default:
		return nil
	}
	problem.Hint = "leave it out with exclude"
	return problem
}

// renderedName returns what a file that the target renders is called: the template that it is made of, or, as of a
// chart, the folder of templates.
func (a *assembly) renderedName(file string) string {
	if written := a.templates[file]; written != "" {
		return written + " (rendered)"
	}
	for _, template := range slices.Sorted(maps.Keys(a.templates)) {
		if folder, is := strings.CutSuffix(template, "/"+chartFile); is && path.Dir(file) == folder {
			return path.Join(path.Dir(a.templates[template]), path.Base(file)) + " (rendered)"
		}
	}
	return file + " (rendered)"
}

// checkPlain reports whether a file that will not be rendered is a ytt template: each value that
// ytt should fill in would be empty, images too.
func checkPlain(f *manifest.File) error {
	for _, doc := range f.Documents {
		if at := findYttComment(doc); at != nil {
			problem := f.Errorf(at, "a ytt template that is not rendered")
			problem.Hint = "set template: ytt in its source"
			return problem
		}
	}
	return nil
}

// findYttComment returns the first node with a comment that is one of ytt's, or nil.
func findYttComment(node *yaml.Node) *yaml.Node {
	for _, comment := range []string{node.HeadComment, node.LineComment, node.FootComment} {
		if strings.HasPrefix(comment, "#@") || strings.Contains(comment, "\n#@") {
			return node
		}
	}
	for _, child := range node.Content {
		if at := findYttComment(child); at != nil {
			return at
		}
	}
	return nil
}
