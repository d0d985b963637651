package transfer

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/progress"
)

// ErrChanged reports that tags changed between the plan of a prune and its start.
var ErrChanged = errors.New("tags changed since the plan was made")

// Pruned is what a prune deleted.
type Pruned struct {
	Tags, Manifests, Blobs int
}

// Prune deletes what the plan says: tags, then manifests, each before all that it names, so that an interruption leaves
// nothing that a tag names incomplete. It returns [ErrChanged], before anything is deleted, if a tag was set, moved
// or deleted since. What was deleted until an error is in the result.
func (p *PrunePlan) Prune(ctx context.Context) (*Pruned, error) {
	done := &Pruned{}
	if err := p.checkUnchanged(ctx); err != nil {
		return done, err
	}
	if p.options.BeforeDelete != nil {
		if err := p.options.BeforeDelete(); err != nil {
			return done, fmt.Errorf("prune %s: %w", storeName(p.store), err)
		}
	}
	items := p.Manifests
	if _, isFolder := p.store.(folderPruner); isFolder {
		items = slices.Concat(p.Manifests, p.Blobs)
	}
	planned := progress.Event{Kind: progress.Planned, Items: len(items)}
	for _, desc := range items {
		planned.Bytes += desc.Size
	}
	p.options.Progress.Emit(planned)
	var err error
	if folder, is := p.store.(folderPruner); is {
		err = p.pruneFolder(ctx, folder, done)
	} else {
		err = p.pruneRepository(ctx, p.store.(repositoryPruner), done)
	}
	if err != nil {
		return done, fmt.Errorf("prune %s: %w", storeName(p.store), err)
	}
	return done, nil
}

// checkUnchanged makes sure that the plan is still right: a question may have been answered an hour later.
func (p *PrunePlan) checkUnchanged(ctx context.Context) error {
	now, err := (&pruneGraph{store: p.store, options: p.options}).listEntries(ctx)
	if err != nil {
		return fmt.Errorf("prune %s: %w", storeName(p.store), err)
	}
	same := slices.EqualFunc(now, p.entries, func(a, b pruneEntry) bool { return a.tag == b.tag && a.desc.Digest == b.desc.Digest })
	if !same {
		return fmt.Errorf("prune %s: %w", storeName(p.store), ErrChanged)
	}
	return nil
}

func (p *PrunePlan) pruneRepository(ctx context.Context, store repositoryPruner, done *Pruned) error {
	for _, tag := range p.Tags {
		err := store.DeleteTag(ctx, tag)
		if errors.Is(err, errdef.ErrUnsupported) {
			break // tags go along with their manifests, of which those come first that nothing names
		}
		if err != nil {
			return fmt.Errorf("delete tag %s: %w", tag, err)
		}
		done.Tags++
	}
	for _, desc := range p.Manifests {
		if err := store.DeleteManifest(ctx, desc.Digest); err != nil {
			return fmt.Errorf("delete manifest %s: %w", desc.Digest, err)
		}
		done.Manifests++
		p.emitDeleted(desc)
	}
	done.Tags = len(p.Tags)
	return nil
}

func (p *PrunePlan) emitDeleted(desc ocispec.Descriptor) {
	p.options.Progress.Emit(progress.Event{Kind: progress.Copied, Subject: desc.Digest.String(), Bytes: desc.Size})
}

func (p *PrunePlan) pruneFolder(ctx context.Context, folder folderPruner, done *Pruned) error {
	if len(p.Manifests) > 0 {
		all := make([]digest.Digest, len(p.Manifests))
		for i, desc := range p.Manifests {
			all[i] = desc.Digest
		}
		if err := folder.Unlist(ctx, all); err != nil {
			return fmt.Errorf("delete tags: %w", err)
		}
	}
	done.Tags = len(p.Tags)
	for i, desc := range slices.Concat(p.Manifests, p.Blobs) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := folder.Remove(ctx, desc.Digest); err != nil {
			return fmt.Errorf("delete %s: %w", desc.Digest, err)
		}
		p.emitDeleted(desc)
		if i < len(p.Manifests) {
			done.Manifests++
		} else {
			done.Blobs++
		}
	}
	return nil
}
