package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote"

	"krtpkg.dev/krtpkg/pkg/images"
)

// overlay fetches from the place beside the bundle what is there, then from where an import
// goes, and the rest from the image's origin: a layout can hold an index that was made for it
// without its manifests, a registry an index some of whose manifests were deleted, and an
// archive leaves out what its base has.
type overlay struct {
	first   content.Fetcher
	beside  content.Fetcher
	image   name.Digest
	origins images.Origins
}

// beside fetches what a place lacks from where an import goes.
func (p *Plan) beside(first content.Fetcher) content.Fetcher {
	if p.options.Beside == nil {
		return first
	}
	if _, ok := first.(*overlay); ok {
		return first
	}
	return &overlay{first: first, beside: p.options.Beside}
}

// both is a place with what it lacks from where an import goes.
type both struct {
	oras.ReadOnlyGraphTarget
	beside content.ReadOnlyStorage
}

func (b both) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	body, err := b.ReadOnlyGraphTarget.Fetch(ctx, desc)
	if err != nil && b.beside != nil && errors.Is(err, errdef.ErrNotFound) {
		return b.beside.Fetch(ctx, desc)
	}
	return body, err
}

func (o *overlay) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	blob, err := o.first.Fetch(ctx, desc)
	if err != nil && o.beside != nil && errors.Is(err, errdef.ErrNotFound) {
		blob, err = o.beside.Fetch(ctx, desc)
	}
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

// nopCloser is content in memory.
func nopCloser(data []byte) io.ReadCloser { return memory{bytes.NewReader(data)} }

type memory struct{ *bytes.Reader }

func (memory) Close() error { return nil }

// blob is the content of an item on its way to a target. It says how far it came, and
// remembers what went wrong on its side.
type blob struct {
	body io.ReadCloser
	size int64
	// moved takes the number of bytes that were read, less those that are to be read again.
	moved func(int64)

	// at is how much was read.
	at int64
	// hash checks the content for a target that does not.
	hash interface {
		io.Writer
		Verified() bool
	}
	err error
	// judge hashes the content for a target that checks it, so that it shows who is to blame.
	judge digest.Verifier
	// judged is up to where.
	judged int64
}

func (b *blob) Read(p []byte) (n int, err error) {
	if b.err != nil {
		return 0, b.err
	}
	n, b.err = b.body.Read(p)
	if b.judge != nil && b.judged == b.at {
		b.judge.Write(p[:n])
		b.judged += int64(n)
	}
	b.at += int64(n)
	b.moved(int64(n))
	if b.hash != nil {
		b.hash.Write(p[:n])
	}
	switch {
	case b.at > b.size:
		b.err = content.ErrTrailingData
	case b.at == b.size && b.hash != nil && !b.hash.Verified():
		b.err = content.ErrMismatchedDigest
	case b.at < b.size && b.err == io.EOF:
		b.err = io.ErrUnexpectedEOF
	}
	if b.failed() != nil {
		return 0, b.err
	}
	return n, b.err
}

// failed is why the content can't be had, if that is so: what a target makes of it is no news.
func (b *blob) failed() error {
	if b.err == io.EOF {
		return nil
	}
	return b.err
}

// isRight reports whether the content that was read is what its digest says; known is false
// where not all of it was read.
func (b *blob) isRight() (right, known bool) {
	if b.judge == nil || b.judged != b.size {
		return false, false
	}
	return b.judge.Verified(), true
}

func (b *blob) Close() error { return b.body.Close() }

// seekable is a blob whose source seeks, so that a target can go on where it stopped.
type seekable struct{ *blob }

// Seek goes to an offset from the start.
func (b seekable) Seek(offset int64, whence int) (int64, error) {
	if whence != io.SeekStart {
		return 0, fmt.Errorf("seek from %d: %w", whence, errors.ErrUnsupported)
	}
	if b.failed() != nil {
		return 0, b.err
	}
	n, err := b.body.(io.Seeker).Seek(offset, io.SeekStart)
	if err == nil {
		b.moved(n - b.at)
		b.at, b.err = n, nil
	}
	return n, err
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
