package bundle

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/pkg/oci"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ReadStore is where artifacts are read from.
type ReadStore interface {
	content.Fetcher
	content.Resolver
}

// Set is an opened root with its bundles.
type Set struct {
	// Root is the bundle or runtime that was asked for.
	Root *Artifact
	// Bundles are a runtime's bundles in the order to apply them; a bundle's own are
	// itself.
	Bundles []*Artifact
}

// Name returns the name of the runtime or bundle.
func (s *Set) Name() string { return s.Root.Metadata().Name }

// BundleNames returns the names of the bundles in the order to apply them.
func (s *Set) BundleNames() []string {
	names := make([]string, len(s.Bundles))
	for i, b := range s.Bundles {
		names[i] = b.Metadata().Name
	}
	return names
}

// OpenSet opens a root and, for a runtime, every bundle that its lock names, by digest. Every
// byte of each is read: its config too, of which nothing is used here, and imgpkg the label. Manifests of charts that are
// in the store must hold the charts. All share the memory of one operation ([oci.WithBudget]).
func OpenSet(ctx context.Context, store ReadStore, root ocispec.Descriptor) (*Set, error) {
	ctx, _ = oci.WithBudget(ctx)
	opened, err := openWhole(ctx, store, root)
	if err != nil {
		return nil, err
	}
	if opened.Bundle != nil {
		return &Set{Root: opened, Bundles: []*Artifact{opened}}, nil
	}
	locked := opened.Runtime.Bundles
	set := &Set{Root: opened, Bundles: make([]*Artifact, len(locked))}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for i, b := range locked {
		group.Go(func() (err error) {
			if set.Bundles[i], err = openLocked(ctx, store, b); err != nil {
				return fmt.Errorf("bundle %s %s: %w", b.Name, b.Version, err)
			}
			return nil
		})
	}
	return set, group.Wait()
}

func openLocked(ctx context.Context, store ReadStore, b LockedBundle) (*Artifact, error) {
	desc, err := store.Resolve(ctx, b.Digest)
	if err != nil {
		return nil, err
	}
	if desc.Digest.String() != b.Digest {
		return nil, fmt.Errorf("got %s for %s: %w", desc.Digest, b.Digest, content.ErrMismatchedDigest)
	}
	opened, err := openWhole(ctx, store, desc)
	if err != nil {
		return nil, err
	}
	if opened.Bundle == nil {
		return nil, fmt.Errorf("%s is not a bundle", desc.Digest)
	}
	spec, m := opened.Bundle.Spec, opened.Metadata()
	if m.Name != b.Name || m.Version != b.Version || spec.Layer != b.Layer {
		return nil, fmt.Errorf("%s is %s %s of layer %d, the runtime's lock has %s %s of layer %d",
			desc.Digest, m.Name, m.Version, spec.Layer, b.Name, b.Version, b.Layer)
	}
	return opened, nil
}

func openWhole(ctx context.Context, store ReadStore, desc ocispec.Descriptor) (*Artifact, error) {
	a, err := Open(ctx, store, desc)
	if err != nil {
		return nil, err
	}
	config := a.Manifest.Config
	if config.Size > oci.MaxManifest {
		return nil, fmt.Errorf("%s: config %s has %d bytes, the limit is %d", desc.Digest, config.Digest, config.Size, oci.MaxManifest)
	}
	if _, err := content.FetchAll(ctx, store, config); err != nil {
		return nil, fmt.Errorf("%s: read config %s: %w", desc.Digest, config.Digest, err)
	}
	if err := a.checkChartManifests(ctx, store); err != nil {
		return nil, fmt.Errorf("%s: %w", desc.Digest, err)
	}
	return a, nil
}
