package cli

import (
	"context"
	"fmt"
	"path"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"krtpkg.dev/krtpkg/internal/place"
	"krtpkg.dev/krtpkg/internal/registry"
	"krtpkg.dev/krtpkg/pkg/bundle"
)

// openedReference is what a reference on the command line leads to. Its tag has been resolved, once:
// everything that follows goes by the descriptor.
type openedReference struct {
	place.Place
	client *registry.Client
	store  place.Store
	root   ocispec.Descriptor
	// noted is set if the user knows of a repository with another name.
	noted bool
}

// openReference opens the place that a reference names and resolves what it means there.
func (a *app) openReference(ctx context.Context, reference string) (*openedReference, error) {
	o, err := a.openPlace(ctx, reference)
	if err != nil {
		return nil, err
	}
	o.root, err = o.Resolve(ctx, o.store)
	return o, err
}

// openPlace opens the place that a reference names and resolves nothing.
func (a *app) openPlace(ctx context.Context, reference string) (*openedReference, error) {
	p, err := place.Parse(reference)
	if err != nil {
		return nil, &usageError{err}
	}
	client, err := a.newClient()
	if err != nil {
		return nil, err
	}
	store, err := p.Open(ctx, client)
	return &openedReference{Place: p, client: client, store: store}, err
}

// openSet opens the artifact that was resolved with its bundles, and holds the tag that led there and the
// name of its repository to what it is: a registry can put any tag on anything that was signed.
func (a *app) openSet(ctx context.Context, at *openedReference) (*bundle.Set, error) {
	set, err := bundle.OpenSet(ctx, at.store, at.root)
	if err == nil {
		err = a.checkTag(at, set)
	}
	return set, err
}

func (a *app) checkTag(at *openedReference, set *bundle.Set) error {
	m := set.Root.Metadata()
	if base := path.Base(at.Repository); at.IsRegistry() && base != m.Name && !at.noted {
		at.noted = true
		a.ui.Note("note: %s holds %s %s under another tag", at.Repository, m.Name, m.Version)
	}
	if err := m.CheckTag(at.Tag); err != nil && !a.settings.allowRenamed {
		return fmt.Errorf("%s: %w", at.Location(), err)
	}
	return nil
}

// lookInto is [app.openSet] for commands that only show what is there: a tag that lies is noted.
func (a *app) lookInto(ctx context.Context, at *openedReference) (*bundle.Set, error) {
	set, err := bundle.OpenSet(ctx, at.store, at.root)
	if err != nil {
		return nil, err
	}
	if err := set.Root.Metadata().CheckTag(at.Tag); err != nil {
		a.ui.Note("note: %s: %v", at.Location(), err)
	}
	return set, nil
}

// pinnedReference returns the reference with the digest that was resolved.
func (o *openedReference) pinnedReference() string {
	p := o.Place
	p.Digest = o.root.Digest
	return p.String()
}

// versionTag returns the tag that a copy gets which is given none: the tag that was asked for, or
// that of the version where it was a digest.
func (o *openedReference) versionTag(ctx context.Context) (string, error) {
	if o.Tag != "" {
		return o.Tag, nil
	}
	m, err := bundle.ReadManifest(ctx, o.store, o.root)
	if err != nil {
		return "", fmt.Errorf("%s: %w", o.Place, err)
	}
	return bundle.VersionTag(m.Annotations[ocispec.AnnotationVersion]), nil
}
