// Package build makes artifacts of definitions: it fetches sources, finds and locks images,
// puts bundles in order and packs it all into a store.
//
// Call [Build] with a definition's path.
package build

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"gopkg.in/yaml.v3"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/layers"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/progress"
	"krtpkg.dev/krtpkg/pkg/render"
	"krtpkg.dev/krtpkg/pkg/source"
)

// Options are the parameters of a build.
type Options struct {
	// Store takes the artifacts. Nothing in it is tagged.
	Store content.Storage
	// Images resolves the references of workload images.
	Images images.Resolver
	// Open gives the place of a bundle that a runtime names by reference, and its
	// descriptor. relativeTo is the folder of the runtime's definition.
	Open func(ctx context.Context, ref, relativeTo string) (content.Fetcher, ocispec.Descriptor, error)
	// Sources are the settings of fetching; its Dir is set here.
	Sources source.Fetcher
	// Created goes into the artifacts as their time; none when zero.
	Created time.Time
	// Progress takes events; nil drops them.
	Progress progress.Func
}

// Built is a finished artifact.
type Built struct {
	Descriptor ocispec.Descriptor
	*bundle.Content
	// Bundles are the bundles of a runtime in the order to apply them.
	Bundles []*Built
}

// definitionFiles are looked for when a path is a folder.
var definitionFiles = []string{"runtime.yaml", "runtime.yml", "bundle.yaml", "bundle.yml"}

// Build makes the artifact of the definition at a path: a file, or a folder that holds
// bundle.yaml or runtime.yaml.
func Build(ctx context.Context, definition string, o Options) (*Built, error) {
	d, dir, err := read(definition)
	if err != nil {
		return nil, err
	}
	if d.Bundle != nil {
		return o.bundle(ctx, d, dir)
	}
	return o.runtime(ctx, d, dir)
}

// read parses the definition at a path and gives the folder that it is in.
func read(definition string) (*bundle.Definition, string, error) {
	file := definition
	if info, err := os.Stat(file); err == nil && info.IsDir() {
		i := slices.IndexFunc(definitionFiles, func(f string) bool {
			_, err := os.Stat(filepath.Join(definition, f))
			return err == nil
		})
		if i < 0 {
			return nil, "", fmt.Errorf("%s holds no definition: want a file named runtime.yaml or bundle.yaml", definition)
		}
		file = filepath.Join(definition, definitionFiles[i])
	}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", fmt.Errorf("definition %s is not there", file)
	}
	if err != nil {
		return nil, "", err
	}
	d, err := bundle.Parse(filepath.ToSlash(file), data)
	return d, filepath.Dir(file), err
}

func (o Options) bundle(ctx context.Context, d *bundle.Definition, dir string) (*Built, error) {
	o.Progress.Emit(progress.Event{Kind: progress.Started, Subject: d.Metadata().Name})
	built := &bundle.Content{Bundle: d.Bundle}
	fetcher := o.Sources
	fetcher.Dir = dir
	names := map[string]string{}
	for i := range d.Bundle.Spec.Sources {
		at := []any{"spec", "sources", i}
		if err := addSource(ctx, &fetcher, built, &d.Bundle.Spec.Sources[i], names); err != nil {
			return nil, place(d, at, err)
		}
	}
	wanted, err := references(built, d, names)
	if err != nil {
		return nil, err
	}
	if built.Images, err = images.Resolve(ctx, wanted, o.Images); err != nil {
		return nil, err
	}
	return o.pack(ctx, built, nil)
}

// place puts an error at a field of the definition, unless it has a place of its own.
func place(d *bundle.Definition, field []any, err error) error {
	var placed *manifest.Error
	if errors.As(err, &placed) || errors.Is(err, context.Canceled) {
		return err
	}
	at := d.Errorf(field, "%s", strings.TrimSpace(err.Error()))
	at.Cause = err
	return at
}

// addSource fetches a source into the content and pins it. names gets what its author calls
// each file that the target will not render first, for errors.
func addSource(ctx context.Context, fetcher *source.Fetcher, built *bundle.Content, s *bundle.Source, names map[string]string) error {
	var tree *source.Tree
	var err error
	switch {
	case s.Dir != "":
		tree, err = fetcher.Folder(s.Dir, s.Include, s.Exclude)
	case s.File != "":
		tree, err = fetcher.File(s.File)
	default:
		tree, err = fetcher.URL(ctx, s.URL, s.SHA256)
	}
	if err != nil {
		return err
	}
	if s.SHA256 != "" && s.SHA256 != tree.SHA256 {
		return &source.DigestError{Source: s.Dir + s.File, Got: tree.SHA256, Want: s.SHA256}
	}
	s.SHA256 = tree.SHA256
	for _, f := range tree.Files {
		target := path.Join(bundle.ConfigDir, s.Path, f.Path)
		built.Files = append(built.Files, bundle.File{Path: target, Data: f.Data})
		if s.Template == "" {
			names[target] = cmp.Or(s.URL, path.Join(filepath.ToSlash(fetcher.Dir), s.Dir+s.File, f.Path))
		}
	}
	return nil
}

// references lists the images of what the target will render, with the defaults of the
// templates' values, and those that the definition adds. Each document has to be a
// Kubernetes resource.
func references(built *bundle.Content, d *bundle.Definition, names map[string]string) ([]images.Want, error) {
	rendered, err := render.Templates(built, nil)
	if err != nil {
		return nil, place(d, []any{"spec", "sources"}, err)
	}
	var wanted []images.Want
	for _, f := range rendered {
		parsed, err := manifest.Parse(cmp.Or(names[f.Path], f.Path+" (rendered)"), f.Data)
		if err != nil {
			return nil, err
		}
		if names[f.Path] != "" {
			if err := checkPlain(parsed); err != nil {
				return nil, err
			}
		}
		for _, doc := range parsed.Documents {
			if err := checkManifest(parsed, doc); err != nil {
				return nil, err
			}
		}
		found, err := images.Find(parsed)
		if err != nil {
			return nil, err
		}
		for _, image := range found {
			where := fmt.Sprintf("%s:%d:%d: %s", image.File, image.Line, image.Column, image.Resource)
			wanted = append(wanted, images.Want{Image: image.Image, Where: where})
		}
	}
	for i, extra := range d.Bundle.Spec.Images {
		at := d.Errorf([]any{"spec", "images", i, "image"}, "spec.images")
		wanted = append(wanted, images.Want{Image: extra.Image, Where: at.Error()})
	}
	return wanted, nil
}

// checkManifest says whether a document can go onto a cluster: it is a resource, and none
// that only a tool on this side of it understands.
func checkManifest(f *manifest.File, doc *yaml.Node) error {
	if err := f.CheckResource(doc); err != nil {
		return err
	}
	group, _, _ := strings.Cut(manifest.Get(doc, "apiVersion").Value, "/")
	var problem *manifest.Error
	switch group {
	case "krtpkg.dev":
		// A source that is the definition's own folder takes the definition in.
		problem = f.Errorf(doc, "a definition is no manifest for a cluster")
	case "kustomize.config.k8s.io":
		problem = f.Errorf(doc, "a kustomization is no manifest for a cluster")
	default:
		return nil
	}
	problem.Hint = "leave it out with exclude"
	return problem
}

// checkPlain says whether a file that will not be rendered is a ytt template: each value that
// ytt should fill in would be empty, images too.
func checkPlain(f *manifest.File) error {
	for _, doc := range f.Documents {
		if at := annotated(doc); at != nil {
			problem := f.Errorf(at, "a ytt template that nothing renders")
			problem.Hint = "give its source the field template: ytt"
			return problem
		}
	}
	return nil
}

// annotated is the first node with a comment that is one of ytt's, or nil.
func annotated(node *yaml.Node) *yaml.Node {
	for _, comment := range []string{node.HeadComment, node.LineComment, node.FootComment} {
		if strings.HasPrefix(comment, "#@") || strings.Contains(comment, "\n#@") {
			return node
		}
	}
	for _, child := range node.Content {
		if at := annotated(child); at != nil {
			return at
		}
	}
	return nil
}

func (o Options) pack(ctx context.Context, c *bundle.Content, bundles []*Built) (*Built, error) {
	desc, err := c.Pack(ctx, o.Store, o.Created)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", c.Metadata().Name, c.Metadata().Version, err)
	}
	o.Progress.Emit(progress.Event{Kind: progress.Done, Subject: c.Metadata().Name, Detail: desc.Digest.String()})
	return &Built{Descriptor: desc, Content: c, Bundles: bundles}, nil
}

func (o Options) runtime(ctx context.Context, d *bundle.Definition, dir string) (*Built, error) {
	sources := d.Runtime.Spec.Bundles
	bundles := make([]*Built, len(sources))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, s := range sources {
		group.Go(func() (err error) {
			if s.Path != "" {
				bundles[i], err = o.nested(ctx, filepath.Join(dir, filepath.FromSlash(s.Path)))
			} else {
				bundles[i], err = o.fetch(ctx, s.Ref, dir)
			}
			if err != nil {
				return place(d, []any{"spec", "bundles", i}, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	order, err := layers.Order(components(bundles), d.Runtime.Spec.Provided...)
	if err != nil {
		return nil, unordered(d, err)
	}
	lock := &bundle.RuntimeLock{
		APIVersion: bundle.APIVersion, Kind: bundle.KindRuntimeLock,
		Metadata: d.Runtime.Metadata, Provided: d.Runtime.Spec.Provided,
	}
	built := &bundle.Content{Runtime: lock}
	sorted := make([]*Built, len(order))
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
	}
	return o.pack(ctx, built, sorted)
}

// unordered puts an error of [layers.Order] at the runtime's bundles.
func unordered(d *bundle.Definition, err error) error {
	at := d.Errorf([]any{"spec", "bundles"}, "%v", err)
	at.Cause = err
	var missing *layers.MissingError
	if errors.As(err, &missing) {
		at.Hint = "add a bundle that does, or list it in spec.provided if it comes from outside"
	}
	return at
}

// nestedRepository stands in the lock for the repository of a bundle that has been built
// along with its runtime and has none of its own. No host is ever called so (RFC 2606):
// the bundle is where the runtime is, by its digest.
const nestedRepository = "krtpkg.invalid/bundles/"

func nestedImage(b *Built, s bundle.BundleSource) (name.Digest, error) {
	repository := nestedRepository + b.Bundle.Metadata.Name
	if s.Ref != "" && !strings.HasPrefix(s.Ref, "oci:") {
		return name.NewDigest(s.Ref)
	}
	return name.NewDigest(repository + "@" + b.Descriptor.Digest.String())
}

// nested builds a bundle of a runtime.
func (o Options) nested(ctx context.Context, definition string) (*Built, error) {
	d, dir, err := read(definition)
	if err != nil {
		return nil, err
	}
	if d.Bundle == nil {
		return nil, d.Errorf([]any{"kind"}, "is a runtime: a runtime holds bundles only")
	}
	return o.bundle(ctx, d, dir)
}

// fetch brings a bundle that was built before into the store.
func (o Options) fetch(ctx context.Context, ref, dir string) (*Built, error) {
	from, desc, err := o.Open(ctx, ref, dir)
	if err != nil {
		return nil, err
	}
	artifact, err := bundle.Open(ctx, from, desc)
	if err != nil {
		return nil, fmt.Errorf("bundle %s: %w", ref, err)
	}
	if artifact.Bundle == nil {
		return nil, fmt.Errorf("bundle %s: is a runtime: a runtime holds bundles only", ref)
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

func components(bundles []*Built) []layers.Component {
	list := make([]layers.Component, len(bundles))
	for i, b := range bundles {
		spec := b.Bundle.Spec
		list[i] = layers.Component{
			Name: b.Bundle.Metadata.Name, Layer: spec.Layer,
			Provides: spec.Provides, Requires: spec.Requires,
		}
	}
	return list
}
