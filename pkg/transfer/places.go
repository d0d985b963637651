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
	if lister, ok := store.(tagLister); ok && own {
		p.mu.Lock()
		if p.tags == nil {
			p.tags = map[any]func() (map[string]bool, error){}
		}
		if p.tags[store] == nil {
			p.tags[store] = sync.OnceValues(func() (map[string]bool, error) { return listTags(ctx, lister) })
		}
		list := p.tags[store]
		p.mu.Unlock()
		// A registry that lists no tags is asked for each.
		if tags, err := list(); err == nil && !tags[tag] {
			return ocispec.Descriptor{}, errdef.ErrNotFound
		}
	}
	return store.Resolve(ctx, tag)
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

// referrers lists what refers to a manifest.
func (p *places) referrers(ctx context.Context, store any, subject ocispec.Descriptor) ([]ocispec.Descriptor, error) {
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
	finder, ok := store.(content.PredecessorFinder)
	if !ok {
		return nil, nil
	}
	return finder.Predecessors(ctx, subject)
}
