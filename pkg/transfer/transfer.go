// Package transfer copies a bundle or a runtime with everything that it needs, its nested
// bundles and its workload images, and with what is attached to it and its bundles, between
// any two stores.
//
// Call [Copy]. It plans first: every item is found and counted before a byte is written, so
// that what is missing is an error while the target is still untouched. Tags move last, when
// everything that they name is there.
package transfer

import (
	"context"
	"errors"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/progress"
)

// Options are the parameters of a copy.
type Options struct {
	// Origins gives the images that the source does not hold; nil when it has to hold all.
	Origins images.Origins
	// Tags are set on the root when everything is there.
	Tags []string
	// Concurrency is how many items are copied at once; 8 when zero.
	Concurrency int
	// Progress takes events; nil drops them.
	Progress progress.Func
}

// Report says what a copy did.
type Report struct {
	// Root is the bundle or runtime, Closure the index over everything that came along.
	Root, Closure ocispec.Descriptor
	// Bundles and Images are how many of each the root has.
	Bundles, Images int
	// Attached are the signatures and other referrers that came along. Signatures under a
	// tag that the target had too are one manifest with those of both.
	Attached []ocispec.Descriptor
	// Copied, Mounted and Present count the items by what was done with them; CopiedBytes
	// is the size of those that were copied.
	Copied, Mounted, Present int64
	CopiedBytes              int64
}

// Copy copies the root from a source to a target. Errors: [*IncompleteError] when something
// that the root needs is nowhere to be found.
func Copy(ctx context.Context, src oras.ReadOnlyGraphTarget, root ocispec.Descriptor, dst oras.GraphTarget, o Options) (*Report, error) {
	if o.Concurrency == 0 {
		o.Concurrency = 8
	}
	p, err := newPlan(ctx, src, root, o)
	if err != nil {
		return nil, err
	}
	o.Progress.Emit(progress.Event{Kind: progress.Planned, Items: len(p.nodes), Bytes: p.size()})
	c := &copier{plan: p, dst: dst, report: Report{
		Root: p.root, Closure: p.closure, Bundles: len(p.bundles), Images: len(p.images),
		Attached: make([]ocispec.Descriptor, len(p.attached)),
	}}
	if err := c.copy(ctx); err != nil {
		return nil, fmt.Errorf("copy %s: %w", root.Digest, err)
	}
	for _, tag := range o.Tags {
		if err := setTag(ctx, dst, p.root, tag); err != nil {
			return nil, err
		}
	}
	return &c.report, nil
}

// setTag moves a tag, but not one that is right already: registries with immutable tags
// refuse to write the same again.
func setTag(ctx context.Context, dst oras.Target, desc ocispec.Descriptor, tag string) error {
	at, err := dst.Resolve(ctx, tag)
	if err == nil && at.Digest == desc.Digest {
		return nil
	}
	if err == nil || errors.Is(err, errdef.ErrNotFound) {
		err = retried(ctx, func() error { return dst.Tag(ctx, desc, tag) })
	}
	if err != nil {
		return fmt.Errorf("tag %s at target %s: %w", tag, where(dst), err)
	}
	return nil
}
