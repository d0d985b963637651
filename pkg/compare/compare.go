// Package compare finds how two versions of a runtime or a bundle differ, for whoever has to approve a change.
//
// Open both versions with site.Open, or bundle.OpenSet if they need no verification, and call [Compare]: it renders what is not the same in both and returns what
// was added, removed and changed, and in [Comparison.Risks] what deserves a look first. It needs no cluster.
package compare

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"runtime"
	"slices"
	"testing/fstest"

	"github.com/google/go-containerregistry/pkg/name"
	"golang.org/x/sync/errgroup"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/deploy/preflight"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/render"
)

// Version is one of the two versions to compare.
type Version struct {
	// Set is the opened root with its bundles. It is required.
	Set *bundle.Set
	// Values are the site's values to render it with; nil for its defaults.
	Values *render.Values
	// Platforms returns the platforms of an image by its digest, as OS/ARCHITECTURE; none if they are not known.
	// Default: nil, and none are listed.
	Platforms func(ctx context.Context, digest string) ([]string, error)
}

// Comparison is how two versions differ. Its lists are in the order of the bundles of the new version, then of those
// that only the old one has; risks have the critical ones first.
type Comparison struct {
	// Risks are rights that are new, and other changes that deserve a look first.
	Risks []Risk `json:"risks"`
	// Definitions are what a plan would find of changed CustomResourceDefinitions on a cluster that has the old version.
	Definitions []preflight.Finding `json:"definitions"`
	// Values are the values that a site can set which were added, removed or changed.
	Values []ValueChange `json:"values"`
	// Kubernetes are the bundles that run on other versions of Kubernetes than before.
	Kubernetes []KubernetesChange `json:"kubernetes"`
	// Bundles are those that were added, removed or changed, and UnchangedBundles the number of the others.
	Bundles          []BundleChange `json:"bundles"`
	UnchangedBundles int            `json:"unchangedBundleCount"`
	// Images are the images that were added, removed or changed, by bundle.
	Images []ImageChange `json:"images"`
	// Cargo are the files and charts that were added, removed or changed, by bundle.
	Cargo []CargoChange `json:"cargo,omitempty"`
	// Resources are those that were added, removed or changed. What Secrets hold is masked.
	Resources []deploy.ManifestChange `json:"resources"`
	// Notes are what the reader should know of how the bundles were rendered.
	Notes []Note `json:"notes"`
	// Unrendered are bundles that could not be rendered or compared; nothing is known of their resources or values.
	Unrendered []Note `json:"unrendered"`
}

// Side is one of the two versions.
type Side string

// The sides.
const (
	SideOld Side = "old"
	SideNew Side = "new"
)

// Note is something about a bundle of one version.
type Note struct {
	Bundle string `json:"bundle"`
	Side   Side   `json:"side"`
	Text   string `json:"text"`
}

// Change is what happened to a part of a version.
type Change string

// The changes.
const (
	Added   Change = "added"
	Removed Change = "removed"
	Changed Change = "changed"
)

// BundleState is a bundle in one of the versions.
type BundleState struct {
	Version string `json:"version"`
	Layer   int    `json:"layer"`
	Digest  string `json:"digest"`
}

// BundleChange is a bundle that is not the same in both versions.
type BundleChange struct {
	Name   string `json:"name"`
	Change Change `json:"change"`
	// Old and New are absent where the version does not have the bundle.
	Old *BundleState `json:"old,omitempty"`
	New *BundleState `json:"new,omitempty"`
}

// HasChanges reports whether anything differs.
func (c *Comparison) HasChanges() bool {
	return len(c.Bundles)+len(c.Resources)+len(c.Images)+len(c.Cargo)+len(c.Values)+len(c.Kubernetes)+len(c.Unrendered) > 0
}

// Compare compares two versions. Bundles that have one digest and the same values in both are not rendered. A bundle
// that cannot be rendered is in [Comparison.Unrendered], and not an error.
func Compare(ctx context.Context, before, after Version) (*Comparison, error) {
	if before.Set == nil || after.Set == nil {
		return nil, errors.New("compare: Version.Set is nil: want an opened root")
	}
	pairs := pairBundles(before, after)
	c := &Comparison{
		Risks: []Risk{}, Definitions: []preflight.Finding{}, Values: []ValueChange{}, Kubernetes: []KubernetesChange{},
		Bundles: []BundleChange{}, Images: []ImageChange{}, Resources: []deploy.ManifestChange{}, Notes: []Note{}, Unrendered: []Note{},
	}
	group, rendering := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i := range pairs {
		p := &pairs[i]
		if !p.isSame {
			p.old.startRendering(rendering, group)
			p.new.startRendering(rendering, group)
		}
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var old, current []deploy.BundleManifests
	for i := range pairs {
		p := &pairs[i]
		c.addBundle(p)
		if p.isSame {
			continue
		}
		c.Notes = append(append(c.Notes, p.old.notes...), p.new.notes...)
		if failed := append(p.old.listFailures(), p.new.listFailures()...); len(failed) > 0 {
			// What one side has is not news where the other side is not known.
			c.Unrendered = append(c.Unrendered, failed...)
			continue
		}
		old, current = p.old.appendManifests(old), p.new.appendManifests(current)
		c.Values = append(c.Values, compareValues(p)...)
	}
	c.Kubernetes = compareKubernetes(before.Set, pairs)
	compared, err := deploy.CompareManifests(ctx, old, current)
	if err != nil {
		return nil, err
	}
	c.Resources = append(c.Resources, compared.Changes...)
	c.Definitions = append(c.Definitions, compared.Findings...)
	slices.SortStableFunc(c.Definitions, func(a, b preflight.Finding) int { return cmp.Compare(a.Severity, b.Severity) }) // errors first
	if c.Images, err = compareImages(ctx, pairs, before.Platforms, after.Platforms); err != nil {
		return nil, err
	}
	c.Cargo = compareCargo(pairs)
	if err := c.findRisks(ctx, compared); err != nil {
		return nil, err
	}
	return c, ctx.Err()
}

// bundlePair is a bundle in both versions.
type bundlePair struct {
	name     string
	old, new renderedSide
	// isSame is set if there is nothing to render.
	isSame bool
}

// renderedSide is a bundle in one version, and what it renders to.
type renderedSide struct {
	side Side
	// artifact is nil where the version does not have the bundle.
	artifact *bundle.Artifact
	values   *render.Values

	manifests *render.Manifests
	fields    map[string]render.ValueField
	notes     []Note
	err       error
}

// pairBundles returns the bundles of both versions, those of the new one first.
func pairBundles(before, after Version) (pairs []bundlePair) {
	old := map[string]*bundle.Artifact{}
	for _, b := range before.Set.Bundles {
		old[b.Metadata().Name] = b
	}
	add := func(bundleName string, was, now *bundle.Artifact) {
		p := bundlePair{name: bundleName}
		p.old = renderedSide{side: SideOld, artifact: was, values: before.Values.SelectBundles([]string{bundleName})}
		p.new = renderedSide{side: SideNew, artifact: now, values: after.Values.SelectBundles([]string{bundleName})}
		p.isSame = was != nil && now != nil && was.Descriptor.Digest == now.Descriptor.Digest && sameValues(p.old.values, p.new.values)
		pairs = append(pairs, p)
	}
	for _, b := range after.Set.Bundles {
		bundleName := b.Metadata().Name
		add(bundleName, old[bundleName], b)
		delete(old, bundleName)
	}
	for _, b := range before.Set.Bundles {
		if bundleName := b.Metadata().Name; old[bundleName] != nil {
			add(bundleName, b, nil)
		}
	}
	return pairs
}

func sameValues(a, b *render.Values) bool {
	before, after := a.Node(), b.Node()
	if before == nil || after == nil {
		return before == after
	}
	x, err := manifest.EncodeYAML(before)
	if err != nil {
		return false
	}
	y, err := manifest.EncodeYAML(after)
	return err == nil && bytes.Equal(x, y)
}

// startRendering renders a bundle in a group, which fails only if it is interrupted.
func (s *renderedSide) startRendering(ctx context.Context, group *errgroup.Group) {
	if s.artifact == nil {
		return
	}
	group.Go(func() error {
		s.err = s.renderBundle(ctx)
		return ctx.Err()
	})
}

func (s *renderedSide) renderBundle(ctx context.Context) (err error) {
	content := &s.artifact.Content
	s.manifests, err = render.RenderAll(ctx, content, s.values, name.Digest.Name)
	if err != nil && s.values.Node() == nil && ctx.Err() == nil {
		// Without values for it, a bundle may lack what only a site knows.
		strict := err
		if s.manifests, err = render.RenderWithoutValues(ctx, content, name.Digest.Name); err == nil {
			s.addNote("rendered with its defaults, although it asks for values: " + strict.Error())
		}
	}
	if err != nil {
		return err
	}
	for _, text := range s.manifests.Notes {
		s.addNote(text)
	}
	s.fields, err = render.ListValues(ctx, content)
	return err
}

func (s *renderedSide) addNote(text string) {
	s.notes = append(s.notes, Note{s.artifact.Metadata().Name, s.side, text})
}

// listFailures returns why a bundle was not rendered; none if it was.
func (s *renderedSide) listFailures() []Note {
	if s.err == nil {
		return nil
	}
	return []Note{{s.artifact.Metadata().Name, s.side, s.err.Error()}}
}

func (s *renderedSide) appendManifests(all []deploy.BundleManifests) []deploy.BundleManifests {
	if s.artifact == nil {
		return all
	}
	return append(all, deploy.BundleManifests{
		Bundle: s.artifact.Metadata().Name, Applied: filesOf(s.manifests.Files), Hooks: filesOf(s.manifests.Later),
	})
}

func filesOf(files []bundle.File) fs.FS {
	all := fstest.MapFS{}
	for _, f := range files {
		all[path.Clean(f.Path)] = &fstest.MapFile{Data: f.Data, Mode: 0o444}
	}
	return all
}

// addBundle adds what happened to a bundle.
func (c *Comparison) addBundle(p *bundlePair) {
	b := BundleChange{Name: p.name, Change: Changed, Old: stateOf(p.old.artifact), New: stateOf(p.new.artifact)}
	switch {
	case b.Old == nil:
		b.Change = Added
	case b.New == nil:
		b.Change = Removed
	case *b.Old == *b.New:
		c.UnchangedBundles++
		return
	}
	c.Bundles = append(c.Bundles, b)
}

func stateOf(b *bundle.Artifact) *BundleState {
	if b == nil {
		return nil
	}
	return &BundleState{Version: b.Metadata().Version, Layer: b.Bundle.Spec.Layer, Digest: b.Descriptor.Digest.String()}
}

// specOf returns the definition of a bundle; that of none is empty.
func specOf(b *bundle.Artifact) bundle.BundleSpec {
	if b == nil {
		return bundle.BundleSpec{}
	}
	return b.Bundle.Spec
}

// String describes a note for people.
func (n Note) String() string { return fmt.Sprintf("%s (%s version): %s", n.Bundle, n.Side, n.Text) }
