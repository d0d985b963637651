// Package site turns a runtime in a store into the desired state of a cluster. [Open] verifies and opens it,
// [LocateImages] finds its images, and [Render] renders its manifests with the site's values;
// [Rendered.Runtime] returns what deploy.Cluster plans and applies.
//
// [ValueSources] merges the site's values, [ApplyFleet] applies to several clusters, [Promote] moves a channel such as
// stable to a verified version, and a [Controller] is what consumes the runtime in place of krtpkg.
//
// Nothing is opened before it is verified, unless [OpenOptions.AllowUnsigned] is set. All functions use the descriptor
// that the caller resolved, so a tag that moves in the meantime has no effect.
package site

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"testing/fstest"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/layers"
	"krtpkg.dev/krtpkg/pkg/render"
	"krtpkg.dev/krtpkg/pkg/resources"
	"krtpkg.dev/krtpkg/pkg/sign"
	"krtpkg.dev/krtpkg/pkg/trust"
)

// Source is a root and its location.
type Source struct {
	// Store holds the root and everything that belongs to it.
	Store oras.ReadOnlyGraphTarget
	// Root is the descriptor that was resolved in Store.
	Root ocispec.Descriptor
	// Repository is HOST/PATH if Store is a repository of a registry; empty otherwise.
	Repository string
	// Tag is the tag from which Root was resolved; empty if it was a digest.
	Tag string
	// Pinned is set if a digest led to Root, and Tag only goes with it: then it does not matter how fresh a channel is.
	Pinned bool
}

// OpenOptions are for [Open]. One of Policy and AllowUnsigned must be set.
type OpenOptions struct {
	// Policy defines the trusted signers.
	Policy *trust.Policy
	// AllowUnsigned opens without verification.
	AllowUnsigned bool
	// AllowRenamedTag accepts a version tag that differs from the signed version.
	AllowRenamedTag bool
}

// ErrVerificationRequired is the error of [Open] without a policy and without AllowUnsigned.
var ErrVerificationRequired = errors.New("verification required: set Policy (or AllowUnsigned)")

// Root is an opened bundle or runtime.
type Root struct {
	Source
	*bundle.Set
	// Verified holds the verified signatures; nil with AllowUnsigned.
	Verified *sign.Result
	// Channels are what the policy says of tags that lead to the root, and Stale is set if Source.Tag is a stale channel.
	Channels *trust.Channels
	Stale    *trust.StaleError
}

// Open verifies a root and opens it with all its bundles. Errors: [ErrVerificationRequired]; those of [trust.Policy.Verify]; those of [bundle.OpenSet]; [*bundle.TagError] if the tag is a version other than
// the signed one; [*trust.StaleError] if it is a channel that the policy refuses.
func Open(ctx context.Context, src Source, opts OpenOptions) (*Root, error) {
	if src.Store == nil {
		return nil, errors.New("open: Source.Store is nil: want the store that holds the root")
	}
	root := &Root{Source: src}
	switch {
	case opts.Policy != nil && opts.AllowUnsigned:
		return nil, errors.New("both Policy and AllowUnsigned are set")
	case opts.Policy != nil:
		where := src.Repository
		if where == "" {
			where = trust.Local
		}
		var err error
		if root.Verified, root.Channels, err = opts.Policy.VerifyChannels(ctx, src.Store, src.Root, where); err != nil {
			return nil, err
		}
	case !opts.AllowUnsigned:
		return nil, ErrVerificationRequired
	}
	set, err := bundle.OpenSet(ctx, src.Store, src.Root)
	if err != nil {
		return nil, err
	}
	if err := set.Root.Metadata().CheckTag(src.Tag); err != nil && !opts.AllowRenamedTag {
		return nil, err
	}
	if !src.Pinned {
		root.Stale = root.Channels.Check(set.Root.Metadata(), src.Tag, time.Now())
	}
	if root.Stale != nil && root.Stale.Refused {
		return nil, root.Stale
	}
	root.Set = set
	return root, nil
}

// Rendered is a root with the rendered manifests of each bundle.
type Rendered struct {
	Set *bundle.Set
	// Bundles are the bundles in the order in which they are applied.
	Bundles []RenderedBundle
}

// RenderedBundle is a bundle with its manifests.
type RenderedBundle struct {
	*bundle.Artifact
	*render.Manifests
}

// Render renders all bundles of a set with the site's values, which may be nil. It relocates images to the places
// in images. Values for a bundle that the set does not have are an error.
func Render(ctx context.Context, set *bundle.Set, values *render.Values, images *Images) (*Rendered, error) {
	names := make([]string, len(set.Bundles))
	for i, b := range set.Bundles {
		names[i] = b.Metadata().Name
	}
	if err := values.CheckBundles(names); err != nil {
		return nil, err
	}
	rendered := &Rendered{Set: set}
	for _, b := range set.Bundles {
		manifests, err := render.RenderAll(ctx, &b.Content, values, images.Reference)
		if err != nil {
			return nil, fmt.Errorf("bundle %s: %w", b.Metadata().Name, err)
		}
		rendered.Bundles = append(rendered.Bundles, RenderedBundle{b, manifests})
	}
	return rendered, nil
}

// Runtime returns the desired state of a cluster: for each bundle its manifests as an in-memory file system, the bundles
// that it requires, and its deletion and rollback hooks. Callers set Origin and Values if they want them recorded.
func (r *Rendered) Runtime() (deploy.Runtime, error) {
	m := r.Set.Root.Metadata()
	runtime := deploy.Runtime{Name: m.Name, Version: m.Version, Digest: r.Set.Root.Descriptor.Digest.String()}
	needs, err := r.requiredBundles()
	if err != nil {
		return runtime, err
	}
	for i, b := range r.Bundles {
		if !b.Bundle.HasManifests() {
			continue
		}
		manifests := fstest.MapFS{}
		for _, f := range b.Manifests.Files {
			manifests[path.Clean(f.Path)] = &fstest.MapFile{Data: f.Data, Mode: 0o444}
		}
		unit := deploy.Unit{
			Version: b.Metadata().Version, Digest: b.Descriptor.Digest.String(),
			Layer: b.Bundle.Spec.Layer, Kubernetes: b.Bundle.Spec.Kubernetes, Manifests: resources.CacheParsed(manifests), Namespaces: b.Namespaces,
		}
		if unit.Hooks, err = laterHooks(b.Manifests); err != nil {
			return runtime, fmt.Errorf("bundle %s: %w", b.Metadata().Name, err)
		}
		if r.Set.Root.Runtime != nil {
			unit.Bundle, unit.Needs = b.Metadata().Name, needs[i]
		}
		runtime.Units = append(runtime.Units, unit)
	}
	if len(runtime.Units) == 0 && len(r.Bundles) > 0 {
		return runtime, fmt.Errorf("%s %s has no manifests to apply, only files and charts: krtpkg files get fetches them", m.Name, m.Version)
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

// requiredBundles returns, for each bundle, those of its layer that it requires something of.
func (r *Rendered) requiredBundles() ([][]string, error) {
	if r.Set.Root.Runtime == nil {
		return nil, nil
	}
	components := make([]layers.Component, len(r.Bundles))
	for i, b := range r.Bundles {
		components[i] = b.Bundle.Component()
	}
	indexes, err := layers.RequiredIndexes(components, r.Set.Root.Runtime.Provided...)
	if err != nil {
		return nil, err
	}
	names := make([][]string, len(components))
	for i := range components {
		for _, n := range indexes[i] {
			if components[n].Layer == components[i].Layer && r.Bundles[n].Bundle.HasManifests() && !slices.Contains(names[i], components[n].Name) {
				names[i] = append(names[i], components[n].Name)
			}
		}
		slices.Sort(names[i])
	}
	return names, nil
}
