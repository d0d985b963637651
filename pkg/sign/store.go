package sign

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sigstore/cosign/v2/pkg/types"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry"

	"krtpkg.dev/krtpkg/pkg/oci"
)

// Anyone who can push to a repository makes verifiers read, so everything is limited.
const (
	maxClaim      = 1 << 20 // a simple signing claim
	maxStatement  = 16 << 20
	maxTotalBytes = 256 << 20 // all of them together
	maxManifests  = 32 << 20  // manifests that are kept in memory
	// maxSignatures is how many signatures and attestations of one root are examined in any case, and
	// maxExamined while those do not suffice.
	maxSignatures = 1000
	maxExamined   = 5000
)

// signatureVisitor receives every signature and attestation found, or the error of one that cannot
// be read. Its own error ends the walk.
type signatureVisitor func(obj Object, e *envelope, err error) error

// walkScope selects what a walk visits.
type walkScope bool

const (
	allAttached    walkScope = true
	onlySignatures walkScope = false
)

// signatureWalker visits what is attached to a root. Whoever may push can attach as much as they like, and
// what proves nothing must not displace what does: small ones come first, and what is over the
// limits is left.
type signatureWalker struct {
	store   oras.ReadOnlyGraphTarget
	root    ocispec.Descriptor
	scope   walkScope
	visitor signatureVisitor
	// suffices reports whether what was seen is enough; nil for never.
	suffices func() bool

	visited, left int
	// bytesRead counts the bytes of signatures and attestations, manifestBytes those of their manifests.
	bytesRead, manifestBytes int64
}

// walk visits all signatures of root, and its attestations too if they are wanted: those under
// tags first, then the referrers, the smallest first. Its own error means that it cannot tell what
// there is.
func (w *signatureWalker) walk(ctx context.Context) error {
	root, what := w.root, w.scope
	tags := []string{Tag(root.Digest)}
	if what == allAttached {
		tags = append(tags, AttestationTag(root.Digest))
	}
	for _, tag := range tags {
		if err := w.walkTag(ctx, tag); err != nil {
			return err
		}
	}
	return w.walkReferrers(ctx)
}

func (w *signatureWalker) visitSignature(ctx context.Context, obj Object, e *envelope, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if w.scope == onlySignatures && e != nil && !e.isSignature() {
		return nil
	}
	w.visited++
	return w.visitor(obj, e, err)
}

// examined is how many signatures are examined: more, while what was seen does not suffice.
func (w *signatureWalker) examined() int {
	if w.suffices != nil && w.suffices() {
		return maxSignatures
	}
	return maxExamined
}

// isFull reports whether no more is examined.
func (w *signatureWalker) isFull() bool {
	return w.visited >= maxSignatures && w.visited >= w.examined()
}

// fetchContent reads a signature, an attestation or a manifest of one, of which so much was read.
func (w *signatureWalker) fetchContent(ctx context.Context, desc ocispec.Descriptor, limit int64, read *int64) ([]byte, error) {
	size := max(desc.Size, 0)
	if *read+size > maxTotalBytes && size <= limit {
		return nil, fmt.Errorf("%s: over the limit of %d bytes for all signatures: %w", desc.Digest, maxTotalBytes, ErrTooMany)
	}
	*read += min(size, limit)
	return fetchVerified(ctx, w.store, desc, limit)
}

// walkTag visits the manifest under one of cosign's tags.
func (w *signatureWalker) walkTag(ctx context.Context, tag string) error {
	desc, m, err := fetchTaggedManifest(ctx, w.store, tag)
	switch {
	case errors.Is(err, errdef.ErrNotFound) && desc.Digest == "":
		return nil
	case err != nil && desc.Digest == "":
		return err
	case err != nil:
		return w.visitSignature(ctx, Object{Form: Legacy, Manifest: desc.Digest}, nil, err)
	}
	return w.walkLayers(ctx, Object{Form: Legacy, Manifest: desc.Digest}, m)
}

// walkLayers visits the layers of a Legacy or Referrer manifest.
func (w *signatureWalker) walkLayers(ctx context.Context, obj Object, m *ocispec.Manifest) error {
	for i, l := range m.Layers {
		if w.isFull() {
			w.left += len(m.Layers) - i
			return nil
		}
		obj.Layer = i
		e, err := w.readLayer(ctx, l)
		if err := w.visitSignature(ctx, obj, e, err); err != nil {
			return err
		}
	}
	return nil
}

func (w *signatureWalker) readLayer(ctx context.Context, l ocispec.Descriptor) (*envelope, error) {
	limit := int64(maxStatement)
	switch l.MediaType {
	case types.SimpleSigningMediaType:
		limit = maxClaim
		if _, err := decodeSignature(l); err != nil {
			return nil, err
		}
	case mediaTypeDSSE:
	default:
		return nil, fmt.Errorf("layer media type %q, want %s", l.MediaType, types.SimpleSigningMediaType)
	}
	content, err := w.fetchContent(ctx, l, limit, &w.bytesRead)
	if err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	return openLegacyLayer(l, content)
}

// fetchTaggedManifest reads the manifest that tag names. An error with a descriptor is about that
// manifest; an error without is about the tag.
func fetchTaggedManifest(ctx context.Context, store oras.ReadOnlyTarget, tag string) (ocispec.Descriptor, *ocispec.Manifest, error) {
	desc, rc, err := openTagged(ctx, store, tag)
	if err != nil && desc.Digest == "" {
		return ocispec.Descriptor{}, nil, fmt.Errorf("tag %s: %w", tag, err)
	} else if err != nil {
		return desc, nil, fmt.Errorf("manifest: %w", err)
	}
	defer rc.Close()
	// cosign 2 writes Docker's media type when COSIGN_DOCKER_MEDIA_TYPES is set.
	if !oci.IsImageManifest(desc.MediaType) {
		return desc, nil, fmt.Errorf("media type %q, want an image manifest", desc.MediaType)
	}
	if err := checkSizeLimit(desc, oci.MaxManifest); err != nil {
		return desc, nil, fmt.Errorf("manifest: %w", err)
	}
	b, err := content.ReadAll(rc, desc)
	if err != nil {
		return desc, nil, fmt.Errorf("manifest: %w", err)
	}
	m, err := parseManifest(b)
	return desc, m, err
}

// openTagged is oras.Fetch, except that a tag without its manifest is an error with a descriptor,
// which tells it from a missing tag.
func openTagged(ctx context.Context, store oras.ReadOnlyTarget, tag string) (ocispec.Descriptor, io.ReadCloser, error) {
	if f, ok := store.(registry.ReferenceFetcher); ok {
		return f.FetchReference(ctx, tag)
	}
	desc, err := store.Resolve(ctx, tag)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	rc, err := store.Fetch(ctx, desc)
	return desc, rc, err
}

// walkReferrers visits the signatures and attestations among root's referrers. A listing may lie or
// be stale, and a layout's predecessors are more than referrers (an index that lists the root
// is one), so each manifest is read, and its own subject and type decide: on a registry
// without the referrers API cosign 2.6 lists its bundles as application/vnd.oci.empty.v1+json.
func (w *signatureWalker) walkReferrers(ctx context.Context) error {
	referrers, err := listReferrers(ctx, w.store, w.root)
	if err != nil {
		return fmt.Errorf("list referrers: %w", err)
	}
	candidates, err := w.readCandidates(ctx, referrers)
	if err != nil {
		return err
	}
	for i, c := range candidates {
		if w.isFull() {
			w.left += len(candidates) - i
			break
		}
		if err := w.walkReferrer(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// candidate is a referrer that may hold signatures.
type candidate struct {
	desc ocispec.Descriptor
	// manifest is nil where it is not kept, and err says why it can't be read.
	manifest *ocispec.Manifest
	err      error
	// size is how many bytes it names.
	size int64
}

// readCandidates reads the manifests of referrers, as many as are examined, and puts them in the order of
// what they name.
func (w *signatureWalker) readCandidates(ctx context.Context, referrers []ocispec.Descriptor) (all []candidate, err error) {
	limit, kept := w.examined(), int64(0)
	for i, desc := range referrers {
		if !oci.IsImageManifest(desc.MediaType) || desc.Digest.Validate() != nil {
			continue
		}
		if len(all) >= limit {
			w.left += len(referrers) - i
			break
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		c := candidate{desc: desc}
		if c.manifest, c.err = w.readManifest(ctx, desc); c.err == nil {
			for _, l := range c.manifest.Layers {
				c.size += max(l.Size, 0)
			}
			if kept += desc.Size; kept > maxManifests {
				c.manifest = nil
			}
		}
		all = append(all, c)
	}
	slices.SortStableFunc(all, func(a, b candidate) int { return cmp.Compare(a.size, b.size) })
	return all, nil
}

// readManifest reads the manifest of a referrer.
func (w *signatureWalker) readManifest(ctx context.Context, desc ocispec.Descriptor) (*ocispec.Manifest, error) {
	b, err := w.fetchContent(ctx, desc, oci.MaxManifest, &w.manifestBytes)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	return parseManifest(b)
}

func (w *signatureWalker) walkReferrer(ctx context.Context, c candidate) error {
	desc, m, err := c.desc, c.manifest, c.err
	if m == nil && err == nil {
		m, err = w.readManifest(ctx, desc)
	}
	switch {
	case err != nil:
		return w.visitSignature(ctx, Object{Form: Referrer, Manifest: desc.Digest}, nil, err)
	case m.Subject == nil || m.Subject.Digest != w.root.Digest:
		return nil
	case isReferrerForm(m):
		return w.walkLayers(ctx, Object{Form: Referrer, Manifest: desc.Digest}, m)
	case !isBundle(m):
		return nil
	}
	e, err := w.readBundle(ctx, m)
	return w.visitSignature(ctx, Object{Form: Bundle, Manifest: desc.Digest}, e, err)
}

// isReferrerForm reports whether m holds signatures or attestations in the Referrer form.
func isReferrerForm(m *ocispec.Manifest) bool {
	for _, t := range []string{artifactTypeSignature, artifactTypeAttestation} {
		if m.ArtifactType == t || m.Config.MediaType == t {
			return true
		}
	}
	return false
}

// readBundle reads the bundle of a manifest.
func (w *signatureWalker) readBundle(ctx context.Context, m *ocispec.Manifest) (*envelope, error) {
	if len(m.Layers) != 1 {
		return nil, fmt.Errorf("%d layers, want 1", len(m.Layers))
	}
	raw, err := w.fetchContent(ctx, m.Layers[0], maxStatement, &w.bytesRead)
	if err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	return openBundle(raw)
}

// listReferrers lists what refers to root, the smallest manifests first, each once.
func listReferrers(ctx context.Context, store oras.ReadOnlyGraphTarget, root ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	var all []ocispec.Descriptor
	add := func(page []ocispec.Descriptor) error {
		// Foreign referrers do not count: otherwise anyone who can push could prevent verification.
		for _, desc := range page {
			if !isForeign(desc.ArtifactType) {
				all = append(all, desc)
			}
		}
		if len(all) > oci.MaxListed {
			return fmt.Errorf("more than %d: %w", oci.MaxListed, ErrTooMany)
		}
		return nil
	}
	var err error
	if lister, ok := store.(registry.ReferrerLister); ok {
		// Page by page, so that an endless listing ends at the limit.
		err = lister.Referrers(ctx, root, "", add)
	} else {
		var page []ocispec.Descriptor
		if page, err = store.Predecessors(ctx, root); err == nil {
			err = add(page)
		}
	}
	slices.SortFunc(all, func(a, b ocispec.Descriptor) int {
		return cmp.Or(cmp.Compare(a.Size, b.Size), strings.Compare(a.Digest.String(), b.Digest.String()))
	})
	return slices.CompactFunc(all, func(a, b ocispec.Descriptor) bool { return a.Digest == b.Digest }), err
}

// isForeign reports whether a listing declares a referrer to be neither a signature nor an
// attestation. A false listing can hide a signature this way, as it can by omitting it.
func isForeign(artifactType string) bool {
	for _, prefix := range []string{artifactTypeSignature, artifactTypeAttestation, mediaTypeBundlePrefix, "application/vnd.oci.empty.", "application/vnd.oci.image.config."} {
		if strings.HasPrefix(artifactType, prefix) {
			return false
		}
	}
	return artifactType != ""
}

func fetchManifest(ctx context.Context, store content.Fetcher, desc ocispec.Descriptor) (*ocispec.Manifest, error) {
	b, err := fetchVerified(ctx, store, desc, oci.MaxManifest)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	return parseManifest(b)
}

// fetchVerified reads the content of desc and verifies its digest.
func fetchVerified(ctx context.Context, store content.Fetcher, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	if err := checkSizeLimit(desc, limit); err != nil {
		return nil, err
	}
	b, err := content.FetchAll(ctx, store, desc)
	if errors.Is(err, content.ErrMismatchedDigest) && ctx.Err() == nil {
		b, err = content.FetchAll(ctx, store, desc) // a byte may have changed on the way
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", desc.Digest, err)
	}
	return b, nil
}

func checkSizeLimit(desc ocispec.Descriptor, limit int64) error {
	if err := desc.Digest.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w", desc.Digest, err)
	}
	if desc.Size > limit {
		return fmt.Errorf("%s: %d bytes, the limit is %d: %w", desc.Digest, desc.Size, limit, errdef.ErrSizeExceedsLimit)
	}
	return nil
}

func parseManifest(b []byte) (*ocispec.Manifest, error) {
	var m ocispec.Manifest
	if err := oci.UnmarshalJSON(b, &m); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	return &m, nil
}
