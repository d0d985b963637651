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

// places remember what was asked of stores as a whole, so that it need not be asked for each
// item. The zero value is ready.
type places struct {
	mu   sync.Mutex
	tags map[any]func() (map[string]bool, error)
	all  map[any]func() (map[digest.Digest][]ocispec.Descriptor, error)
}

// Stores that list their tags, and those that know all referrers at once.
type (
	tagLister interface {
		Tags(ctx context.Context, last string, fn func(tags []string) error) error
	}
	referrersLister interface {
		AllReferrers(ctx context.Context) (map[digest.Digest][]ocispec.Descriptor, error)
	}
	// apiAsker is a registry, which may list referrers or keep them under fallback tags.
	apiAsker interface {
		ListsReferrers(ctx context.Context) (bool, error)
	}
	resolver interface {
		Resolve(ctx context.Context, reference string) (ocispec.Descriptor, error)
	}
)

// maxTags is how many of a store's tags are remembered; above it each is asked for.
const maxTags = 100_000

var errTooManyTags = errors.New("too many tags")

// attachedTag finds what one of cosign's tags names. In a repository of our own the tags are
// listed once; upstream's have too many.
func (p *places) attachedTag(ctx context.Context, store resolver, tag string, own bool) (ocispec.Descriptor, error) {
	if own && p.lacksTag(ctx, store, tag) {
		return ocispec.Descriptor{}, errdef.ErrNotFound
	}
	return store.Resolve(ctx, tag)
}

// lacksTag says whether a store's list of tags is without one. A registry that lists no tags
// is asked for each.
func (p *places) lacksTag(ctx context.Context, store any, tag string) bool {
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

// referrers lists what refers to a manifest. Own says that the store is a repository of ours,
// whose tags may be listed.
func (p *places) referrers(ctx context.Context, store any, subject ocispec.Descriptor, own bool) ([]ocispec.Descriptor, error) {
	if lister, ok := store.(referrersLister); ok {
		p.mu.Lock()
		if p.all == nil {
			p.all = map[any]func() (map[digest.Digest][]ocispec.Descriptor, error){}
		}
		if p.all[store] == nil {
			p.all[store] = sync.OnceValues(func() (map[digest.Digest][]ocispec.Descriptor, error) { return lister.AllReferrers(ctx) })
		}
		list := p.all[store]
		p.mu.Unlock()
		all, err := list()
		return all[subject.Digest], err
	}
	if asker, ok := store.(apiAsker); ok && own {
		// Without the API a fallback tag would be there.
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
