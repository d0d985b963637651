package transfer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

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
)

// copyAttached copies what is attached, one after the other for each subject: some registries
// lose one of two referrers that are added to a list at the same moment (olareg 0.1.2).
func (c *copier) copyAttached(ctx context.Context) error {
	c.report.Attached = make([]ocispec.Descriptor, len(c.attached))
	bySubject := map[digest.Digest][]int{}
	for i, a := range c.attached {
		bySubject[a.subject.Digest] = append(bySubject[a.subject.Digest], i)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(c.options.Concurrency)
	for _, places := range bySubject {
		group.Go(func() error {
			for _, i := range places {
				if err := c.copyAttachedItem(ctx, i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// copyAttachedItem copies one attached manifest and reports it.
func (c *copier) copyAttachedItem(ctx context.Context, i int) (err error) {
	a := c.attached[i]
	c.report.Attached[i] = a.desc
	c.mu.Lock()
	lacking := c.lackingItems([]topManifest{{desc: a.desc}}, true)
	c.mu.Unlock()
	for _, t := range lacking {
		if err := c.copyManifest(ctx, c.nodes[t.desc.Digest]); err != nil {
			return err
		}
	}
	if a.tag != "" {
		c.report.Attached[i], err = c.tagAttached(ctx, a)
	}
	return err
}

func (c *copier) emitNote(desc ocispec.Descriptor, detail string) {
	c.options.Progress.Emit(progress.Event{Kind: progress.Note, Subject: desc.Digest.String(), Detail: detail})
}

// relistReferrers makes the target list the referrers that it held before. A copy that broke off
// between a referrer and the fallback tag of its subject, or index.json, leaves a referrer that
// nobody finds.
func (c *copier) relistReferrers(ctx context.Context) error {
	for subject, referrers := range c.referrersBefore {
		listed, err := c.dst.Predecessors(ctx, c.nodes[subject].desc)
		if err != nil {
			return fmt.Errorf("list referrers of %s at target %s: %w", subject, storeName(c.dst), err)
		}
		for _, desc := range referrers {
			if slices.ContainsFunc(listed, func(d ocispec.Descriptor) bool { return d.Digest == desc.Digest }) {
				continue
			}
			if err := c.pushManifest(ctx, c.nodes[desc.Digest]); err != nil {
				return c.attributeError(ctx, c.nodes[desc.Digest], nil, err)
			}
		}
	}
	return nil
}

// tagAttached sets one of cosign's tags. The site may have signed too: the target keeps what it
// has under the tag, and new signatures are added.
func (c *copier) tagAttached(ctx context.Context, a attachedItem) (ocispec.Descriptor, error) {
	at, err := c.dst.Resolve(ctx, a.tag)
	if errors.Is(err, errdef.ErrNotFound) || err == nil && at.Digest == a.desc.Digest {
		return a.desc, setTag(ctx, c.dst, a.desc, a.tag)
	}
	if err == nil {
		err = withRetries(ctx, func() (err error) {
			at, err = sign.Merge(ctx, c.dst, a.tag, a.desc)
			return err
		})
	}
	if err != nil {
		return at, fmt.Errorf("tag %s at target %s: %w", a.tag, storeName(c.dst), err)
	}
	return at, nil
}

// setTag sets a tag unless it is already right: registries with immutable tags refuse to write
// the same tag again.
func setTag(ctx context.Context, dst oras.Target, desc ocispec.Descriptor, tag string) error {
	at, err := dst.Resolve(ctx, tag)
	if err == nil && at.Digest == desc.Digest {
		return nil
	}
	if err == nil || errors.Is(err, errdef.ErrNotFound) {
		err = withRetries(ctx, func() error { return dst.Tag(ctx, desc, tag) })
	}
	if err != nil {
		return fmt.Errorf("tag %s at target %s: %w", tag, storeName(dst), err)
	}
	return nil
}

// moveTag sets a tag of a root at a registry, which was asked what the tag names after everything was copied, just before.
// The manifest is at hand: it is sent once more, rather than read back.
func (c *copier) moveTag(ctx context.Context, r *planRoot, tag string) error {
	before, isKnown := r.tagsBefore[tag]
	dst, takesManifest := c.dst.(registry.ReferencePusher)
	data := c.nodes[r.desc.Digest].data
	if c.report.Copied == 0 || !isKnown || !takesManifest || data == nil {
		return setTag(ctx, c.dst, r.desc, tag)
	}
	if before == r.desc.Digest {
		return nil
	}
	err := withRetries(ctx, func() error { return dst.PushReference(ctx, r.desc, bytes.NewReader(data), tag) })
	if err != nil {
		return fmt.Errorf("tag %s at target %s: %w", tag, storeName(c.dst), err)
	}
	return nil
}

// tagRoot sets a tag of a root. A folder records the platforms that the root is limited to.
func (c *copier) tagRoot(ctx context.Context, r *planRoot, tag string) error {
	type folder interface {
		platformLimiter
		TagPlatforms(ctx context.Context, desc ocispec.Descriptor, tag string, platforms []string) error
	}
	dst, ok := c.dst.(folder)
	if !ok {
		return c.moveTag(ctx, r, tag)
	}
	at, err := c.dst.Resolve(ctx, tag)
	before, limitErr := dst.PlatformsOf(r.desc.Digest)
	limit := r.platforms
	if len(limit) > 0 {
		isWhole, err := c.hasWholeRoot(ctx, r)
		if err != nil {
			return err
		}
		limit = slices.Compact(slices.Sorted(slices.Values(slices.Concat(before, limit))))
		if isWhole {
			limit = nil
		}
	}
	if err == nil && limitErr == nil && at.Digest == r.desc.Digest && slices.Equal(before, limit) {
		return nil
	}
	if err := dst.TagPlatforms(ctx, r.desc, tag, limit); err != nil {
		return fmt.Errorf("tag %s at target %s: %w", tag, storeName(c.dst), err)
	}
	return nil
}

// hasWholeRoot reports whether the target has the manifests of a limited root for all platforms: it had it before, or
// the rest came from elsewhere.
func (c *copier) hasWholeRoot(ctx context.Context, r *planRoot) (bool, error) {
	look := []ocispec.Descriptor{r.desc}
	look = append(look, r.bundles...)
	for _, image := range r.images {
		look = append(look, image.desc)
	}
	seen := map[digest.Digest]bool{}
	for len(look) > 0 {
		n := c.nodes[look[0].Digest]
		look = look[1:]
		if n == nil || n.data == nil || seen[n.desc.Digest] {
			continue
		}
		seen[n.desc.Digest] = true
		m, err := oci.ParseManifest(n.data)
		if err != nil {
			return false, fmt.Errorf("invalid manifest %s: %w", n.desc.Digest, err)
		}
		for _, next := range requiredBy(n.desc.MediaType, m) {
			if !oci.IsManifest(next.MediaType) {
				continue
			}
			there, err := c.dst.Exists(ctx, next)
			if err != nil || !there {
				return false, err
			}
			look = append(look, next)
		}
	}
	return true, nil
}

// pushWithoutSubject writes a referrer to a registry that accepts none: without the fields of
// distribution-spec 1.1, under a tag that names its subject. A closure that is refused even then,
// since it is an index of indexes, is left out. Either way a note reports it.
func (c *copier) pushWithoutSubject(ctx context.Context, n *planNode, refused error) error {
	m, err := oci.ParseManifest(n.data)
	if err != nil || m.Subject == nil {
		return errors.Join(refused, err)
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(n.data, &fields); err != nil {
		return errors.Join(refused, err)
	}
	suffix := "." + n.desc.Digest.Encoded()[:12]
	isClosure := c.closureOf(n.desc.Digest) != ""
	if isClosure {
		suffix = ".closure"
	}
	delete(fields, "subject")
	delete(fields, "artifactType")
	data, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	desc := content.NewDescriptorFromBytes(n.desc.MediaType, data)
	tag := strings.ReplaceAll(m.Subject.Digest.String(), ":", "-") + suffix
	err = withRetries(ctx, func() error { return c.dst.Push(ctx, desc, bytes.NewReader(data)) })
	if err == nil || errors.Is(err, errdef.ErrAlreadyExists) {
		err = setTag(ctx, c.dst, desc, tag)
	}
	switch {
	case err == nil:
		c.emitNote(n.desc, fmt.Sprintf("was refused by %s, which accepts no referrers (%v): stored without its subject under tag %s", storeName(c.dst), refused, tag))
	case isClosure && isRefusal(err):
		c.emitNote(n.desc, fmt.Sprintf("was refused by %s (%v): nothing protects the images there from garbage collection", storeName(c.dst), err))
	default:
		return fmt.Errorf("write %s to target %s: %w", n.desc.Digest, storeName(c.dst), err)
	}
	return nil
}

// isRefusal reports whether a registry understood a manifest and rejects it, whoever pushes it.
func isRefusal(err error) bool {
	if errors.Is(err, errdef.ErrUnsupported) {
		return true
	}
	var response *errcode.ErrorResponse
	if !errors.As(err, &response) {
		return false
	}
	switch response.StatusCode {
	case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotAcceptable,
		http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity, http.StatusNotImplemented:
		return true
	}
	return false
}

// isMissingContent reports whether a registry refused a manifest because it lacks content of it.
func isMissingContent(err error) bool {
	var response *errcode.ErrorResponse
	return errors.As(err, &response) && slices.ContainsFunc(response.Errors, func(e errcode.Error) bool {
		return e.Code == errcode.ErrorCodeManifestBlobUnknown || e.Code == errcode.ErrorCodeBlobUnknown || e.Code == errcode.ErrorCodeManifestUnknown
	})
}
