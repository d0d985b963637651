// Package assemble makes artifacts of definitions: it fetches sources, finds and locks images,
// puts bundles in order and packs it all into a store.
//
// Call [Build] with a definition's path.
package assemble

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/layers"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/pkgrepo"
	"krtpkg.dev/krtpkg/pkg/progress"
	"krtpkg.dev/krtpkg/pkg/render"
	"krtpkg.dev/krtpkg/pkg/source"
)

// Options are the parameters of a build.
type Options struct {
	// Store receives the artifacts, without tags.
	Store content.Storage
	// Images resolves the references of workload images.
	Images images.Resolver
	// Upstream resolves tags for Locked and [Update]: Images without the restriction to platforms.
	// Images when nil.
	Upstream images.Resolver
	// Origins finds images, to note which have foreign layers; nil notes none.
	Origins images.Origins
	// Locked refuses sources and images that differ from the lock file next to each definition.
	Locked bool
	// Open opens the store of a bundle that a runtime names by reference, and returns its descriptor.
	// relativeTo is the folder of the runtime's definition. Where it is nil such a bundle is an error.
	Open func(ctx context.Context, ref, relativeTo string) (content.Fetcher, ocispec.Descriptor, error)
	// Sources are the settings of fetching; its Dir is set here.
	Sources source.Fetcher
	// Created is the time in the artifacts; none when zero.
	Created time.Time
	// Progress receives events; nil drops them.
	Progress progress.Func
}

// Built is a finished artifact.
type Built struct {
	Descriptor ocispec.Descriptor
	*bundle.Content
	// Bundles are the bundles of a runtime in the order to apply them.
	Bundles []*Built
	// LeftOut are the bundles of a runtime that kapp-controller gets no package of.
	LeftOut []pkgrepo.LeftOut
}

// openByReference opens a bundle that a runtime names by reference.
func (o Options) openByReference(ctx context.Context, ref, dir string) (content.Fetcher, ocispec.Descriptor, error) {
	if !strings.HasPrefix(ref, "oci:") && !strings.Contains(ref, "@") {
		return nil, ocispec.Descriptor{}, &UnpinnedError{Source: ref, Wanted: "digest"}
	}
	if o.Open == nil {
		return nil, ocispec.Descriptor{}, fmt.Errorf("open %s: Options.Open is nil: want a function that opens bundles by reference", ref)
	}
	return o.Open(ctx, ref, dir)
}

// definitionFiles are looked for when a path is a folder.
var definitionFiles = []string{"runtime.yaml", "runtime.yml", "bundle.yaml", "bundle.yml"}

// Build builds the artifact of the definition at a path: a file, or a folder with bundle.yaml or
// runtime.yaml.
//
// It returns an error that names the field if Store or Images of the options is nil.
func Build(ctx context.Context, definition string, o Options) (*Built, error) {
	switch {
	case o.Store == nil:
		return nil, errors.New("build: Options.Store is nil: want a store for the artifacts, such as memory.New()")
	case o.Images == nil:
		return nil, errors.New("build: Options.Images is nil: want a resolver of images")
	}
	d, at, err := readDefinition(definition)
	if err != nil {
		return nil, err
	}
	if d.Bundle != nil {
		return o.buildBundle(ctx, d, at)
	}
	return o.buildRuntime(ctx, d, at)
}

// ReadMetadata returns what the definition at a path says of itself. It fetches nothing.
func ReadMetadata(definition string) (bundle.Metadata, error) {
	d, _, err := readDefinition(definition)
	if err != nil {
		return bundle.Metadata{}, err
	}
	return d.Metadata(), nil
}

// definitionPath is where a definition is.
type definitionPath struct{ file string }

// folder returns the folder of the definition, which its paths are relative to.
func (l definitionPath) folder() string { return filepath.Dir(l.file) }

// readDefinition parses the definition at a path.
func readDefinition(definition string) (*bundle.Definition, definitionPath, error) {
	file := definition
	if info, err := os.Stat(file); err == nil && info.IsDir() {
		i := slices.IndexFunc(definitionFiles, isDefinitionIn(definition))
		if i < 0 {
			return nil, definitionPath{}, fmt.Errorf("%s has no definition: want a file named runtime.yaml or bundle.yaml", definition)
		}
		file = filepath.Join(definition, definitionFiles[i])
	}
	data, err := readFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, definitionPath{}, fmt.Errorf("definition %s does not exist", file)
	}
	if err != nil {
		return nil, definitionPath{}, err
	}
	d, err := bundle.Parse(filepath.ToSlash(file), data)
	return d, definitionPath{file}, err
}

// hasDefinition reports whether a folder holds a definition.
func hasDefinition(folder string) bool {
	return slices.ContainsFunc(definitionFiles, isDefinitionIn(folder))
}

func isDefinitionIn(folder string) func(file string) bool {
	return func(file string) bool {
		info, err := os.Stat(filepath.Join(folder, file))
		return err == nil && info.Mode().IsRegular()
	}
}

// maxFile is how many bytes a definition, a lock or a manifest has.
const maxFile = 64 << 20

// readFile reads a file that may be a stranger's: it may have no end.
func readFile(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	// All of a file is read at once, if it is one that has a size.
	data := bytes.NewBuffer(make([]byte, 0, min(max(0, info.Size()), maxFile)+bytes.MinRead))
	_, err = data.ReadFrom(io.LimitReader(file, maxFile+1))
	if err == nil && data.Len() > maxFile {
		err = fmt.Errorf("%s: more than %d bytes: %w", name, maxFile, oci.ErrTooLarge)
	}
	return data.Bytes(), err
}

func (o Options) buildBundle(ctx context.Context, d *bundle.Definition, at definitionPath) (*Built, error) {
	o.Progress.Emit(progress.Event{Kind: progress.Started, Subject: d.Metadata().Name})
	pins, err := at.readPins()
	if err != nil {
		return nil, err
	}
	if o.Locked && pins == nil {
		return nil, &manifest.Error{File: at.file, Problem: "there is no " + at.lockFile() + " to hold it to", Hint: "krtpkg update writes it", Cause: ErrNotLocked}
	}
	a, err := o.assembleContent(ctx, d, at, sourcePinner{pins, o.Locked}.pinSource)
	if err != nil {
		return nil, err
	}
	wanted, err := a.wantedImages(ctx)
	if err != nil {
		return nil, err
	}
	for _, note := range a.notes {
		o.Progress.Emit(progress.Event{Kind: progress.Note, Subject: note})
	}
	o.noteHooks(a)
	if a.Images, err = images.ResolveLock(ctx, wanted, images.NoteForeign(o.newLockResolver(pins, at), o.Origins, o.Store, o.Progress)); err != nil {
		return nil, err
	}
	if err := o.addCargo(ctx, a, at, sourcePinner{pins, o.Locked}); err != nil {
		return nil, err
	}
	return o.packContent(ctx, a.Content, nil)
}

// noteHooks notes which Helm hooks are not applied with the rest.
func (o Options) noteHooks(a *assembly) {
	note := func(hooks []render.Hook, one, many string) {
		if len(hooks) == 0 {
			return
		}
		names := make([]string, len(hooks))
		for i, h := range hooks {
			names[i] = h.String()
		}
		text := fmt.Sprintf("%d hooks %s", len(hooks), many)
		if len(hooks) == 1 {
			text = "1 hook " + one
		}
		o.Progress.Emit(progress.Event{Kind: progress.Note, Subject: a.Metadata().Name + ":", Detail: text + ": " + strings.Join(names, "; ")})
	}
	at := func(events ...string) (some []render.Hook) {
		for _, h := range a.hooks {
			if h.RunsAt(events...) {
				some = append(some, h)
			}
		}
		return some
	}
	const asked = " only with --run-hooks"
	note(at("pre-delete", "post-delete"), "runs on delete"+asked, "run on delete"+asked)
	note(at("pre-rollback", "post-rollback"), "runs on rollback"+asked, "run on rollback"+asked)
	note(a.tests, "is a Helm test and is skipped", "are Helm tests and are skipped")
}

// placeError places an error at a field of the definition, unless it already has a place.
func placeError(d *bundle.Definition, field []any, err error) error {
	var placed *manifest.Error
	if errors.As(err, &placed) || errors.Is(err, context.Canceled) {
		return err
	}
	at := d.Errorf(field, "%s", strings.TrimSpace(err.Error()))
	at.Cause = err
	return at
}

func (o Options) packContent(ctx context.Context, c *bundle.Content, bundles []*Built) (*Built, error) {
	desc, err := c.Pack(ctx, o.Store, o.Created)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", c.Metadata().Name, c.Metadata().Version, err)
	}
	o.Progress.Emit(progress.Event{Kind: progress.Done, Subject: c.Metadata().Name, Detail: desc.Digest.String()})
	return &Built{Descriptor: desc, Content: c, Bundles: bundles}, nil
}

func (o Options) buildRuntime(ctx context.Context, d *bundle.Definition, at definitionPath) (*Built, error) {
	sources := d.Runtime.Spec.Bundles
	bundles := make([]*Built, len(sources))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, s := range sources {
		group.Go(func() (err error) {
			if s.Path != "" {
				bundles[i], err = o.buildNested(groupCtx, filepath.Join(at.folder(), filepath.FromSlash(s.Path)))
			} else {
				bundles[i], err = o.fetchBundle(groupCtx, s.Ref, at.folder())
				err = cmp.Or(err, o.fetchCargo(groupCtx, s.Ref, at.folder(), bundles[i]))
			}
			if err != nil {
				return placeError(d, []any{"spec", "bundles", i}, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if err := checkSharedCharts(d, bundles); err != nil {
		return nil, err
	}
	order, err := layers.OrderBundles(componentsOf(bundles), d.Runtime.Spec.Provided...)
	if err != nil {
		return nil, placeOrderError(d, err)
	}
	if err := checkConflicts(d, componentsOf(bundles)); err != nil {
		return nil, err
	}
	lock := &bundle.RuntimeLock{
		APIVersion: bundle.APIVersion, Kind: bundle.KindRuntimeLock,
		Metadata: d.Runtime.Metadata, Provided: d.Runtime.Spec.Provided, Exceptions: d.Runtime.Spec.Exceptions,
	}
	built := &bundle.Content{Runtime: lock}
	sorted := make([]*Built, len(order))
	packaged := make([]pkgrepo.Bundle, len(order))
	for i, at := range order {
		b := bundles[at]
		sorted[i] = b
		spec := b.Bundle.Spec
		lock.Bundles = append(lock.Bundles, bundle.LockedBundle{
			Name: b.Bundle.Metadata.Name, Version: b.Bundle.Metadata.Version,
			Layer: spec.Layer, Category: spec.Category, Digest: b.Descriptor.Digest.String(),
			Provides: spec.Provides, Requires: spec.Requires,
		})
		image, err := nestedImage(b, sources[at])
		if err != nil {
			return nil, err
		}
		built.Images = append(built.Images, images.Locked{Image: image, Reference: image.Name()})
		made, err := bundle.ReadManifest(ctx, o.Store, b.Descriptor)
		if err != nil {
			return nil, err
		}
		packaged[i] = pkgrepo.Bundle{Content: b.Content, Image: image, Manifest: made}
	}
	var left []pkgrepo.LeftOut
	if built.Files, left, err = pkgrepo.RuntimeFiles(ctx, lock, packaged, o.Created); err != nil {
		return nil, err
	}
	made, err := o.packContent(ctx, built, sorted)
	if err == nil {
		made.LeftOut = left
	}
	return made, err
}

// placeOrderError puts an error of [layers.OrderBundles] at the runtime's bundles.
func placeOrderError(d *bundle.Definition, err error) error {
	at := d.Errorf([]any{"spec", "bundles"}, "%v", err)
	at.Cause = err
	var missing *layers.MissingError
	if errors.As(err, &missing) {
		at.Hint = "add a bundle that provides it, or list it in spec.provided if it comes from outside"
	}
	return at
}

// checkConflicts puts the errors of [layers.Model.FindConflicts] where the definition has what they are about.
func checkConflicts(d *bundle.Definition, components []layers.Component) error {
	model, err := layers.LoadModel()
	if err != nil {
		return err
	}
	exceptions := bundle.ExceptedCapabilities(d.Runtime.Spec.Exceptions)
	problems := model.FindConflicts(components, exceptions...)
	for i, problem := range problems {
		field, hint := []any{"spec", "bundles"}, "remove one, or give a reason in spec.exceptions"
		var needless *layers.UnusedExceptionError
		if errors.As(problem, &needless) {
			field, hint = []any{"spec", "exceptions", slices.Index(exceptions, needless.Capability), "capability"}, ""
		}
		at := d.Errorf(field, "%v", problem)
		at.Cause, at.Hint = problem, hint
		problems[i] = at
	}
	return errors.Join(problems...)
}

// nestedRepository stands in the lock for the repository of a bundle that has been built
// along with its runtime and has none of its own. No host is ever called so (RFC 2606):
// the bundle is where the runtime is, by its digest.
const nestedRepository = bundle.Nowhere + "/bundles/"

func nestedImage(b *Built, s bundle.BundleSource) (name.Digest, error) {
	repository := nestedRepository + b.Bundle.Metadata.Name
	if s.Ref != "" && !strings.HasPrefix(s.Ref, "oci:") {
		return name.NewDigest(s.Ref)
	}
	return name.NewDigest(repository + "@" + b.Descriptor.Digest.String())
}

// buildNested builds a bundle of a runtime.
func (o Options) buildNested(ctx context.Context, definition string) (*Built, error) {
	d, at, err := readBundle(definition)
	if err != nil {
		return nil, err
	}
	return o.buildBundle(ctx, d, at)
}

// readBundle parses the definition of a bundle of a runtime.
func readBundle(definition string) (*bundle.Definition, definitionPath, error) {
	d, at, err := readDefinition(definition)
	if err == nil && d.Bundle == nil {
		err = d.Errorf([]any{"kind"}, "is a runtime: a runtime can only contain bundles")
	}
	return d, at, err
}

// fetchBundle brings a bundle that was built before into the store.
func (o Options) fetchBundle(ctx context.Context, ref, dir string) (*Built, error) {
	from, desc, err := o.openByReference(ctx, ref, dir)
	if err != nil {
		return nil, err
	}
	artifact, err := bundle.Open(ctx, from, desc)
	if err != nil {
		return nil, fmt.Errorf("bundle %s: %w", ref, err)
	}
	if artifact.Bundle == nil {
		return nil, fmt.Errorf("bundle %s: is a runtime: a runtime can only contain bundles", ref)
	}
	// What the runtime makes of it, controllers apply.
	if err := cmp.Or(artifact.CheckKustomization(), render.CheckImages(ctx, &artifact.Content)); err != nil {
		return nil, fmt.Errorf("bundle %s: %w", ref, err)
	}
	for _, part := range []ocispec.Descriptor{artifact.Manifest.Config, artifact.Manifest.Layers[0], desc} {
		if err := copyBlob(ctx, from, o.Store, part); err != nil {
			return nil, fmt.Errorf("bundle %s: %w", ref, err)
		}
	}
	return &Built{Descriptor: desc, Content: &artifact.Content}, nil
}

func copyBlob(ctx context.Context, from content.Fetcher, to content.Storage, desc ocispec.Descriptor) (err error) {
	exists, err := to.Exists(ctx, desc)
	if err != nil || exists {
		return err
	}
	blob, err := from.Fetch(ctx, desc)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, blob.Close()) }()
	return to.Push(ctx, desc, blob)
}

func componentsOf(bundles []*Built) []layers.Component {
	list := make([]layers.Component, len(bundles))
	for i, b := range bundles {
		list[i] = b.Bundle.Component()
	}
	return list
}
