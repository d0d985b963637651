package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry"
)

// locatedImage is an image and where it is.
type locatedImage struct {
	desc ocispec.Descriptor
	from content.Fetcher
	// data is the manifest if it was read with the same request; nil if not.
	data []byte
}

// locateImage finds an image in its bundle's store, or else at its origin.
func (p *Plan) locateImage(ctx context.Context, src oras.ReadOnlyTarget, image name.Digest) (locatedImage, error) {
	origins := p.options.Origins
	if strings.HasSuffix(image.RegistryStr(), ".invalid") {
		origins = nil // a bundle without a repository
	}
	desc, data, err := p.resolveImage(ctx, src, image.DigestStr(), image)
	if err == nil && desc.Digest.String() != image.DigestStr() {
		return locatedImage{}, fmt.Errorf("source %s returns %s: %w", storeName(src), desc.Digest, content.ErrMismatchedDigest)
	}
	if err == nil {
		return locatedImage{desc, &fallbackFetcher{first: src, fallback: p.options.Fallback, image: image, origins: origins}, data}, nil
	}
	if !errors.Is(err, errdef.ErrNotFound) {
		return locatedImage{}, fmt.Errorf("source %s: %w", storeName(src), err)
	}
	if origins == nil {
		return locatedImage{}, fmt.Errorf("not found next to the bundle: %w", err)
	}
	from, reference, err := origins.Origin(ctx, image)
	if err != nil {
		return locatedImage{}, err
	}
	if desc, data, err = p.resolveImage(ctx, from, reference, image); err != nil {
		return locatedImage{}, fmt.Errorf("not found next to the bundle, and %s: %w", storeName(from), err)
	}
	if desc.Digest.String() != image.DigestStr() {
		return locatedImage{}, fmt.Errorf("%s returns %s: %w", storeName(from), desc.Digest, content.ErrMismatchedDigest)
	}
	return locatedImage{desc, from, data}, nil
}

// resolveImage resolves a reference, and reads its manifest with the same request if the store is a registry. A manifest that
// the plan has is not read again: registries count what is read.
func (p *Plan) resolveImage(ctx context.Context, from oras.ReadOnlyTarget, reference string, image name.Digest) (desc ocispec.Descriptor, data []byte, err error) {
	if fetcher, ok := from.(registry.ReferenceFetcher); ok && !p.knowsManifest(digest.Digest(image.DigestStr())) {
		err = withRetries(ctx, func() (err error) {
			var body io.ReadCloser
			if desc, body, err = fetcher.FetchReference(ctx, reference); err != nil {
				return err
			}
			defer body.Close()
			data, err = content.ReadAll(body, desc)
			return err
		})
		if !errors.Is(err, content.ErrMismatchedDigest) && !errors.Is(err, errdef.ErrSizeExceedsLimit) {
			return desc, data, err
		}
	}
	// Who reads what is damaged says what that is.
	desc, err = from.Resolve(ctx, reference)
	return desc, nil, err
}
