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

	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/progress"
	"krtpkg.dev/krtpkg/pkg/sign"
	"krtpkg.dev/krtpkg/pkg/tracing"
)

// copier carries out a plan: it finds out what the target has, copies blobs, the largest first,
// then manifests from the bottom up, then what is attached, and sets the tags last.
type copier struct {
	*Plan
	dst    oras.GraphTarget
	report Report

	mu sync.Mutex
	// checkAll is set if every item is asked for, or sent: by option, or since the target has lost something.
	checkAll bool
	// isCompared is set if nothing is written: every image is asked for.
	isCompared bool
	// present holds the items that the target has by now.
	present map[digest.Digest]bool
	// blobSampler decides which blobs are checked for existence, imageSampler which images.
	blobSampler, imageSampler existenceSampler
	// referrersBefore holds the referrers that the target had before, by subject.
	referrersBefore map[digest.Digest][]ocispec.Descriptor

	deltas publishedDeltas
}

// Optional abilities of targets.
type (
	// digestVerifier is a target that refuses content that does not match its digest, as registries
	// must (distribution-spec v1.1, pushing blobs). For other targets the copier checks it.
	digestVerifier interface{ ChecksDigests() }
	// singlePoster is a target that sends small blobs with one request each, which not all registries keep.
	singlePoster interface{ StopSinglePosts() }
	// registryRepository is a repository of a registry.
	registryRepository interface {
		registry.Mounter
		Name() (host, repository string)
	}
)

func newCopier(p *Plan, dst oras.GraphTarget) *copier {
	return &copier{Plan: p, dst: dst, checkAll: p.options.CheckTarget, present: map[digest.Digest]bool{}, referrersBefore: map[digest.Digest][]ocispec.Descriptor{}}
}

func (c *copier) copyPlan(ctx context.Context) error {
	tops := c.topManifests()
	if err := c.findPresent(ctx, tops); err != nil {
		return err
	}
	lacking := c.lackingItems(tops, false)
	if err := checkSpace(c.dst, descriptorsOf(lacking)); err != nil {
		return err
	}
	if err := c.forEach(ctx, lacking, c.copyBlob); err != nil {
		return err
	}
	inside := slices.DeleteFunc(tops, func(t topManifest) bool { return t.attached })
	// A root's closure and signatures may share a list of referrers.
	err := sign.GatherReferrers(ctx, c.dst, func(ctx context.Context) error {
		if err := c.copyManifests(ctx, inside); err != nil {
			return err
		}
		if err := c.copyAttached(ctx); err != nil {
			return err
		}
		return c.relistReferrers(ctx)
	})
	if err != nil {
		return err
	}
	if c.report.Copied > 0 {
		// Somebody else may have published in the meantime.
		if _, err := c.checkTags(ctx, c.dst); err != nil {
			return err
		}
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

// topManifest is a manifest that nothing else in the plan needs, or that was asked for: if the
// target has it, it has everything below.
type topManifest struct {
	desc ocispec.Descriptor
	// subject is the manifest that it refers to.
	subject digest.Digest
	// attached is set if it is not part of a root.
	attached bool
	// known is set if the target is known to have it.
	known bool
	// image is set of an image of a root.
	image bool
}

// topManifests lists the plan's top manifests. Closures come first: a target that has one has all
// of its root.
func (c *copier) topManifests() (list []topManifest) {
	for _, r := range c.roots {
		if r.closure.Digest != "" {
			list = append(list, topManifest{desc: r.closure, subject: r.desc.Digest, known: r.complete})
		}
	}
	for _, r := range c.roots {
		for _, desc := range append(slices.Clone(r.bundles), r.desc) {
			list = append(list, topManifest{desc: c.nodes[desc.Digest].desc, known: r.complete})
		}
		for _, image := range r.images {
			list = append(list, topManifest{desc: c.nodes[image.desc.Digest].desc, image: true})
		}
	}
	for _, a := range c.attached {
		t := topManifest{desc: c.nodes[a.desc.Digest].desc, attached: true}
		if a.tag == "" {
			t.subject = a.subject.Digest
		}
		list = append(list, t)
	}
	return list
}

// findPresent finds the manifests that the target has.
func (c *copier) findPresent(ctx context.Context, tops []topManifest) error {
	closures := 0
	for closures < len(tops) && tops[closures].subject != "" && !tops[closures].attached {
		closures++
	}
	if err := c.findClosures(ctx, tops[:closures]); err != nil {
		return err
	}
	return c.forEach(ctx, tops[closures:], func(ctx context.Context, t topManifest) error {
		if t.known {
			c.markPresent(t.desc)
			return nil
		}
		if t.image && c.maySkipExistenceCheck() && !c.imageSampler.shouldCheck() {
			return nil // what it needs is asked for, or sent
		}
		there, err := c.hasManifest(ctx, t.desc)
		if err == nil && t.image {
			c.imageSampler.addResult(there)
		}
		if err == nil && there && t.subject != "" {
			c.addReferrerBefore(t)
		}
		return err
	})
}

// findClosures finds the closures that the target has. What they name counts as present only once all were looked
// at: one that proves nothing puts the others in doubt.
func (c *copier) findClosures(ctx context.Context, closures []topManifest) error {
	there := make([]bool, len(closures))
	numbers := map[digest.Digest]int{}
	for i, t := range closures {
		numbers[t.desc.Digest] = i
	}
	err := c.forEach(ctx, closures, func(ctx context.Context, t topManifest) (err error) {
		has := t.known
		if !has {
			has, err = c.hasClosure(ctx, t)
		}
		there[numbers[t.desc.Digest]] = has
		return err
	})
	if err != nil {
		return err
	}
	for i, t := range closures {
		if there[i] {
			c.markPresent(t.desc)
			c.addReferrerBefore(t)
		}
	}
	return nil
}

func (c *copier) addReferrerBefore(t topManifest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.referrersBefore[t.subject] = append(c.referrersBefore[t.subject], t.desc)
}

// hasClosure reports whether the target has a closure. Without its root the closure proves nothing:
// the target has lost something, and is asked for everything.
func (c *copier) hasClosure(ctx context.Context, t topManifest) (bool, error) {
	there, err := c.dst.Exists(ctx, t.desc)
	if err == nil && there && !c.options.CheckTarget {
		var whole bool
		if whole, err = c.dst.Exists(ctx, c.nodes[t.subject].desc); err == nil && !whole {
			c.mu.Lock()
			c.checkAll = true
			c.mu.Unlock()
		}
	}
	if err != nil {
		return false, fmt.Errorf("target %s: look for the closure %s: %w", storeName(c.dst), t.desc.Digest, err)
	}
	return there, nil
}

// hasManifest reports whether the target has a manifest. If it lacks an index, or may have lost
// something, it asks for the manifests of the index.
func (c *copier) hasManifest(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	c.mu.Lock()
	there := c.present[desc.Digest]
	c.mu.Unlock()
	if there {
		return true, nil
	}
	there, err := c.dst.Exists(ctx, desc)
	if err != nil {
		return false, fmt.Errorf("target %s: look for %s: %w", storeName(c.dst), desc.Digest, err)
	}
	if there {
		c.markPresent(desc)
	}
	if there && !c.checkAll {
		return true, nil
	}
	for _, next := range c.nodes[desc.Digest].required {
		if c.nodes[next.Digest].data != nil {
			if _, err := c.hasManifest(ctx, c.nodes[next.Digest].desc); err != nil {
				return false, err
			}
		}
	}
	return there, nil
}

func (c *copier) closureOf(d digest.Digest) digest.Digest {
	for _, r := range c.roots {
		if r.closure.Digest == d {
			return d
		}
	}
	return ""
}

// markPresent records that the target has an item, and everything below it unless that is asked for.
func (c *copier) markPresent(desc ocispec.Descriptor) {
	c.mu.Lock()
	known, alone := c.present[desc.Digest], c.checkAll
	c.present[desc.Digest] = true
	c.mu.Unlock()
	if known {
		return
	}
	n := c.nodes[desc.Digest]
	if n == nil {
		atomic.AddInt64(&c.report.Present, 1) // named by the closure, but not read
		return
	}
	c.countItem(&c.report.Present, progress.Skipped, desc)
	if alone {
		return
	}
	for _, next := range n.required {
		c.markPresent(next)
	}
}

// lackingItems returns the items below some manifests, and those manifests, that the target is not
// known to have: the blobs, the largest first, or the manifests, from the bottom up.
func (c *copier) lackingItems(tops []topManifest, manifests bool) (list []topManifest) {
	seen := map[digest.Digest]bool{}
	var visit func(d digest.Digest)
	visit = func(d digest.Digest) {
		n := c.nodes[d]
		if n == nil || seen[d] || c.present[d] && !c.checkAll {
			return
		}
		seen[d] = true
		for _, next := range n.required {
			visit(next.Digest)
		}
		if !c.present[d] && manifests == (n.data != nil) {
			list = append(list, topManifest{desc: n.desc})
		}
	}
	for _, t := range tops {
		visit(t.desc.Digest)
	}
	if !manifests {
		slices.SortStableFunc(list, func(a, b topManifest) int { return cmp.Compare(b.desc.Size, a.desc.Size) })
	}
	return list
}

func (c *copier) forEach(ctx context.Context, list []topManifest, do func(context.Context, topManifest) error) error {
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

// copyBlob copies one blob to the target unless it is there.
func (c *copier) copyBlob(ctx context.Context, t topManifest) (err error) {
	ctx, end := tracing.Start(ctx, "copy blob", tracing.Digest(t.desc.Digest), tracing.Bytes(t.desc.Size))
	defer func() { end(err) }()
	n := c.nodes[t.desc.Digest]
	there, err := c.hasBlob(ctx, n)
	if err != nil {
		return err
	}
	if there {
		c.markPresent(t.desc)
		return nil
	}
	if made, err := c.sendFromDelta(ctx, n); made || err != nil {
		return err
	}
	return c.sendBlob(ctx, n)
}

// sendBlob copies or mounts one blob.
func (c *copier) sendBlob(ctx context.Context, n *planNode) error {
	mounted, err := c.tryBlobTwice(ctx, n)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.present[n.desc.Digest] = true
	c.mu.Unlock()
	if mounted {
		c.countItem(&c.report.Mounted, progress.Mounted, n.desc)
		return nil
	}
	c.countItem(&c.report.Copied, progress.Copied, n.desc)
	return nil
}

// tryBlobTwice copies or mounts one blob, and reports on which side it failed.
func (c *copier) tryBlobTwice(ctx context.Context, n *planNode) (mounted bool, err error) {
	mounted, sent, err := c.tryBlob(ctx, n)
	if _, streamed := n.from.(singleRead); err != nil && isWrongContent(err) && !streamed && ctx.Err() == nil {
		// A byte may have changed in transit. If it happens again, find out on which side.
		mounted, sent, err = c.tryBlobHashed(ctx, n)
	}
	if err != nil {
		return false, c.attributeError(ctx, n, sent, err)
	}
	return mounted, nil
}

func (c *copier) tryBlob(ctx context.Context, n *planNode) (mounted bool, sent *transferBlob, err error) {
	return c.tryBlobWith(ctx, n, nil)
}

// tryBlobHashed is tryBlob that hashes the content on the way.
func (c *copier) tryBlobHashed(ctx context.Context, n *planNode) (mounted bool, sent *transferBlob, err error) {
	return c.tryBlobWith(ctx, n, n.desc.Digest.Verifier())
}

func (c *copier) tryBlobWith(ctx context.Context, n *planNode, judge digest.Verifier) (mounted bool, sent *transferBlob, err error) {
	open := func() (io.ReadCloser, error) {
		content, b, err := c.openBlob(ctx, n)
		sent, b.verifier = b, judge
		return content, err
	}
	if target, from := c.mountSource(n); from != "" {
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

// openBlob opens a blob and records its error in the blob, too.
func (c *copier) openBlob(ctx context.Context, n *planNode) (io.ReadCloser, *transferBlob, error) {
	b := &transferBlob{size: n.desc.Size}
	if b.body, b.err = n.from.Fetch(ctx, n.desc); b.err != nil {
		return nil, b, b.err
	}
	subject := n.desc.Digest.String()
	b.onProgress = func(bytes int64) {
		c.options.Progress.Emit(progress.Event{Kind: progress.Moved, Subject: subject, Bytes: bytes})
	}
	b.onResumed = func(bytes int64) {
		atomic.AddInt64(&c.report.PresentBytes, bytes)
		atomic.AddInt64(&c.report.CopiedBytes, -bytes)
		c.options.Progress.Emit(progress.Event{Kind: progress.Resumed, Subject: subject, Bytes: bytes})
	}
	c.options.Progress.Emit(progress.Event{Kind: progress.Began, Subject: subject, Detail: c.describeItem(n.desc.Digest), Bytes: n.desc.Size})
	_, seeks := b.body.(io.Seeker)
	if _, checks := c.dst.(digestVerifier); !checks {
		b.checker, seeks = n.desc.Digest.Verifier(), false
	}
	if seeks {
		return seekableBlob{b}, b, nil
	}
	return b, b, nil
}

// mountSource returns the target and the name of a repository that it can mount a blob from, or nil.
func (c *copier) mountSource(n *planNode) (registryRepository, string) {
	target, ok := c.dst.(registryRepository)
	from := n.from
	if o, ok := from.(*fallbackFetcher); ok {
		from = o.first
	}
	source, remotely := from.(registryRepository)
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

// attributeError reports on which side an item failed. If the target has complained twice of wrong
// content, reading it once more shows whether the source is at fault.
func (c *copier) attributeError(ctx context.Context, n *planNode, sent *transferBlob, err error) error {
	source := error(nil)
	if sent != nil {
		source = sent.sourceError()
	}
	if source == nil && isWrongContent(err) && n.data == nil {
		right, known := false, false
		if sent != nil {
			right, known = sent.matchesDigest()
		}
		_, streamed := n.from.(singleRead)
		switch {
		case streamed: // a stream checks what it gives
		case !known:
			source = readWhole(ctx, n, func(int) {})
		case !right:
			source = content.ErrMismatchedDigest
		}
	}
	if source != nil {
		return c.itemError(n, source)
	}
	return fmt.Errorf("write %s to target %s: %w", n.desc.Digest, storeName(c.dst), err)
}

// isWrongContent reports whether a target complains of wrong content, or may: registries do not
// agree on a code for it.
func isWrongContent(err error) bool {
	var response *errcode.ErrorResponse
	return errors.Is(err, content.ErrMismatchedDigest) || errors.As(err, &response) && response.StatusCode == http.StatusBadRequest
}

func (c *copier) countItem(counter *int64, kind progress.Kind, desc ocispec.Descriptor) {
	atomic.AddInt64(counter, 1)
	switch kind {
	case progress.Copied:
		atomic.AddInt64(&c.report.CopiedBytes, desc.Size)
	case progress.Skipped:
		atomic.AddInt64(&c.report.PresentBytes, desc.Size)
	}
	c.options.Progress.Emit(progress.Event{Kind: kind, Subject: desc.Digest.String(), Bytes: desc.Size})
}

// copyManifests writes manifests from the bottom up; their blobs are at the target.
func (c *copier) copyManifests(ctx context.Context, tops []topManifest) error {
	lacking := c.lackingItems(tops, true)
	depths := map[digest.Digest]int{}
	var levels [][]topManifest
	for _, t := range lacking { // children come before parents
		depth := 0
		for _, next := range c.nodes[t.desc.Digest].required {
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
		err := c.forEach(ctx, level, func(ctx context.Context, t topManifest) error { return c.copyManifest(ctx, c.nodes[t.desc.Digest]) })
		if err != nil {
			return err
		}
	}
	return nil
}

// copyManifest writes one manifest.
func (c *copier) copyManifest(ctx context.Context, n *planNode) (err error) {
	ctx, end := tracing.Start(ctx, "copy manifest", tracing.Digest(n.desc.Digest), tracing.Bytes(n.desc.Size))
	defer func() { end(err) }()
	err = c.pushManifest(ctx, n)
	if err != nil && isMissingContent(err) {
		// The target claimed content that it does not have, or has lost, or has dropped.
		if dst, ok := c.dst.(singlePoster); ok {
			dst.StopSinglePosts()
		}
		if err = c.resendContent(ctx, n); err == nil {
			err = c.pushManifest(ctx, n)
		}
	}
	if err != nil && isRefusal(err) && hasSubject(n) {
		return c.pushWithoutSubject(ctx, n, err)
	}
	if err != nil {
		return c.attributeError(ctx, n, nil, err)
	}
	c.mu.Lock()
	c.present[n.desc.Digest] = true
	c.mu.Unlock()
	c.countItem(&c.report.Copied, progress.Copied, n.desc)
	return nil
}

// hasSubject reports whether a manifest has a subject.
func hasSubject(n *planNode) bool {
	m, err := oci.ParseManifest(n.data)
	return err == nil && m.Subject != nil
}

// pushManifest tries to write a manifest.
func (c *copier) pushManifest(ctx context.Context, n *planNode) error {
	err := withRetries(ctx, func() error { return c.dst.Push(ctx, n.desc, bytes.NewReader(n.data)) })
	if errors.Is(err, errdef.ErrAlreadyExists) {
		return nil
	}
	return err
}

// resendContent sends everything that a manifest needs, whatever the target claims to have.
func (c *copier) resendContent(ctx context.Context, n *planNode) error {
	for _, next := range n.required {
		below := c.nodes[next.Digest]
		if below == nil {
			continue
		}
		if below.data == nil {
			if _, err := c.tryBlobTwice(ctx, below); err != nil {
				return err
			}
			continue
		}
		if err := c.resendContent(ctx, below); err != nil {
			return err
		}
		if err := c.pushManifest(ctx, below); err != nil {
			return c.attributeError(ctx, below, nil, err)
		}
	}
	return nil
}
