package transfer

import (
	"bytes"
	"context"
	"errors"
	"io"

	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/images"
)

// fixed is a fetcher of one manifest whose bytes are here already.
func fixed(data []byte) content.Fetcher {
	return content.FetcherFunc(func(context.Context, ocispec.Descriptor) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data)), nil
	})
}

// overlay fetches from the place beside the bundle what is there, and the rest from the
// image's origin.
type overlay struct {
	first   content.Fetcher
	image   name.Digest
	origins images.Origins
}

func (o *overlay) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	blob, err := o.first.Fetch(ctx, desc)
	if err == nil || o.origins == nil || !errors.Is(err, errdef.ErrNotFound) {
		return blob, err
	}
	from, _, err := o.origins.Origin(ctx, o.image)
	if err != nil {
		return nil, err
	}
	return from.Fetch(ctx, desc)
}
