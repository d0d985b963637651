package transfer

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
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
	"oras.land/oras-go/v2/registry/remote/errcode"

	"krtpkg.dev/krtpkg/pkg/progress"
	"krtpkg.dev/krtpkg/pkg/sign"
)

// copier carries a plan out: it asks what the target has, moves blobs, the largest first, then
// manifests from the bottom up, then what is attached, then the tags.
type copier struct {
	*Plan
	dst    oras.GraphTarget
	report Report

	mu sync.Mutex
	// there are the items that the target had, or has by now.
	there map[digest.Digest]bool
	// before are the referrers that the target held before, by their subjects.
	before map[digest.Digest][]ocispec.Descriptor
}

// Targets that can do more than the least.
type (
	// checker is a target that refuses content which is not what its digest says, as
	// registries must (distribution-spec v1.1, pushing blobs). For others it is checked here.
	checker interface{ ChecksDigests() }
	// repository is one of a registry's.
	repository interface {
		registry.Mounter
		Name() (host, repository string)
	}
)

func newCopier(p *Plan, dst oras.GraphTarget) *copier {
	return &copier{Plan: p, dst: dst, there: map[digest.Digest]bool{}, before: map[digest.Digest][]ocispec.Descriptor{}}
}

func (c *copier) copy(ctx context.Context) error {
	tops := c.tops()
	if err := c.compare(ctx, tops); err != nil {
		return err
	}
	if err := c.each(ctx, c.lacking(tops, false), c.blob); err != nil {
		return err
	}
	inside := slices.DeleteFunc(tops, func(t top) bool { return t.attached })
	// A root's closure and signatures may share a list of referrers.
	err := sign.GatherReferrers(ctx, c.dst, func(ctx context.Context) error {
		if err := c.manifests(ctx, inside); err != nil {
			return err
		}
		if err := c.attachments(ctx); err != nil {
			return err
		}
		return c.list(ctx)
	})
	if err != nil {
		return err
	}
	for _, r := range c.roots {
		for _, tag := range r.Tags {
			if err := c.tagRoot(ctx, r, tag); err != nil {
				return err
			}
		}
	}
	return nil
}

// top is a manifest that nothing else in the plan needs, or that is asked for by itself: if the
// target has it, it has everything below.
type top struct {
	desc ocispec.Descriptor
	// subject is what it is a referrer of.
	subject digest.Digest
	// attached says that it is no part of a root.
	attached bool
	// known says that the target has it, without asking.
	known bool
}

// tops are all that there are. Closures come first: who has one has all of its root.
func (c *copier) tops() (list []top) {
	for _, r := range c.roots {
		if r.closure.Digest != "" {
			list = append(list, top{desc: r.closure, subject: r.desc.Digest, known: r.complete})
		}
	}
	for _, r := range c.roots {
		for _, desc := range append(slices.Clone(r.bundles), r.desc) {
			list = append(list, top{desc: c.nodes[desc.Digest].desc, known: r.complete})
		}
		for _, image := range r.named {
			list = append(list, top{desc: c.nodes[image.desc.Digest].desc})
		}
	}
	for _, a := range c.attached {
		t := top{desc: c.nodes[a.desc.Digest].desc, attached: true}
		if a.tag == "" {
			t.subject = a.subject.Digest
		}
		list = append(list, t)
	}
	return list
}

// compare finds out which manifests the target has.
func (c *copier) compare(ctx context.Context, tops []top) error {
	closures := 0
	for closures < len(tops) && tops[closures].subject != "" && !tops[closures].attached {
		closures++
	}
	for _, part := range [][]top{tops[:closures], tops[closures:]} {
		err := c.each(ctx, part, func(ctx context.Context, t top) error {
			there := t.known
			var err error
			if there {
				c.present(t.desc)
			} else {
				there, err = c.has(ctx, t.desc)
			}
			if err == nil && there && t.subject != "" {
				c.mu.Lock()
				c.before[t.subject] = append(c.before[t.subject], t.desc)
				c.mu.Unlock()
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// has asks whether the target has a manifest, and of an index that it lacks which of its
// manifests it has.
func (c *copier) has(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	c.mu.Lock()
	there := c.there[desc.Digest]
	c.mu.Unlock()
	if there {
		return true, nil
	}
	there, err := c.dst.Exists(ctx, desc)
	if err != nil {
		return false, fmt.Errorf("target %s: look for %s: %w", where(c.dst), desc.Digest, err)
	}
	if there {
		c.present(desc)
		return true, nil
	}
	if desc.Digest == c.closureOf(desc.Digest) {
		return false, nil // what it names is asked for anyway
	}
	for _, next := range c.nodes[desc.Digest].next {
		if c.nodes[next.Digest].data != nil {
			if _, err := c.has(ctx, c.nodes[next.Digest].desc); err != nil {
				return false, err
			}
		}
	}
	return false, nil
}

func (c *copier) closureOf(d digest.Digest) digest.Digest {
	for _, r := range c.roots {
		if r.closure.Digest == d {
			return d
		}
	}
	return ""
}

// present notes that the target has a manifest, and so what is below it.
func (c *copier) present(desc ocispec.Descriptor) {
	c.mu.Lock()
	known := c.there[desc.Digest]
	c.there[desc.Digest] = true
	c.mu.Unlock()
	if known {
		return
	}
	n := c.nodes[desc.Digest]
	if n == nil {
		atomic.AddInt64(&c.report.Present, 1) // the closure names it, and nothing of it was read
		return
	}
	c.count(&c.report.Present, progress.Skipped, desc)
	for _, next := range n.next {
		c.present(next)
	}
}

// lacking are the items below some manifests, themselves included, that the target is not
// known to have: the blobs, the largest first, or the manifests, from the bottom up.
func (c *copier) lacking(tops []top, manifests bool) (list []top) {
	seen := map[digest.Digest]bool{}
	var visit func(d digest.Digest)
	visit = func(d digest.Digest) {
		n := c.nodes[d]
		if n == nil || seen[d] || c.there[d] {
			return
		}
		seen[d] = true
		for _, next := range n.next {
			visit(next.Digest)
		}
		if manifests == (n.data != nil) {
			list = append(list, top{desc: n.desc})
		}
	}
	for _, t := range tops {
		visit(t.desc.Digest)
	}
	if !manifests {
		slices.SortStableFunc(list, func(a, b top) int { return cmp.Compare(b.desc.Size, a.desc.Size) })
	}
	return list
}

func (c *copier) each(ctx context.Context, list []top, do func(context.Context, top) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(c.options.Concurrency)
	for _, t := range list {
		group.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return do(ctx, t)
		})
	}
	return group.Wait()
}

// blob brings one blob to the target, unless it is there.
func (c *copier) blob(ctx context.Context, t top) error {
	there, err := c.dst.Exists(ctx, t.desc)
	if err != nil {
		return fmt.Errorf("target %s: look for %s: %w", where(c.dst), t.desc.Digest, err)
	}
	if there {
		c.present(t.desc)
		return nil
	}
	return c.send(ctx, c.nodes[t.desc.Digest])
}

// send moves one blob, or has the registry mount it.
func (c *copier) send(ctx context.Context, n *node) error {
	mounted, sent, err := c.try(ctx, n)
	if _, streamed := n.from.(once); err != nil && isWrongContent(err) && !streamed && ctx.Err() == nil {
		// A byte may have changed on the way. Who is to blame shows when it happens twice.
		mounted, sent, err = c.tryJudged(ctx, n)
	}
	if err != nil {
		return c.blame(ctx, n, sent, err)
	}
	c.mu.Lock()
	c.there[n.desc.Digest] = true
	c.mu.Unlock()
	if mounted {
		c.count(&c.report.Mounted, progress.Mounted, n.desc)
		return nil
	}
	c.count(&c.report.Copied, progress.Copied, n.desc)
	atomic.AddInt64(&c.report.CopiedBytes, n.desc.Size)
	return nil
}

func (c *copier) try(ctx context.Context, n *node) (mounted bool, sent *blob, err error) {
	return c.tryWith(ctx, n, nil)
}

// tryJudged is try with the content hashed on the way.
func (c *copier) tryJudged(ctx context.Context, n *node) (mounted bool, sent *blob, err error) {
	return c.tryWith(ctx, n, n.desc.Digest.Verifier())
}

func (c *copier) tryWith(ctx context.Context, n *node, judge digest.Verifier) (mounted bool, sent *blob, err error) {
	open := func() (io.ReadCloser, error) {
		content, b, err := c.open(ctx, n)
		sent, b.judge = b, judge
		return content, err
	}
	if target, from := c.mount(n); from != "" {
		err := target.Mount(ctx, n.desc, from, open)
		return err == nil && sent == nil, sent, err
	}
	content, err := open()
	if err != nil {
		return false, sent, err
	}
	defer content.Close()
	if err = c.dst.Push(ctx, n.desc, content); errors.Is(err, errdef.ErrAlreadyExists) {
		err = nil
	}
	return false, sent, err
}

// open opens a blob. Its error is in the blob too.
func (c *copier) open(ctx context.Context, n *node) (io.ReadCloser, *blob, error) {
	b := &blob{size: n.desc.Size}
	if b.body, b.err = n.from.Fetch(ctx, n.desc); b.err != nil {
		return nil, b, b.err
	}
	subject := n.desc.Digest.String()
	b.moved = func(bytes int64) {
		c.options.Progress.Emit(progress.Event{Kind: progress.Moved, Subject: subject, Bytes: bytes})
	}
	c.options.Progress.Emit(progress.Event{Kind: progress.Began, Subject: subject, Bytes: n.desc.Size})
	_, seeks := b.body.(io.Seeker)
	if _, checks := c.dst.(checker); !checks {
		b.hash, seeks = n.desc.Digest.Verifier(), false
	}
	if seeks {
		return seekable{b}, b, nil
	}
	return b, b, nil
}

// mount gives the repository that the target can mount a blob from, or none.
func (c *copier) mount(n *node) (repository, string) {
	target, ok := c.dst.(repository)
	from := n.from
	if o, ok := from.(*overlay); ok {
		from = o.first
	}
	source, remotely := from.(repository)
	if !ok || !remotely {
		return nil, ""
	}
	targetHost, targetName := target.Name()
	host, name := source.Name()
	if host != targetHost || name == targetName {
		return nil, ""
	}
	return target, name
}

// blame says on which side an item failed. Of wrong bytes the target has complained twice, and
// reading them once more shows whose they are.
func (c *copier) blame(ctx context.Context, n *node, sent *blob, err error) error {
	source := error(nil)
	if sent != nil {
		source = sent.failed()
	}
	if source == nil && isWrongContent(err) && n.data == nil {
		right, known := false, false
		if sent != nil {
			right, known = sent.isRight()
		}
		switch {
		case !known:
			source = readWhole(ctx, n)
		case !right:
			source = content.ErrMismatchedDigest
		}
	}
	if source != nil {
		return fmt.Errorf("read %s from source %s: %w", n.desc.Digest, where(n.from), source)
	}
	return fmt.Errorf("write %s to target %s: %w", n.desc.Digest, where(c.dst), err)
}

// isWrongContent says whether a target complains of what it was given, or may: registries
// have no one code for it.
func isWrongContent(err error) bool {
	var response *errcode.ErrorResponse
	return errors.Is(err, content.ErrMismatchedDigest) || errors.As(err, &response) && response.StatusCode == http.StatusBadRequest
}

func (c *copier) count(counter *int64, kind progress.Kind, desc ocispec.Descriptor) {
	atomic.AddInt64(counter, 1)
	c.options.Progress.Emit(progress.Event{Kind: kind, Subject: desc.Digest.String(), Bytes: desc.Size})
}

// manifests brings manifests to the target, whose blobs are there, from the bottom up.
func (c *copier) manifests(ctx context.Context, tops []top) error {
	lacking := c.lacking(tops, true)
	depths := map[digest.Digest]int{}
	var levels [][]top
	for _, t := range lacking { // below comes before above
		depth := 0
		for _, next := range c.nodes[t.desc.Digest].next {
			if d, ok := depths[next.Digest]; ok {
				depth = max(depth, d+1)
			}
		}
		depths[t.desc.Digest] = depth
		for len(levels) <= depth {
			levels = append(levels, nil)
		}
		levels[depth] = append(levels[depth], t)
	}
	for _, level := range levels {
		err := c.each(ctx, level, func(ctx context.Context, t top) error { return c.manifest(ctx, c.nodes[t.desc.Digest]) })
		if err != nil {
			return err
		}
	}
	return nil
}

// manifest writes one manifest.
func (c *copier) manifest(ctx context.Context, n *node) error {
	err := c.put(ctx, n)
	if err != nil && lacksContent(err) {
		// The target said that it had something, and has not, or not any longer.
		if err = c.again(ctx, n); err == nil {
			err = c.put(ctx, n)
		}
	}
	if err != nil && isRefusal(err) && refers(n) {
		return c.byTag(ctx, n, err)
	}
	if err != nil {
		return c.blame(ctx, n, nil, err)
	}
	c.mu.Lock()
	c.there[n.desc.Digest] = true
	c.mu.Unlock()
	c.count(&c.report.Copied, progress.Copied, n.desc)
	atomic.AddInt64(&c.report.CopiedBytes, n.desc.Size)
	return nil
}

// refers says whether a manifest has a subject.
func refers(n *node) bool {
	m, err := parse(n.data)
	return err == nil && m.Subject != nil
}

// put tries to write a manifest.
func (c *copier) put(ctx context.Context, n *node) error {
	err := retried(ctx, func() error { return c.dst.Push(ctx, n.desc, bytes.NewReader(n.data)) })
	if errors.Is(err, errdef.ErrAlreadyExists) {
		return nil
	}
	return err
}

// again sends what a manifest needs, whatever the target says that it has.
func (c *copier) again(ctx context.Context, n *node) error {
	for _, next := range n.next {
		below := c.nodes[next.Digest]
		if below == nil {
			continue
		}
		if below.data == nil {
			if _, sent, err := c.try(ctx, below); err != nil {
				return c.blame(ctx, below, sent, err)
			}
			continue
		}
		if err := c.again(ctx, below); err != nil {
			return err
		}
		if err := c.put(ctx, below); err != nil {
			return c.blame(ctx, below, nil, err)
		}
	}
	return nil
}
