package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote"

	"krtpkg.dev/krtpkg/pkg/images"
)

// overlay fetches from the place beside the bundle what is there, and the rest from the
// image's origin: a layout can hold an index that was made for it without its manifests, and
// a registry an index some of whose manifests were deleted.
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
	if blob, err = from.Fetch(ctx, desc); err != nil {
		return nil, fmt.Errorf("it is not there, and %s: %w", where(from), err)
	}
	return blob, nil
}

// source is the content of a blob. It is fetched when it is first read, and fails before its
// end when it is not what the digest says, so that no target ever gets the whole of it.
type source struct {
	fetch func() (io.ReadCloser, error)
	blob  io.ReadCloser
	hash  digest.Verifier
	left  int64
	err   error
}

func (n *node) source(ctx context.Context) *source {
	return &source{
		fetch: func() (io.ReadCloser, error) { return n.from.Fetch(ctx, n.desc) },
		hash:  n.desc.Digest.Verifier(), left: n.desc.Size,
	}
}

func (s *source) Read(p []byte) (n int, err error) {
	if s.err != nil {
		return 0, s.err
	}
	if s.blob == nil {
		if s.blob, s.err = s.fetch(); s.err != nil {
			return 0, s.err
		}
	}
	n, s.err = s.blob.Read(p)
	s.hash.Write(p[:n])
	s.left -= int64(n)
	switch {
	case s.left < 0:
		s.err = content.ErrTrailingData
	case s.left == 0 && !s.hash.Verified():
		s.err = content.ErrMismatchedDigest
	case s.left > 0 && s.err == io.EOF:
		s.err = io.ErrUnexpectedEOF
	}
	if s.failed() != nil {
		return 0, s.err
	}
	return n, s.err
}

// failed is why the content can't be had, if that is so: what a target makes of it is no news.
func (s *source) failed() error {
	if s.err == io.EOF {
		return nil
	}
	return s.err
}

func (s *source) Close() error {
	if s.blob == nil {
		return nil
	}
	return s.blob.Close()
}

// where is a store's name for errors.
func where(store any) string {
	switch s := store.(type) {
	case *overlay:
		return where(s.first)
	case *remote.Repository:
		return s.Reference.Registry + "/" + s.Reference.Repository
	case fmt.Stringer:
		return s.String()
	}
	return fmt.Sprintf("%T", store)
}
