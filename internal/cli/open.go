package cli

import (
	"context"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"krtpkg.dev/krtpkg/internal/place"
	"krtpkg.dev/krtpkg/internal/registry"
	"krtpkg.dev/krtpkg/pkg/bundle"
)

// opened is what a reference on the command line leads to. Its tag has been resolved, once:
// everything that follows goes by the descriptor.
type opened struct {
	place.Place
	client *registry.Client
	store  place.Store
	root   ocispec.Descriptor
}

// open opens the place that a reference names and resolves what it means there.
func (a *app) open(ctx context.Context, reference string) (*opened, error) {
	o, err := a.openPlace(ctx, reference)
	if err != nil {
		return nil, err
	}
	o.root, err = o.Resolve(ctx, o.store)
	return o, err
}

// openPlace opens the place that a reference names and resolves nothing.
func (a *app) openPlace(ctx context.Context, reference string) (*opened, error) {
	p, err := place.Parse(reference)
	if err != nil {
		return nil, &usageError{err}
	}
	client, err := a.client()
	if err != nil {
		return nil, err
	}
	store, err := p.Open(ctx, client)
	return &opened{Place: p, client: client, store: store}, err
}

// pinned is the reference with the digest that was resolved.
func (o *opened) pinned() string {
	p := o.Place
	p.Digest = o.root.Digest
	return p.String()
}

// version is the tag that a copy gets which is given none: the tag that was asked for, or
// that of the version where it was a digest.
func (o *opened) version(ctx context.Context) (string, error) {
	if o.Tag != "" {
		return o.Tag, nil
	}
	m, err := bundle.ReadManifest(ctx, o.store, o.root)
	if err != nil {
		return "", fmt.Errorf("%s: %w", o.Place, err)
	}
	return tagOf(m.Annotations[ocispec.AnnotationVersion]), nil
}
