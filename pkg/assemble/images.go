package assemble

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sync/errgroup"
	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/progress"
	"krtpkg.dev/krtpkg/pkg/render"
)

// ImageUse is something that [ListImages] found, and what it resolves to.
type ImageUse struct {
	images.Found
	// Bundle is the bundle that it is in; "" outside of one.
	Bundle string
	// Digest is its current digest; "" if it was not resolved or has none.
	Digest string
	// Err is the reason for a missing digest.
	Err error
	// Context holds the rendered lines around it, the first of which is ContextLine.
	Context     []string
	ContextLine int
}

// contextLines is how many lines are around each.
const contextLines = 2

// contextBytes is how much of a line is shown: a file of megabytes may be one.
const contextBytes = 200

// contexts are the lines of files, by name, as far as they were asked for.
type contexts map[string]*shownFile

// shownFile is a file of which lines are shown.
type shownFile struct {
	text   []byte
	starts []int          // where each line begins
	lines  map[int]string // those that are shown, by their index
}

// addContextLines gives a use the lines around it. Where lines begin in a file is found once, and of long lines their
// beginning is kept, in copies: a report of many uses does not hold as many files.
func (c contexts) addContextLines(u *ImageUse, text []byte) {
	if u.Line <= 0 {
		return
	}
	file, known := c[u.File]
	if !known {
		file = &shownFile{text: text, lines: map[int]string{}}
		at := 0
		for line := range bytes.Lines(text) {
			file.starts = append(file.starts, at)
			at += len(line)
		}
		c[u.File] = file
	}
	u.ContextLine = max(1, u.Line-contextLines)
	if len(file.starts) == 0 {
		return
	}
	u.Context = []string{}
	for i := u.ContextLine - 1; i < min(u.Line+contextLines, len(file.starts)); i++ {
		u.Context = append(u.Context, file.shownLine(i))
	}
}

// shownLine returns a line as it is shown.
func (f *shownFile) shownLine(i int) string {
	shown, known := f.lines[i]
	if !known {
		line := f.text[f.starts[i]:]
		if i+1 < len(f.starts) {
			line = line[:f.starts[i+1]-f.starts[i]]
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) > contextBytes {
			line = append(bytes.ToValidUTF8(line[:contextBytes:contextBytes], nil), "…"...)
		}
		shown = string(line)
		f.lines[i] = shown
	}
	return shown
}

// RenderManifests returns the manifests of a bundle's definition as the target renders them with
// default values, without building: with images as written, known or not.
func RenderManifests(ctx context.Context, at string, o Options) ([]bundle.File, error) {
	d, where, err := readDefinition(at)
	if err != nil {
		return nil, err
	}
	if d.Bundle == nil {
		return nil, d.Errorf([]any{"kind"}, "is a runtime: want the definition of one of its bundles")
	}
	locked, err := where.readPins()
	if err != nil {
		return nil, err
	}
	a, err := o.assembleContent(ctx, d, where, sourcePinner{lockedPins: locked}.pinSource)
	if err != nil {
		return nil, err
	}
	rendered, err := render.RenderDefaults(ctx, a.Content)
	if err != nil {
		return nil, placeError(d, []any{"spec", "sources"}, err)
	}
	return slices.Concat(rendered.Files, rendered.Later), nil
}

// ListImages lists images, and strings that look like images, in a definition's manifests, or in the
// YAML and JSON files at a path. With resolve it resolves their digests; an image that cannot be
// resolved is not an error here.
func ListImages(ctx context.Context, at string, resolve bool, o Options) ([]ImageUse, error) {
	if resolve && o.upstreamResolver() == nil {
		return nil, errors.New("list images: Options.Images is nil: want a resolver of images")
	}
	uses, err := o.listUses(ctx, at)
	if err != nil || !resolve {
		return uses, err
	}
	return uses, o.resolveAll(ctx, uses)
}

func (o Options) listUses(ctx context.Context, at string) ([]ImageUse, error) {
	isDefinition, err := holdsDefinition(at)
	if err != nil {
		return nil, err
	}
	if !isDefinition {
		return o.inFiles(ctx, at)
	}
	d, where, err := readDefinition(at)
	if err != nil {
		return nil, err
	}
	if d.Bundle != nil {
		return o.inBundle(ctx, d, where)
	}
	var uses []ImageUse
	for i, b := range d.Runtime.Spec.Bundles {
		var inner []ImageUse
		if b.Path != "" {
			inner, err = o.listUses(ctx, filepath.Join(where.folder(), filepath.FromSlash(b.Path)))
		} else {
			inner, err = o.inLock(ctx, b.Ref, where.folder())
		}
		if err != nil {
			return nil, placeError(d, []any{"spec", "bundles", i}, err)
		}
		uses = append(uses, inner...)
	}
	return uses, nil
}

// inBundle lists the images of a bundle's manifests and those that its definition adds.
func (o Options) inBundle(ctx context.Context, d *bundle.Definition, at definitionPath) ([]ImageUse, error) {
	locked, err := at.readPins()
	if err != nil {
		return nil, err
	}
	a, err := o.assembleContent(ctx, d, at, sourcePinner{lockedPins: locked}.pinSource)
	if err != nil {
		return nil, err
	}
	found, err := a.findImages(ctx)
	if err != nil {
		return nil, err
	}
	for _, note := range a.notes {
		o.Progress.Emit(progress.Event{Kind: progress.Note, Subject: note})
	}
	var uses []ImageUse
	shown := contexts{}
	for _, f := range found {
		use := ImageUse{Found: f, Bundle: d.Metadata().Name}
		shown.addContextLines(&use, a.texts[f.File])
		uses = append(uses, use)
	}
	for i, extra := range d.Bundle.Spec.Images {
		where := d.Errorf([]any{"spec", "images", i, "image"}, "")
		uses = append(uses, ImageUse{Bundle: d.Metadata().Name, Found: images.Found{
			Image: extra.Image, State: images.Image, How: "definition", Reason: extra.Reason,
			File: where.File, Line: where.Line, Column: where.Column, Path: "spec.images",
		}})
	}
	return uses, nil
}

// inLock lists the images of a bundle that was built before.
func (o Options) inLock(ctx context.Context, ref, dir string) ([]ImageUse, error) {
	from, desc, err := o.openByReference(ctx, ref, dir)
	if err != nil {
		return nil, err
	}
	artifact, err := bundle.Open(ctx, from, desc)
	if err != nil {
		return nil, err
	}
	var uses []ImageUse
	for _, locked := range artifact.Images {
		uses = append(uses, ImageUse{
			Bundle: artifact.Metadata().Name, Digest: locked.Image.DigestStr(),
			Found: images.Found{Image: locked.Reference, State: images.Image, How: "lock", File: ref},
		})
	}
	return uses, nil
}

// holdsDefinition reports whether a path is a definition, or a folder with one.
func holdsDefinition(at string) (bool, error) {
	info, err := os.Stat(at)
	if err != nil {
		return false, err
	}
	if info.IsDir() {
		return slices.ContainsFunc(definitionFiles, func(f string) bool {
			info, err := os.Stat(filepath.Join(at, f))
			return err == nil && info.Mode().IsRegular()
		}), nil
	}
	data, err := readFile(at)
	if err != nil {
		return false, err
	}
	var head struct {
		APIVersion string `yaml:"apiVersion"`
	}
	// What is not YAML is no definition; whoever reads it as a manifest says what is wrong.
	return yaml.Unmarshal(data, &head) == nil && head.APIVersion == bundle.APIVersion, nil
}

// inFiles lists the images of manifests. In a folder, what is not YAML is passed over, and noted:
// templates lie next to manifests.
func (o Options) inFiles(ctx context.Context, at string) ([]ImageUse, error) {
	var files []string
	walkError := filepath.WalkDir(at, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		// Neither a pipe nor a device of a stranger's folder is waited for.
		if info, err := os.Stat(file); file != at && (err != nil || !info.Mode().IsRegular()) {
			return nil
		}
		if file != at && !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(file)) {
			return nil
		}
		files = append(files, file)
		return nil
	})
	listed := make([]listedFile, len(files))
	manifest.ReadConcurrently(len(files), func(i int) {
		if listed[i].err = ctx.Err(); listed[i].err == nil {
			listed[i] = listFile(files[i])
		}
	})
	var uses []ImageUse
	for i, l := range listed {
		switch {
		case l.err == nil:
			uses = append(uses, l.uses...)
		case l.isUnparsable && files[i] != at:
			o.Progress.Emit(progress.Event{Kind: progress.Note, Subject: l.err.Error(), Detail: "(not listed)"})
		default:
			return nil, l.err
		}
	}
	return uses, walkError
}

// listedFile is what a file of manifests names, or why that is unknown: isUnparsable is set if it is not YAML.
type listedFile struct {
	uses         []ImageUse
	isUnparsable bool
	err          error
}

// listFile lists the images of a file of manifests.
func listFile(file string) listedFile {
	data, err := readFile(file)
	if err != nil {
		return listedFile{err: err}
	}
	parsed, err := manifest.Parse(filepath.ToSlash(file), data)
	if err != nil {
		return listedFile{isUnparsable: true, err: err}
	}
	found, err := new(images.Finder).Find(parsed)
	uses, shown := make([]ImageUse, len(found)), contexts{}
	for i, f := range found {
		uses[i] = ImageUse{Found: f}
		shown.addContextLines(&uses[i], data)
	}
	return listedFile{uses: uses, err: err}
}

// resolveAll asks for the digest of each distinct image.
func (o Options) resolveAll(ctx context.Context, uses []ImageUse) error {
	type answer struct {
		digest string
		err    error
	}
	answers := map[string]*answer{}
	for _, u := range uses {
		if u.State != images.Ignored && answers[u.Image] == nil {
			answers[u.Image] = &answer{}
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for image, a := range answers {
		group.Go(func() error {
			a.digest, a.err = o.resolveDigest(ctx, image)
			if errors.Is(a.err, context.Canceled) {
				return a.err
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for i := range uses {
		if a := answers[uses[i].Image]; a != nil {
			uses[i].Digest, uses[i].Err = a.digest, a.err
		}
	}
	return nil
}

func (o Options) resolveDigest(ctx context.Context, image string) (string, error) {
	ref, err := images.ParseReference(image)
	if err != nil {
		return "", err
	}
	desc, err := o.Images.Resolve(ctx, ref)
	return desc.Digest.String(), err
}
