package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"

	"krtpkg.dev/krtpkg/pkg/progress"
	"krtpkg.dev/krtpkg/pkg/sign"
)

// copier carries a plan out. oras-go walks it, bottom up; the bytes are moved here.
type copier struct {
	*plan
	dst    oras.GraphTarget
	report Report
	// moves are the copies of items that were begun, counted what the report has, by digest.
	moves, counted sync.Map

	mu sync.Mutex
	// there are the referrers that the target held before, by their subjects.
	there map[digest.Digest][]ocispec.Descriptor
}

// copy copies everything, and sets no tag but cosign's.
func (c *copier) copy(ctx context.Context) error {
	if err := c.referrer(ctx, c.closure, c.root); err != nil {
		return err
	}
	// One after the other for each subject: registries are known to lose one of two referrers
	// that are added to a list at the same moment (olareg 0.1.2 does).
	bySubject := map[digest.Digest][]int{}
	for i, a := range c.attached {
		bySubject[a.subject.Digest] = append(bySubject[a.subject.Digest], i)
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(c.options.Concurrency)
	for _, places := range bySubject {
		group.Go(func() error {
			for _, i := range places {
				if err := c.attachment(groupCtx, i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return c.list(ctx)
}

// attachment copies one of what is attached and reports it.
func (c *copier) attachment(ctx context.Context, i int) (err error) {
	a := c.attached[i]
	c.report.Attached[i] = a.desc
	if a.tag == "" {
		return c.referrer(ctx, a.desc, a.subject)
	}
	c.report.Attached[i], err = c.tagged(ctx, a)
	return err
}

// graph copies an item with everything that it needs and says whether it was there before.
func (c *copier) graph(ctx context.Context, root ocispec.Descriptor) (there bool, err error) {
	err = oras.CopyGraph(ctx, c.plan, c.dst, root, oras.CopyGraphOptions{
		Concurrency: c.options.Concurrency,
		FindSuccessors: func(_ context.Context, _ content.Fetcher, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
			return c.successors(desc), nil
		},
		PreCopy: c.move,
		OnCopySkipped: func(_ context.Context, desc ocispec.Descriptor) error {
			if desc.Digest == root.Digest {
				there = true
			}
			c.count(&c.report.Present, progress.Skipped, desc)
			return nil
		},
	})
	var failed *oras.CopyError
	if errors.As(err, &failed) && failed.Origin == oras.CopyErrorOriginDestination {
		err = fmt.Errorf("target %s: %w", where(c.dst), failed.Err)
	}
	return there, err
}

// move copies one item, or has the registry mount it. It takes the place of oras-go's own
// copy, which tries once, leaves it to the target to find wrong bytes, and fails where a
// mount is refused.
func (c *copier) move(ctx context.Context, desc ocispec.Descriptor) error {
	// Two things that are attached may need the same item at the same moment.
	once, _ := c.moves.LoadOrStore(desc.Digest, sync.OnceValue(func() error { return c.carry(ctx, desc) }))
	if err := once.(func() error)(); err != nil {
		c.moves.Delete(desc.Digest) // oras-go tries again where a registry misses what it had
		return err
	}
	return oras.SkipNode
}

func (c *copier) carry(ctx context.Context, desc ocispec.Descriptor) error {
	var mounted bool
	err := retried(ctx, func() (err error) {
		mounted, err = c.send(ctx, c.nodes[desc.Digest])
		return err
	})
	if err != nil {
		return err
	}
	if mounted {
		c.count(&c.report.Mounted, progress.Mounted, desc)
		return nil
	}
	c.count(&c.report.Copied, progress.Copied, desc)
	atomic.AddInt64(&c.report.CopiedBytes, desc.Size)
	return nil
}

func (c *copier) count(counter *int64, kind progress.Kind, desc ocispec.Descriptor) {
	if _, twice := c.counted.LoadOrStore(desc.Digest, true); twice {
		return // for something else that is attached
	}
	atomic.AddInt64(counter, 1)
	c.options.Progress.Emit(progress.Event{Kind: kind, Subject: desc.Digest.String(), Bytes: desc.Size})
}

// send tries once to get one item to the target.
func (c *copier) send(ctx context.Context, n *node) (mounted bool, err error) {
	if n.data != nil {
		// As what it is, so that a request can be sent again.
		return false, c.failed(n, nil, c.dst.Push(ctx, n.desc, bytes.NewReader(n.data)))
	}
	if target, repository := c.mount(n); repository != "" {
		var blob *source
		err := target.Mount(ctx, n.desc, repository, func() (io.ReadCloser, error) {
			blob = n.source(ctx)
			return blob, nil
		})
		if err == nil || blob != nil {
			return blob == nil, c.failed(n, blob, err)
		}
		// Who may not mount may still write.
	}
	blob := n.source(ctx)
	defer blob.Close()
	return false, c.failed(n, blob, c.dst.Push(ctx, n.desc, blob))
}

// mount gives the repository that the target can mount a blob from, or none.
func (c *copier) mount(n *node) (registry.Mounter, string) {
	target, ok := c.dst.(*remote.Repository)
	from := n.from
	if o, ok := from.(*overlay); ok {
		from = o.first
	}
	repository, remotely := from.(*remote.Repository)
	if !ok || !remotely || repository.Reference.Registry != target.Reference.Registry ||
		repository.Reference.Repository == target.Reference.Repository {
		return nil, ""
	}
	return target, repository.Reference.Repository
}

// failed says on which side an item failed.
func (c *copier) failed(n *node, blob *source, err error) error {
	switch {
	case err == nil, errors.Is(err, errdef.ErrAlreadyExists):
		return nil
	case blob != nil && blob.failed() != nil:
		return fmt.Errorf("read %s from source %s: %w", n.desc.Digest, where(n.from), blob.failed())
	}
	return fmt.Errorf("write %s to target %s: %w", n.desc.Digest, where(c.dst), err)
}

// referrer copies a manifest with its subject.
func (c *copier) referrer(ctx context.Context, desc, subject ocispec.Descriptor) error {
	there, err := c.graph(ctx, desc)
	if err != nil || !there {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.there == nil {
		c.there = map[digest.Digest][]ocispec.Descriptor{}
	}
	c.there[subject.Digest] = append(c.there[subject.Digest], desc)
	return nil
}

// list has the target list the referrers that it held before. A copy that broke off between
// a referrer and the fallback tag of its subject, or index.json, has left one that nobody
// finds.
func (c *copier) list(ctx context.Context) error {
	for subject, referrers := range c.there {
		listed, err := c.dst.Predecessors(ctx, c.nodes[subject].desc)
		if err != nil {
			return fmt.Errorf("list referrers of %s at target %s: %w", subject, where(c.dst), err)
		}
		for _, desc := range referrers {
			if slices.ContainsFunc(listed, func(d ocispec.Descriptor) bool { return d.Digest == desc.Digest }) {
				continue
			}
			if _, err := c.send(ctx, c.nodes[desc.Digest]); err != nil {
				return err
			}
		}
	}
	return nil
}

// tagged copies what one of cosign's tags names. The site may have signed too: what the
// target has under the tag stays, and what is new joins it.
func (c *copier) tagged(ctx context.Context, a attachment) (ocispec.Descriptor, error) {
	if _, err := c.graph(ctx, a.desc); err != nil {
		return a.desc, err
	}
	at, err := c.dst.Resolve(ctx, a.tag)
	if errors.Is(err, errdef.ErrNotFound) || err == nil && at.Digest == a.desc.Digest {
		return a.desc, setTag(ctx, c.dst, a.desc, a.tag)
	}
	if err == nil {
		err = retried(ctx, func() (err error) {
			at, err = sign.Merge(ctx, c.dst, a.tag, a.desc)
			return err
		})
	}
	if err != nil {
		return at, fmt.Errorf("tag %s at target %s: %w", a.tag, where(c.dst), err)
	}
	return at, nil
}
