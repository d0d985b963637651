package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"sync"
	"testing/fstest"

	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/internal/registry"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/layers"
	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/render"
)

// renderedRoot is a root with every bundle's manifests as they go onto a cluster, in order.
type renderedRoot struct {
	set     *bundle.Set
	bundles []renderedBundle
}

type renderedBundle struct {
	*bundle.Artifact
	*render.Manifests
}

// renderSet renders every bundle.
func (a *app) renderSet(ctx context.Context, set *bundle.Set, values *render.Values, images *imageLocations) (*renderedRoot, error) {
	rendered := &renderedRoot{set: set}
	for _, b := range set.Bundles {
		manifests, err := render.RenderAll(ctx, &b.Content, values, images.clusterReference)
		if err != nil {
			return nil, fmt.Errorf("bundle %s: %w", b.Metadata().Name, err)
		}
		for _, note := range manifests.Notes {
			a.ui.Note("note: %s: %s", b.Metadata().Name, note)
		}
		rendered.bundles = append(rendered.bundles, renderedBundle{b, manifests})
	}
	return rendered, nil
}

// imageLocations are the images of a root, and where they are.
type imageLocations struct {
	repository string // of the root; "" where that is not a registry
	beside     map[string]bool
	// ranBefore is set if the cluster has run the images before: one that is no longer found
	// anywhere is missing, and not merely out of reach from here.
	ranBefore bool
}

// locateImages finds out where the images are: in the repository of the root, where push and copy
// put them (the rule of imgpkg, so that kapp-controller comes to the same references), or else
// at their origin, which is said.
func (a *app) locateImages(ctx context.Context, at *openedReference, set *bundle.Set) (*imageLocations, error) {
	l := &imageLocations{beside: map[string]bool{}}
	if !at.IsRegistry() {
		return l, nil
	}
	l.repository = at.Repository
	wanted := imagesOf(set)
	there := make([]bool, len(wanted))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for i, image := range wanted {
		group.Go(func() error {
			_, err := at.store.Resolve(ctx, image.DigestStr())
			there[i] = err == nil
			if errors.Is(err, errdef.ErrNotFound) {
				return nil
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	for i, image := range wanted {
		l.beside[image.DigestStr()] = there[i]
		if !there[i] {
			a.ui.Note("note: image %s is not in %s: the cluster pulls it from its origin", image.Name(), at.Repository)
		}
	}
	return l, nil
}

// clusterReference returns the reference that a cluster pulls an image by.
func (l *imageLocations) clusterReference(image name.Digest) string {
	if l.beside[image.DigestStr()] {
		return l.repository + "@" + image.DigestStr()
	}
	return image.Name()
}

// imagesOf returns the images of all bundles, each digest once.
func imagesOf(set *bundle.Set) []name.Digest {
	var all []name.Digest
	for _, b := range set.Bundles {
		all = append(all, b.Images.DistinctImages()...)
	}
	slices.SortStableFunc(all, func(a, b name.Digest) int { return cmp.Compare(a.DigestStr(), b.DigestStr()) })
	return slices.CompactFunc(all, func(a, b name.Digest) bool { return a.DigestStr() == b.DigestStr() })
}

// deployRuntime returns what a cluster gets: each bundle's manifests as a file system in memory.
func (r *renderedRoot) deployRuntime() (deploy.Runtime, error) {
	m := r.set.Root.Metadata()
	runtime := deploy.Runtime{Name: m.Name, Version: m.Version, Digest: r.set.Root.Descriptor.Digest.String()}
	needs, err := r.requiredBundles()
	if err != nil {
		return runtime, err
	}
	for i, b := range r.bundles {
		manifests := fstest.MapFS{}
		for _, f := range b.Manifests.Files {
			manifests[path.Clean(f.Path)] = &fstest.MapFile{Data: f.Data, Mode: 0o444}
		}
		unit := deploy.Unit{
			Version: b.Metadata().Version, Digest: b.Descriptor.Digest.String(),
			Layer: b.Bundle.Spec.Layer, Kubernetes: b.Bundle.Spec.Kubernetes, Manifests: manifests, Namespaces: b.Namespaces,
		}
		if unit.Hooks, err = laterHooks(b.Manifests); err != nil {
			return runtime, fmt.Errorf("bundle %s: %w", b.Metadata().Name, err)
		}
		if r.set.Root.Runtime != nil {
			unit.Bundle, unit.Needs = b.Metadata().Name, needs[i]
		}
		runtime.Units = append(runtime.Units, unit)
	}
	return runtime, nil
}

// laterHooks returns the hooks of a bundle that run at a deletion or a rollback.
func laterHooks(m *render.Manifests) ([]deploy.Hook, error) {
	hooks, texts, err := render.ParseHooks(m.Later)
	if err != nil {
		return nil, err
	}
	var all []deploy.Hook
	for i, h := range hooks {
		all = append(all, deploy.Hook{Events: h.Events, Policies: h.Policies, Manifest: string(texts[i])})
	}
	return all, nil
}

// requiredBundles are, for each bundle, those of its layer that it requires something of.
func (r *renderedRoot) requiredBundles() ([][]string, error) {
	if r.set.Root.Runtime == nil {
		return nil, nil
	}
	components := make([]layers.Component, len(r.bundles))
	for i, b := range r.bundles {
		components[i] = b.Bundle.Component()
	}
	indexes, err := layers.RequiredIndexes(components, r.set.Root.Runtime.Provided...)
	if err != nil {
		return nil, err
	}
	names := make([][]string, len(components))
	for i := range components {
		for _, n := range indexes[i] {
			if components[n].Layer == components[i].Layer && !slices.Contains(names[i], components[n].Name) {
				names[i] = append(names[i], components[n].Name)
			}
		}
		slices.Sort(names[i])
	}
	return names, nil
}

// lookAtImages finds out which images are where the cluster would pull them from, with its logins
// before this user's, and for which platforms they are. One that is not there is wrong; that a
// registry cannot be asked from here does not say that the nodes cannot.
func (a *app) lookAtImages(ctx context.Context, set *bundle.Set, l *imageLocations, secrets []deploy.PullSecret) ([]deploy.Image, []deploy.Finding, error) {
	var (
		mu       sync.Mutex
		images   []deploy.Image
		findings []deploy.Finding
		logins   [][]byte
	)
	for _, s := range secrets {
		if err := registry.CheckLogin(s.Config); err != nil {
			findings = append(findings, deploy.Finding{Severity: deploy.Warning, Check: deploy.CheckImages,
				Message: fmt.Sprintf("pull secret %s in namespace %s cannot be read: %v", s.Name, s.Namespace, err)})
			continue
		}
		logins = append(logins, s.Config)
	}
	client, err := a.clientWith(logins)
	if err != nil {
		return nil, nil, err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	owner := map[string]string{}
	for _, b := range set.Bundles {
		for _, image := range b.Images.DistinctImages() {
			owner[image.DigestStr()] = b.Metadata().Name
		}
	}
	for _, image := range imagesOf(set) {
		group.Go(func() error {
			repository := image.Context().Name()
			if l.beside[image.DigestStr()] {
				repository = l.repository
			}
			store, err := client.Repository(ctx, repository)
			var platforms []string
			if err == nil {
				platforms, err = platformsOf(ctx, store, image.DigestStr())
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			mu.Lock()
			defer mu.Unlock()
			one := deploy.Image{Bundle: owner[image.DigestStr()], Name: l.clusterReference(image), Platforms: platforms}
			if err == nil {
				images = append(images, one)
				return nil
			}
			f := deploy.Finding{Severity: deploy.Warning, Check: deploy.CheckImages, Bundle: one.Bundle,
				Message: fmt.Sprintf("look for image %s: %v", one.Name, err)}
			switch {
			case errors.Is(err, errdef.ErrNotFound):
				f.Severity, f.Message = deploy.Wrong, fmt.Sprintf("image %s not found", one.Name)
			case l.ranBefore && l.repository != "" && !l.beside[image.DigestStr()]:
				f.Severity, f.Message = deploy.Wrong, fmt.Sprintf("image %s is not in %s, and its origin does not answer: %v", one.Name, l.repository, err)
			}
			findings = append(findings, f)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, nil, err
	}
	slices.SortFunc(images, func(a, b deploy.Image) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(findings, func(a, b deploy.Finding) int { return cmp.Compare(a.Message, b.Message) })
	return images, findings, nil
}

// platformsOf returns those of an image: of its index, as far as their manifests are there, or of its
// config.
func platformsOf(ctx context.Context, store oras.ReadOnlyTarget, digest string) ([]string, error) {
	desc, err := store.Resolve(ctx, digest)
	if err != nil {
		return nil, err
	}
	if desc.Size > oci.MaxManifest {
		return nil, fmt.Errorf("manifest of %d bytes", desc.Size)
	}
	data, err := content.FetchAll(ctx, store, desc)
	if err != nil {
		return nil, err
	}
	var index struct {
		Manifests []ocispec.Descriptor `json:"manifests"`
		Config    *ocispec.Descriptor  `json:"config"`
	}
	if err := oci.UnmarshalJSON(data, &index); err != nil {
		return nil, err
	}
	var all []string
	add := func(p *ocispec.Platform) {
		if p == nil || p.OS == "" || p.OS == "unknown" {
			return
		}
		if text := p.OS + "/" + p.Architecture; !slices.Contains(all, text) {
			all = append(all, text)
		}
	}
	for _, m := range index.Manifests {
		// A registry that is cleaned by tags loses these, and keeps the index.
		_, err := store.Resolve(ctx, m.Digest.String())
		if err != nil && !errors.Is(err, errdef.ErrNotFound) {
			return nil, err
		}
		if err == nil {
			add(m.Platform)
		}
	}
	if len(index.Manifests) > 0 && len(all) == 0 {
		return nil, fmt.Errorf("%s lists manifests, but none of them exists: %w", digest, errdef.ErrNotFound)
	}
	if c := index.Config; c != nil && c.Size <= oci.MaxManifest {
		data, err := content.FetchAll(ctx, store, *c)
		if err != nil {
			return nil, err
		}
		var p ocispec.Platform
		if json.Unmarshal(data, &p) == nil {
			add(&p)
		}
	}
	slices.Sort(all)
	return all, nil
}
