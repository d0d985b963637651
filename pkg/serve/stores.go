package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/transfer"
)

// Store is what is served: an archive or a layout. Readers that it gives of content are
// [io.ReadSeeker]s.
type Store interface {
	oras.ReadOnlyGraphTarget
	Tags(ctx context.Context, last string, fn func(tags []string) error) error
	// Stat gives the size of content, or an error that is [errdef.ErrNotFound].
	Stat(d digest.Digest) (int64, error)
}

// partialStore is a store that may leave out what another has: an archive with a base, or one of
// several volumes.
type partialStore interface {
	ListLacking(ctx context.Context) ([]ocispec.Descriptor, error)
	BaseReferences() []string
}

// LackingError reports that a store builds on content that is not served with it.
type LackingError struct {
	// Store is its name.
	Store string
	// Base lists the references that it builds on, if it declares them.
	Base []string
	// Missing are the blobs that nothing served has.
	Missing []digest.Digest
}

func (e *LackingError) Error() string {
	rest := "its other volumes"
	if len(e.Base) > 0 {
		rest = strings.Join(e.Base, ", ")
	}
	return fmt.Sprintf("%s lacks %d blobs, the first is %s: serve %s next to it", e.Store, len(e.Missing), e.Missing[0], rest)
}

// Unwrap is how package transfer calls the same.
func (e *LackingError) Unwrap() error {
	return &transfer.BaseError{Base: e.Base, Missing: e.Missing}
}

// storeList are read as one: what the first of them lacks the next may have.
type storeList []Store

// Fetch returns content from the first store that has it.
func (s storeList) Fetch(ctx context.Context, desc ocispec.Descriptor) (body io.ReadCloser, err error) {
	err = s.firstKnown(func(store Store) (err error) {
		body, err = store.Fetch(ctx, desc)
		return err
	})
	return body, err
}

// Resolve finds a manifest in the first store that has it.
func (s storeList) Resolve(ctx context.Context, reference string) (desc ocispec.Descriptor, err error) {
	err = s.firstKnown(func(store Store) (err error) {
		desc, err = store.Resolve(ctx, reference)
		return err
	})
	return desc, err
}

// Stat returns the size of content.
func (s storeList) Stat(d digest.Digest) (size int64, err error) {
	err = s.firstKnown(func(store Store) (err error) {
		size, err = store.Stat(d)
		return err
	})
	return size, err
}

// firstKnown asks the stores in order until one has the content.
func (s storeList) firstKnown(ask func(Store) error) error {
	for _, store := range s {
		if err := ask(store); !errors.Is(err, errdef.ErrNotFound) {
			return err
		}
	}
	return errdef.ErrNotFound
}

// Predecessors returns those in all stores, each once.
func (s storeList) Predecessors(ctx context.Context, node ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	all := []ocispec.Descriptor{}
	for _, store := range s {
		found, err := store.Predecessors(ctx, node)
		if err != nil {
			return nil, err
		}
		for _, desc := range found {
			same := func(d ocispec.Descriptor) bool { return d.Digest == desc.Digest }
			if !slices.ContainsFunc(all, same) {
				all = append(all, desc)
			}
		}
	}
	return all, nil
}

// checkComplete returns an error if a store lacks content that none of the others has and that is not
// one of promised.
func (s storeList) checkComplete(ctx context.Context, promised map[digest.Digest]bool) error {
	for _, store := range s {
		partial, ok := store.(partialStore)
		if !ok {
			continue
		}
		list, err := partial.ListLacking(ctx)
		if err != nil {
			return err
		}
		var missing []digest.Digest
		for _, desc := range list {
			if promised[desc.Digest] {
				continue
			}
			_, err := s.Stat(desc.Digest)
			if errors.Is(err, errdef.ErrNotFound) {
				missing = append(missing, desc.Digest)
			} else if err != nil {
				return err
			}
		}
		if len(missing) > 0 {
			return &LackingError{Store: fmt.Sprint(store), Base: partial.BaseReferences(), Missing: missing}
		}
	}
	return nil
}
