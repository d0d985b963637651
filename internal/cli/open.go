package cli

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"krtpkg.dev/krtpkg/internal/place"
	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/registry"
	"krtpkg.dev/krtpkg/pkg/site"
	"krtpkg.dev/krtpkg/pkg/trust"
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
	if opened, isArchive := store.(*archive.Store); isArchive && err == nil {
		a.archives = append(a.archives, opened)
	}
	return &openedReference{Place: p, client: client, store: store}, err
}

// openSet opens the artifact that was resolved with its bundles, and holds the tag that led there and the
// name of its repository to what it is: a registry can put any tag on anything that was signed.
func (a *app) openSet(ctx context.Context, at *openedReference) (*bundle.Set, error) {
	set, err := bundle.OpenSet(ctx, at.store, at.root)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", at.unpinnedReference(), asLost(err))
	}
	return set, a.checkTag(at, set)
}

// openVerified verifies and opens what was resolved, without a policy as it is, and holds tag and repository to
// it as [app.openSet] does.
func (a *app) openVerified(ctx context.Context, at *openedReference, policy *trust.Policy) (*site.Root, error) {
	src := site.Source{Store: at.store, Root: at.root, Tag: at.Tag, Repository: at.Repository, Pinned: at.Digest != ""}
	root, err := site.Open(ctx, src, site.OpenOptions{Policy: policy, AllowUnsigned: policy == nil, AllowRenamedTag: a.settings.allowRenamed})
	var renamed *bundle.TagError
	switch {
	case errors.As(err, &renamed):
		return nil, fmt.Errorf("%s: %w", at.Location(), err)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", at.unpinnedReference(), asLost(err))
	}
	a.noteOtherName(at, root.Set)
	if root.Stale != nil {
		a.noteStale(at, root.Stale)
	}
	return root, nil
}

// noteStale warns of a channel that may be held back.
func (a *app) noteStale(at *openedReference, stale *trust.StaleError) {
	a.ui.Note("WARNING: %s: %v", at.unpinnedReference(), stale)
}

// checkChannel warns of a stale channel, or refuses it as the policy says.
func (a *app) checkChannel(ctx context.Context, at *openedReference, channels *trust.Channels) error {
	if at.Tag == "" || at.Digest != "" {
		return nil
	}
	m, err := bundle.ReadManifest(ctx, at.store, at.root)
	if err != nil {
		return err
	}
	stale := channels.Check(metadataOf(m), at.Tag, time.Now())
	if stale == nil {
		return nil
	}
	if stale.Refused {
		return stale
	}
	a.noteStale(at, stale)
	return nil
}

// metadataOf returns the name and the version that a manifest is annotated with.
func metadataOf(m *ocispec.Manifest) bundle.Metadata {
	return bundle.Metadata{Name: titleOf(m), Version: m.Annotations[ocispec.AnnotationVersion]}
}

// noteOtherName tells once of a repository with another name than what it holds.
func (a *app) noteOtherName(at *openedReference, set *bundle.Set) {
	m := set.Root.Metadata()
	if base := path.Base(at.Repository); at.IsRegistry() && base != m.Name && !at.noted {
		at.noted = true
		a.ui.Note("note: %s holds %s %s under another tag", at.Repository, m.Name, m.Version)
	}
}

func (a *app) checkTag(at *openedReference, set *bundle.Set) error {
	a.noteOtherName(at, set)
	m := set.Root.Metadata()
	if err := m.CheckTag(at.Tag); err != nil && !a.settings.allowRenamed {
		return fmt.Errorf("%s: %w", at.Location(), err)
	}
	return nil
}

// lookInto is [app.openSet] for commands that only show what is there: a tag that lies is noted.
func (a *app) lookInto(ctx context.Context, at *openedReference) (*bundle.Set, error) {
	set, err := bundle.OpenSet(ctx, at.store, at.root)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", at.unpinnedReference(), asLost(err))
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

// unpinnedReference returns the reference without the digest that was resolved.
func (o *openedReference) unpinnedReference() string {
	return strings.TrimSuffix(o.pinnedReference(), "@"+o.root.Digest.String())
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
