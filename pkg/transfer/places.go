package transfer

import (
	"context"
	"errors"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
)

// storeCache caches the tags and referrers of whole stores, which saves a request for each item.
// The zero value is ready.
type storeCache struct {
	mu        sync.Mutex
	tags      map[any]func() (map[string]bool, error)
	referrers map[any]func() (map[digest.Digest][]ocispec.Descriptor, error)
}

// Optional abilities of stores.
type (
	tagLister interface {
		Tags(ctx context.Context, last string, fn func(tags []string) error) error
	}
	referrersLister interface {
		AllReferrers(ctx context.Context) (map[digest.Digest][]ocispec.Descriptor, error)
	}
	// referrersAPIChecker is a registry, which lists referrers or keeps them under fallback tags.
	referrersAPIChecker interface {
		ListsReferrers(ctx context.Context) (bool, error)
	}
	resolver interface {
		Resolve(ctx context.Context, reference string) (ocispec.Descriptor, error)
	}
)

// maxTags limits the tags that are cached; beyond it each tag is asked for.
const maxTags = 100_000

var errTooManyTags = errors.New("too many tags")

// resolveAttachedTag resolves one of cosign's tags. In the root's own repository the tags are listed
// once; upstream repositories have too many.
func (p *storeCache) resolveAttachedTag(ctx context.Context, store resolver, tag string, own bool) (ocispec.Descriptor, error) {
	if own && p.lacksTag(ctx, store, tag) {
		return ocispec.Descriptor{}, errdef.ErrNotFound
	}
	return store.Resolve(ctx, tag)
}

// lacksTag reports whether a tag is missing from a store's list. It returns false for a store that
// cannot list tags.
func (p *storeCache) lacksTag(ctx context.Context, store any, tag string) bool {
	lister, ok := store.(tagLister)
	if !ok {
		return false
	}
	p.mu.Lock()
	if p.tags == nil {
		p.tags = map[any]func() (map[string]bool, error){}
	}
	if p.tags[store] == nil {
		p.tags[store] = sync.OnceValues(func() (map[string]bool, error) { return listTags(ctx, lister) })
	}
	list := p.tags[store]
	p.mu.Unlock()
	tags, err := list()
	return err == nil && !tags[tag]
}

func listTags(ctx context.Context, store tagLister) (map[string]bool, error) {
	tags := map[string]bool{}
	err := store.Tags(ctx, "", func(page []string) error {
		for _, tag := range page {
			if strings.HasPrefix(tag, "sha256-") {
				tags[tag] = true
			}
		}
		if len(tags) > maxTags {
			return errTooManyTags
		}
		return nil
	})
	if errors.Is(err, errdef.ErrNotFound) {
		return tags, nil // the repository is empty
	}
	return tags, err
}

// listReferrers lists the referrers of a manifest. isOwn is set for the root's own repository, where
// tags may be listed.
func (p *storeCache) listReferrers(ctx context.Context, store any, subject ocispec.Descriptor, own bool) ([]ocispec.Descriptor, error) {
	if lister, ok := store.(referrersLister); ok {
		p.mu.Lock()
		if p.referrers == nil {
			p.referrers = map[any]func() (map[digest.Digest][]ocispec.Descriptor, error){}
		}
		if p.referrers[store] == nil {
			p.referrers[store] = sync.OnceValues(func() (map[digest.Digest][]ocispec.Descriptor, error) { return lister.AllReferrers(ctx) })
		}
		list := p.referrers[store]
		p.mu.Unlock()
		all, err := list()
		return all[subject.Digest], err
	}
	if asker, ok := store.(referrersAPIChecker); ok && own {
		// Without the API there would be a fallback tag.
		fallback := strings.ReplaceAll(subject.Digest.String(), ":", "-")
		if listed, err := asker.ListsReferrers(ctx); err == nil && !listed && p.lacksTag(ctx, store, fallback) {
			return nil, nil
		}
	}
	finder, ok := store.(content.PredecessorFinder)
	if !ok {
		return nil, nil
	}
	return finder.Predecessors(ctx, subject)
}
