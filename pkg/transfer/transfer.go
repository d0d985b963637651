// Package transfer copies a bundle or a runtime with everything that it needs, its nested
// bundles, its workload images and what is attached to them, between any two stores.
//
// Call [Copy]. It plans first: every item is found and counted before a byte is written, so
// that what is missing is an error while the target is still untouched. Tags move last, when
// everything that they name is there.
package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote"

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
	// Attached are the signatures and other referrers that came along.
	Attached []ocispec.Descriptor
	// Copied, Mounted and Present count the items by what was done with them; CopiedBytes
	// is the size of those that were copied.
	Copied, Mounted, Present int64
	CopiedBytes              int64
}

// Copy copies the root from a source to a target. Errors: [*IncompleteError] when something
// that the root needs is nowhere to be found.
func Copy(ctx context.Context, src oras.ReadOnlyGraphTarget, root ocispec.Descriptor, dst oras.Target, o Options) (*Report, error) {
	if o.Concurrency == 0 {
		o.Concurrency = 8
	}
	p, err := newPlan(ctx, src, root, o)
	if err != nil {
		return nil, err
	}
	o.Progress.Emit(progress.Event{Kind: progress.Planned, Items: len(p.nodes), Bytes: p.size()})
	report := &Report{Root: p.root, Closure: p.closure, Bundles: len(p.bundles), Images: len(p.images)}
	count := counter{report: report, progress: o.Progress}
	if err := oras.CopyGraph(ctx, p, dst, p.closure, p.options(dst, o, &count)); err != nil {
		return nil, fmt.Errorf("copy %s: %w", root.Digest, err)
	}
	for _, desc := range append([]ocispec.Descriptor{p.root}, p.bundles...) {
		attached, err := copyAttached(ctx, src, desc, dst, o, &count)
		if err != nil {
			return nil, fmt.Errorf("copy what is attached to %s: %w", desc.Digest, err)
		}
		report.Attached = append(report.Attached, attached...)
	}
	for _, tag := range o.Tags {
		if err := setTag(ctx, dst, p.root, tag); err != nil {
			return nil, err
		}
	}
	return report, nil
}

// setTag moves a tag, but not one that is right already: registries with immutable tags
// refuse to write the same again.
func setTag(ctx context.Context, dst oras.Target, desc ocispec.Descriptor, tag string) error {
	at, err := dst.Resolve(ctx, tag)
	if err == nil && at.Digest == desc.Digest {
		return nil
	}
	if err != nil && !errors.Is(err, errdef.ErrNotFound) {
		return fmt.Errorf("tag %s: %w", tag, err)
	}
	if err := dst.Tag(ctx, desc, tag); err != nil {
		return fmt.Errorf("tag %s: %w", tag, err)
	}
	return nil
}

// counter counts what happens to items, from several goroutines.
type counter struct {
	report   *Report
	progress progress.Func
}

func (c *counter) copied(_ context.Context, desc ocispec.Descriptor) error {
	atomic.AddInt64(&c.report.Copied, 1)
	atomic.AddInt64(&c.report.CopiedBytes, desc.Size)
	c.progress.Emit(progress.Event{Kind: progress.Copied, Subject: desc.Digest.String(), Bytes: desc.Size})
	return nil
}

func (c *counter) present(_ context.Context, desc ocispec.Descriptor) error {
	atomic.AddInt64(&c.report.Present, 1)
	c.progress.Emit(progress.Event{Kind: progress.Skipped, Subject: desc.Digest.String(), Bytes: desc.Size})
	return nil
}

func (c *counter) mounted(_ context.Context, desc ocispec.Descriptor) error {
	atomic.AddInt64(&c.report.Mounted, 1)
	c.progress.Emit(progress.Event{Kind: progress.Mounted, Subject: desc.Digest.String(), Bytes: desc.Size})
	return nil
}

func (c *counter) options(concurrency int) oras.CopyGraphOptions {
	return oras.CopyGraphOptions{
		Concurrency: concurrency, PostCopy: c.copied, OnCopySkipped: c.present, OnMounted: c.mounted,
	}
}

// options make oras-go copy the plan: what follows what is known, and blobs of another
// repository of the target's registry are mounted.
func (p *plan) options(dst oras.Target, o Options, count *counter) oras.CopyGraphOptions {
	options := count.options(o.Concurrency)
	options.FindSuccessors = func(_ context.Context, _ content.Fetcher, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		return p.successors(desc), nil
	}
	if target, ok := dst.(*remote.Repository); ok {
		options.MountFrom = func(_ context.Context, desc ocispec.Descriptor) ([]string, error) {
			from, ok := p.nodes[desc.Digest].from.(*remote.Repository)
			if !ok || from.Reference.Registry != target.Reference.Registry || from.Reference.Repository == target.Reference.Repository {
				return nil, nil
			}
			return []string{from.Reference.Repository}, nil
		}
	}
	return options
}

// tagSuffixes are the tags by which cosign attaches to a digest without the referrers API.
var tagSuffixes = []string{".sig", ".att", ".sbom"}

// copyAttached copies the referrers of a manifest, with theirs, and what cosign's tags name.
func copyAttached(ctx context.Context, src oras.ReadOnlyGraphTarget, desc ocispec.Descriptor, dst oras.Target, o Options, count *counter) ([]ocispec.Descriptor, error) {
	referrers, err := src.Predecessors(ctx, desc)
	if err != nil {
		return nil, err
	}
	var attached []ocispec.Descriptor
	for _, r := range referrers {
		if own, err := isSubject(ctx, src, r, desc); err != nil {
			return nil, err
		} else if !own {
			continue
		}
		if err := oras.CopyGraph(ctx, src, dst, r, count.options(o.Concurrency)); err != nil {
			return nil, err
		}
		attached = append(attached, r)
		deeper, err := copyAttached(ctx, src, r, dst, o, count)
		if err != nil {
			return nil, err
		}
		attached = append(attached, deeper...)
	}
	for _, suffix := range tagSuffixes {
		tag := strings.ReplaceAll(desc.Digest.String(), ":", "-") + suffix
		named, err := src.Resolve(ctx, tag)
		if errors.Is(err, errdef.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := oras.CopyGraph(ctx, src, dst, named, count.options(o.Concurrency)); err != nil {
			return nil, err
		}
		if err := setTag(ctx, dst, named, tag); err != nil {
			return nil, err
		}
		attached = append(attached, named)
	}
	return attached, nil
}

// isSubject says whether a predecessor refers to a manifest as its subject, and is not the
// closure, which every copy makes anew: predecessors of a layout may be indexes too.
func isSubject(ctx context.Context, src oras.ReadOnlyGraphTarget, referrer, subject ocispec.Descriptor) (bool, error) {
	m, err := readNode(ctx, src, referrer)
	if err != nil {
		return false, err
	}
	return m.Subject != nil && m.Subject.Digest == subject.Digest && m.ArtifactType != closureType, nil
}

// Missing is an item that is nowhere to be found.
type Missing struct {
	// Image is its name.
	Image string
	// Reason says where it was looked for and what came back.
	Reason error
}

// IncompleteError says that a root can't be copied because parts of it are missing.
type IncompleteError struct {
	Root    ocispec.Descriptor
	Missing []Missing
}

func (e *IncompleteError) Error() string {
	lines := make([]string, len(e.Missing))
	for i, m := range e.Missing {
		lines[i] = fmt.Sprintf("%s: %v", m.Image, m.Reason)
	}
	slices.Sort(lines)
	return fmt.Sprintf("%s is incomplete: %d of its images can't be had:\n  %s", e.Root.Digest, len(lines), strings.Join(lines, "\n  "))
}

// Unwrap gives the reasons.
func (e *IncompleteError) Unwrap() []error {
	reasons := make([]error, len(e.Missing))
	for i, m := range e.Missing {
		reasons[i] = m.Reason
	}
	return reasons
}

// Fetch makes the plan a source of everything in it, wherever each item is.
func (p *plan) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	n, ok := p.nodes[desc.Digest]
	switch {
	case !ok:
		return nil, fmt.Errorf("%s: %w", desc.Digest, errdef.ErrNotFound)
	case n.data != nil:
		return io.NopCloser(bytes.NewReader(n.data)), nil
	}
	return n.from.Fetch(ctx, desc)
}

// Exists says whether an item is in the plan.
func (p *plan) Exists(_ context.Context, desc ocispec.Descriptor) (bool, error) {
	_, ok := p.nodes[desc.Digest]
	return ok, nil
}
