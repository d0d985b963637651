package transfer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
)

// BaseError is the error of an archive that builds on content that the target does not have.
type BaseError struct {
	// Base lists the references, with digests, that must be imported first; empty if the archive
	// names none.
	Base []string
	// Missing are blobs that are neither in the archive nor at the target, Item is what the first of
	// them is, "layer of IMAGE"; "" if that is not known.
	Missing []digest.Digest
	Item    string
	// IsLost is set if the target has the roots of Base, but lost some of their content.
	IsLost bool
}

func (e *BaseError) Error() string {
	first, more := "", ""
	if len(e.Missing) > 0 {
		first = e.Missing[0].String()
	}
	if e.Item != "" {
		first += " (" + e.Item + ")"
	}
	if len(e.Missing) > 1 {
		more = fmt.Sprintf(" and %d more", len(e.Missing)-1)
	}
	if len(e.Base) == 0 {
		return fmt.Sprintf("neither the archive nor the target has %s%s", first, more)
	}
	if e.IsLost {
		return fmt.Sprintf("the archive builds on %s, of which the target lacks %s%s: import that version again", strings.Join(e.Base, ", "), first, more)
	}
	return fmt.Sprintf("the archive builds on %s, which the target does not have: import that first", strings.Join(e.Base, ", "))
}

// newBaseError returns the error of blobs that neither an archive nor the target has: of a base that
// the target does not have, or of one that lost something.
func newBaseError(ctx context.Context, base []string, missing []digest.Digest, describe func() map[digest.Digest]string, dst content.ReadOnlyStorage) error {
	e := &BaseError{Base: base, Missing: missing, Item: describe()[missing[0]]}
	if target, resolves := dst.(content.Resolver); resolves && len(base) > 0 {
		if err := checkBase(ctx, base, target); err != nil {
			return err
		}
		e.IsLost = true
	}
	return e
}

// checkBase returns an error early if the target lacks what the archive builds on.
func checkBase(ctx context.Context, base []string, dst content.Resolver) error {
	var missing []string
	for _, reference := range base {
		_, d, _ := strings.Cut(reference, "@")
		_, err := dst.Resolve(ctx, d)
		if errors.Is(err, errdef.ErrNotFound) {
			missing = append(missing, reference)
		} else if err != nil {
			return fmt.Errorf("target %s: %w", storeName(dst), err)
		}
	}
	if len(missing) > 0 {
		return &BaseError{Base: missing}
	}
	return nil
}

// lackingLister lists the blobs that an archive's manifests name but the archive lacks.
type lackingLister = func(context.Context) ([]ocispec.Descriptor, error)

// findMissingBlobs returns the blobs that neither the archive nor the target has.
func findMissingBlobs(ctx context.Context, lacking lackingLister, dst content.ReadOnlyStorage, concurrency int) (missing []digest.Digest, err error) {
	list, err := lacking(ctx)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(concurrency)
	for _, desc := range list {
		group.Go(func() error {
			there, err := dst.Exists(ctx, desc)
			if err == nil && !there {
				mu.Lock()
				missing = append(missing, desc.Digest)
				mu.Unlock()
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("target %s: %w", storeName(dst), err)
	}
	slices.Sort(missing)
	return missing, nil
}
