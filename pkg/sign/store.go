package sign

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry"
)

// Whoever can push to a repository can make a verifier read, so all of it is capped.
const (
	maxManifest   = 4 << 20 // what registries take, by the distribution spec's advice
	maxPayload    = 1 << 20
	maxSignatures = 1000 // signatures, and referrers of any kind, of one root
)

const dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"

// visit is given every signature found, or why one cannot be read. Its error ends the walk.
type visit func(obj Object, sig envelope, err error) error

// walk visits all signatures of root, the tag's first, then the referrers' by digest. Its own
// error means that it cannot tell what there is.
func walk(ctx context.Context, store oras.ReadOnlyGraphTarget, root ocispec.Descriptor, see visit) error {
	seen := 0
	counted := func(obj Object, sig envelope, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if seen++; seen > maxSignatures {
			return fmt.Errorf("more than %d signatures: %w", maxSignatures, ErrTooMany)
		}
		return see(obj, sig, err)
	}
	if err := walkTag(ctx, store, root, counted); err != nil {
		return err
	}
	return walkReferrers(ctx, store, root, counted)
}

// walkTag visits the signatures under the Legacy tag.
func walkTag(ctx context.Context, store oras.ReadOnlyGraphTarget, root ocispec.Descriptor, see visit) error {
	desc, m, err := fetchTagged(ctx, store, Tag(root.Digest))
	switch {
	case errors.Is(err, errdef.ErrNotFound) && desc.Digest == "":
		return nil
	case err != nil && desc.Digest == "":
		return err
	case err != nil:
		return see(Object{Form: Legacy, Manifest: desc.Digest}, nil, err)
	}
	return walkLayers(ctx, store, Object{Form: Legacy, Manifest: desc.Digest}, m, see)
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
	if err := allowed(desc, maxManifest); err != nil {
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

// walkReferrers visits the signatures among root's referrers. A listing may lie or be stale,
// and a layout's predecessors are more than referrers (an index that lists the root is one),
// so that each manifest is read, and its own subject and type count: on a registry without the
// referrers API cosign 2.6 lists its bundles as application/vnd.oci.empty.v1+json.
func walkReferrers(ctx context.Context, store oras.ReadOnlyGraphTarget, root ocispec.Descriptor, see visit) error {
	referrers, err := listReferrers(ctx, store, root)
	if err != nil {
		return fmt.Errorf("list referrers: %w", err)
	}
	for _, desc := range referrers {
		if !isManifest(desc.MediaType) || desc.Digest.Validate() != nil {
			continue
		}
		if err := walkReferrer(ctx, store, root, desc, see); err != nil {
			return err
		}
	}
	return nil
}

func walkReferrer(ctx context.Context, store content.Fetcher, root, desc ocispec.Descriptor, see visit) error {
	m, err := fetchManifest(ctx, store, desc)
	switch {
	case err != nil:
		return see(Object{Form: Referrer, Manifest: desc.Digest}, nil, err)
	case m.Subject == nil || m.Subject.Digest != root.Digest:
		return nil
	case m.ArtifactType == signatureType || m.Config.MediaType == signatureType:
		return walkLayers(ctx, store, Object{Form: Referrer, Manifest: desc.Digest}, m, see)
	case !isBundle(m):
		return nil
	}
	sig, err := fetchBundle(ctx, store, m)
	if errors.Is(err, errAttestation) {
		return nil
	}
	return see(Object{Form: Bundle, Manifest: desc.Digest}, sig, err)
}

// listReferrers lists what refers to root, sorted and each once.
func listReferrers(ctx context.Context, store oras.ReadOnlyGraphTarget, root ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	var all []ocispec.Descriptor
	add := func(page []ocispec.Descriptor) error {
		if all = append(all, page...); len(all) > maxSignatures {
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

func fetchManifest(ctx context.Context, store content.Fetcher, desc ocispec.Descriptor) (*ocispec.Manifest, error) {
	b, err := fetch(ctx, store, desc, maxManifest)
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
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	return &m, nil
}

// isManifest is true of image manifests. cosign 2 writes Docker's type when
// COSIGN_DOCKER_MEDIA_TYPES is set.
func isManifest(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageManifest || mediaType == dockerManifest
}
