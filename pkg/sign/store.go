package sign

import (
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

// Whoever can push to a repository can make a verifier read, so all of it is capped.
const (
	maxPayload    = 1 << 20 // a simple signing claim
	maxStatement  = 16 << 20
	maxRead       = 256 << 20 // all of them together
	maxSignatures = 1000      // signatures and attestations of one root
)

const dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"

// visit is given every signature and attestation found, or why one cannot be read. Its error
// ends the walk.
type visit func(obj Object, e *envelope, err error) error

// wanted is what a walk looks at.
type wanted bool

const (
	everything     wanted = true
	onlySignatures wanted = false
)

// walker visits what is attached to a root.
type walker struct {
	store oras.ReadOnlyGraphTarget
	root  ocispec.Descriptor
	what  wanted
	see   visit
	seen  int
	read  int64
}

// walk visits all signatures of root, and its attestations too if they are wanted: those under
// tags first, then the referrers by digest. Its own error means that it cannot tell what there
// is.
func walk(ctx context.Context, store oras.ReadOnlyGraphTarget, root ocispec.Descriptor, what wanted, see visit) error {
	w := &walker{store: store, root: root, what: what, see: see}
	tags := []string{Tag(root.Digest)}
	if what == everything {
		tags = append(tags, AttestationTag(root.Digest))
	}
	for _, tag := range tags {
		if err := w.tag(ctx, tag); err != nil {
			return err
		}
	}
	return w.referrers(ctx)
}

func (w *walker) visit(ctx context.Context, obj Object, e *envelope, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if w.what == onlySignatures && e != nil && !e.isSignature() {
		return nil
	}
	if w.seen++; w.seen > maxSignatures {
		return fmt.Errorf("more than %d signatures: %w", maxSignatures, ErrTooMany)
	}
	return w.see(obj, e, err)
}

// fetch reads a signature or an attestation.
func (w *walker) fetch(ctx context.Context, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	if w.read += max(desc.Size, 0); w.read > maxRead && desc.Size <= limit {
		return nil, fmt.Errorf("%s: over the limit of %d bytes for all signatures: %w", desc.Digest, maxRead, ErrTooMany)
	}
	return fetch(ctx, w.store, desc, limit)
}

// tag visits what is under one of cosign's tags.
func (w *walker) tag(ctx context.Context, tag string) error {
	desc, m, err := fetchTagged(ctx, w.store, tag)
	switch {
	case errors.Is(err, errdef.ErrNotFound) && desc.Digest == "":
		return nil
	case err != nil && desc.Digest == "":
		return err
	case err != nil:
		return w.visit(ctx, Object{Form: Legacy, Manifest: desc.Digest}, nil, err)
	}
	return w.layers(ctx, Object{Form: Legacy, Manifest: desc.Digest}, m)
}

// layers visits what is in a Legacy or Referrer manifest.
func (w *walker) layers(ctx context.Context, obj Object, m *ocispec.Manifest) error {
	for i, l := range m.Layers {
		obj.Layer = i
		e, err := w.layer(ctx, l)
		if err := w.visit(ctx, obj, e, err); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) layer(ctx context.Context, l ocispec.Descriptor) (*envelope, error) {
	limit := int64(maxStatement)
	switch l.MediaType {
	case types.SimpleSigningMediaType:
		limit = maxPayload
		if _, err := layerSignature(l); err != nil {
			return nil, err
		}
	case envelopeType:
	default:
		return nil, fmt.Errorf("layer media type %q, want %s", l.MediaType, types.SimpleSigningMediaType)
	}
	content, err := w.fetch(ctx, l, limit)
	if err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	return openLayer(l, content)
}

// fetchTagged reads the manifest that tag names. An error with a descriptor is about that
// manifest; an error without is about the tag.
func fetchTagged(ctx context.Context, store oras.ReadOnlyTarget, tag string) (ocispec.Descriptor, *ocispec.Manifest, error) {
	desc, rc, err := open(ctx, store, tag)
	if err != nil && desc.Digest == "" {
		return ocispec.Descriptor{}, nil, fmt.Errorf("tag %s: %w", tag, err)
	} else if err != nil {
		return desc, nil, fmt.Errorf("manifest: %w", err)
	}
	defer rc.Close()
	if !isManifest(desc.MediaType) {
		return desc, nil, fmt.Errorf("media type %q, want an image manifest", desc.MediaType)
	}
	if err := allowed(desc, oci.MaxManifest); err != nil {
		return desc, nil, fmt.Errorf("manifest: %w", err)
	}
	b, err := content.ReadAll(rc, desc)
	if err != nil {
		return desc, nil, fmt.Errorf("manifest: %w", err)
	}
	m, err := parseManifest(b)
	return desc, m, err
}

// open is oras.Fetch, but a tag whose manifest is missing is an error with a descriptor, so
// that it is not taken for no tag.
func open(ctx context.Context, store oras.ReadOnlyTarget, tag string) (ocispec.Descriptor, io.ReadCloser, error) {
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

// referrers visits the signatures and attestations among root's referrers. A listing may lie or
// be stale, and a layout's predecessors are more than referrers (an index that lists the root
// is one), so that each manifest is read, and its own subject and type count: on a registry
// without the referrers API cosign 2.6 lists its bundles as application/vnd.oci.empty.v1+json.
func (w *walker) referrers(ctx context.Context) error {
	referrers, err := listReferrers(ctx, w.store, w.root)
	if err != nil {
		return fmt.Errorf("list referrers: %w", err)
	}
	for _, desc := range referrers {
		if !isManifest(desc.MediaType) || desc.Digest.Validate() != nil {
			continue
		}
		if err := w.referrer(ctx, desc); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) referrer(ctx context.Context, desc ocispec.Descriptor) error {
	m, err := fetchManifest(ctx, w.store, desc)
	switch {
	case err != nil:
		return w.visit(ctx, Object{Form: Referrer, Manifest: desc.Digest}, nil, err)
	case m.Subject == nil || m.Subject.Digest != w.root.Digest:
		return nil
	case isLayered(m):
		return w.layers(ctx, Object{Form: Referrer, Manifest: desc.Digest}, m)
	case !isBundle(m):
		return nil
	}
	e, err := w.bundle(ctx, m)
	return w.visit(ctx, Object{Form: Bundle, Manifest: desc.Digest}, e, err)
}

// isLayered is true of the Referrer form, of signatures and of attestations.
func isLayered(m *ocispec.Manifest) bool {
	for _, t := range []string{signatureType, attestationType} {
		if m.ArtifactType == t || m.Config.MediaType == t {
			return true
		}
	}
	return false
}

// bundle reads the bundle of a manifest.
func (w *walker) bundle(ctx context.Context, m *ocispec.Manifest) (*envelope, error) {
	if len(m.Layers) != 1 {
		return nil, fmt.Errorf("%d layers, want 1", len(m.Layers))
	}
	raw, err := w.fetch(ctx, m.Layers[0], maxStatement)
	if err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	return openBundle(raw)
}

// listReferrers lists what refers to root, sorted and each once.
func listReferrers(ctx context.Context, store oras.ReadOnlyGraphTarget, root ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	var all []ocispec.Descriptor
	add := func(page []ocispec.Descriptor) error {
		// Foreign ones are not counted: they would be for whoever may push to keep others from
		// verifying.
		for _, desc := range page {
			if !isForeign(desc.ArtifactType) {
				all = append(all, desc)
			}
		}
		if len(all) > maxSignatures {
			return fmt.Errorf("more than %d: %w", maxSignatures, ErrTooMany)
		}
		return nil
	}
	var err error
	if lister, ok := store.(registry.ReferrerLister); ok {
		// By pages, so that an endless listing ends here.
		err = lister.Referrers(ctx, root, "", add)
	} else {
		var page []ocispec.Descriptor
		if page, err = store.Predecessors(ctx, root); err == nil {
			err = add(page)
		}
	}
	slices.SortFunc(all, func(a, b ocispec.Descriptor) int {
		return strings.Compare(a.Digest.String(), b.Digest.String())
	})
	return slices.CompactFunc(all, func(a, b ocispec.Descriptor) bool { return a.Digest == b.Digest }), err
}

// isForeign reports whether a listing says of a referrer that it is neither a signature nor an
// attestation. A listing that lies can hide a signature, as it can by leaving it out.
func isForeign(artifactType string) bool {
	for _, prefix := range []string{signatureType, attestationType, bundlePrefix, "application/vnd.oci.empty.", "application/vnd.oci.image.config."} {
		if strings.HasPrefix(artifactType, prefix) {
			return false
		}
	}
	return artifactType != ""
}

func fetchManifest(ctx context.Context, store content.Fetcher, desc ocispec.Descriptor) (*ocispec.Manifest, error) {
	b, err := fetch(ctx, store, desc, oci.MaxManifest)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	return parseManifest(b)
}

// fetch reads what desc describes, checked against its digest.
func fetch(ctx context.Context, store content.Fetcher, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	if err := allowed(desc, limit); err != nil {
		return nil, err
	}
	b, err := content.FetchAll(ctx, store, desc)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", desc.Digest, err)
	}
	return b, nil
}

func allowed(desc ocispec.Descriptor, limit int64) error {
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
	if err := oci.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	return &m, nil
}

// isManifest is true of image manifests. cosign 2 writes Docker's type when
// COSIGN_DOCKER_MEDIA_TYPES is set.
func isManifest(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageManifest || mediaType == dockerManifest
}
