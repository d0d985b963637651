// Package render makes plain manifests: of a source by its template engine, its patches and
// its overlays, and of an opened bundle and a site's values for the cluster, with images
// relocated and everything else byte for byte as its author wrote it. No engine reads the
// disk, the network or the environment, and none runs a program.
//
// At a build call [RenderStable] for a source; at a target call [ParseValues] on a site's file and
// [RenderBundle] for each bundle. Engines run in this process, within limits, or where [WithRunner] says.
package render

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/manifest"
)

// Input is a source's files with what its engine needs next to them.
type Input struct {
	// Source says what to do with the files. Of its fields that say where they come from, the
	// engines take Root, for a kustomization, and Chart, whose files have been packed.
	Source *bundle.Source
	// Name is the bundle's name, and so that of a release of its chart.
	Name string
	// Files are the source's files by paths from its top.
	Files []bundle.File
	// Values are YAML documents of values, later over earlier.
	Values [][]byte
	// Overlays are files of ytt overlays, by paths as ytt shall have them.
	Overlays []bundle.File
	// Absent are files that the source names and does not have, by their paths, with the reason.
	Absent map[string]string
	// Unset says that a site's values are still to come: they are not held against the rules of
	// ytt's schema, which may want what has no default.
	Unset bool
	// Note takes what the user should know of, as what the engines warn of, a line each; nil drops it.
	Note func(text string)
}

// RenderSource makes the plain manifests of a source. One without template, patches and overlays
// comes back as it is; helm, kustomize and patches make one file of it, manifests.yaml.
//
// The engines work where [WithRunner] says. Errors: [ErrRunaway], for templates without an end.
func RenderSource(ctx context.Context, in Input) ([]bundle.File, error) {
	if !in.needsEngine() {
		return in.renderPlain()
	}
	return in.runTask(ctx, TaskRender)
}

func (in Input) renderPlain() ([]bundle.File, error) {
	out, err := in.runTemplate()
	if err != nil {
		return nil, err
	}
	if out, err = in.dropRepeated(out); err != nil {
		return nil, err
	}
	return in.applyChanges(out)
}

// RenderStable is [RenderSource] for what is applied: a chart that renders differently each time is an
// [*UnstableError].
func RenderStable(ctx context.Context, in Input) ([]bundle.File, error) {
	if !in.needsEngine() {
		return in.renderStable()
	}
	return in.runTask(ctx, TaskStable)
}

func (in Input) renderStable() ([]bundle.File, error) {
	out, err := in.runTemplate()
	if err != nil {
		return nil, err
	}
	if in.Source.Template == bundle.TemplateHelm {
		again, err := renderHelm(in, fakeClockFuncs())
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(out[0].Data, again[0].Data) {
			return nil, in.unstableError(out[0].Data, again[0].Data)
		}
	}
	if out, err = in.dropRepeated(out); err != nil {
		return nil, err
	}
	return in.applyChanges(out)
}

// dropRepeated leaves the last one of keys that a chart's templates write twice, as Helm does, and
// notes each template that does so.
func (in Input) dropRepeated(out []bundle.File) ([]bundle.File, error) {
	if in.Source.Template != bundle.TemplateHelm {
		return out, nil
	}
	for i, f := range out {
		data, repeated, err := manifest.DropRepeated(f.Path, f.Data)
		if err != nil {
			return nil, err
		}
		noted := map[string]bool{}
		for _, r := range repeated {
			note := fmt.Sprintf("%s writes the key %s twice: the last one wins, as with Helm", templateAt(f.Data, r.Line), r.Key)
			if in.Note != nil && !noted[note] {
				in.Note(note)
			}
			noted[note] = true
		}
		out[i].Data = data
	}
	return out, nil
}

// runTemplate returns what the template engine makes of the files.
func (in Input) runTemplate() ([]bundle.File, error) {
	switch in.Source.Template {
	case bundle.TemplateHelm:
		return renderHelm(in, nil)
	case bundle.TemplateYTT:
		if len(in.Source.Patches) > 0 {
			in.Overlays = nil // these come after the patches
		}
		return renderYTT(in)
	}
	if len(in.givenValues()) > 0 && (in.Source.Template != "" || len(in.Overlays) == 0) {
		return nil, errors.New("accepts no values: only templates of helm and ytt, and overlays of plain manifests, do")
	}
	if in.Source.Template == bundle.TemplateKustomize {
		return renderKustomize(in)
	}
	return plainManifests(in.Files), nil
}

// plainManifests are manifests that no engine makes, as YAML reads them: some JSON is none.
func plainManifests(files []bundle.File) []bundle.File {
	files = slices.Clone(files)
	for i, f := range files {
		if path.Ext(f.Path) == ".json" {
			files[i].Data = manifest.PlainJSON(f.Data)
		}
	}
	return files
}

// applyChanges applies the patches and the overlays to plain manifests.
func (in Input) applyChanges(out []bundle.File) ([]bundle.File, error) {
	s, err := in.Source, error(nil)
	if len(s.Patches) > 0 {
		if out, err = applyPatches(out, s.Patches); err != nil {
			return nil, err
		}
	}
	switch {
	case len(in.Overlays) == 0, s.Template == bundle.TemplateYTT && len(s.Patches) == 0:
		return out, nil
	case s.Template == "":
		return applyOverlays(out, in.Overlays, in.givenValues(), in.Unset)
	}
	return applyOverlays(out, in.Overlays, nil, in.Unset)
}

// givenValues returns the documents of values that hold any.
func (in Input) givenValues() [][]byte {
	return slices.DeleteFunc(slices.Clone(in.Values), func(v []byte) bool { return len(v) == 0 })
}
