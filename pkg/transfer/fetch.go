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

	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/images"
)

// fallbackFetcher fetches from the bundle's own store, then from the target of an import, then from
// the image's origin: a layout can hold an index without its manifests, a registry may have deleted
// some manifests of an index, and an archive leaves out what its base has.
type fallbackFetcher struct {
	first    content.Fetcher
	fallback content.Fetcher
	image    name.Digest
	origins  images.Origins
}

// fetcherWithFallback fetches what a store lacks from [Options.Fallback].
func (p *Plan) fetcherWithFallback(first content.Fetcher) content.Fetcher {
	if p.options.Fallback == nil {
		return first
	}
	if _, ok := first.(*fallbackFetcher); ok {
		return first
	}
	return &fallbackFetcher{first: first, fallback: p.options.Fallback}
}

// storeWithFallback is a store that fetches what it lacks from [Options.Fallback].
type storeWithFallback struct {
	oras.ReadOnlyGraphTarget
	fallback content.ReadOnlyStorage
}

func (b storeWithFallback) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	body, err := b.ReadOnlyGraphTarget.Fetch(ctx, desc)
	if err != nil && b.fallback != nil && errors.Is(err, errdef.ErrNotFound) {
		return b.fallback.Fetch(ctx, desc)
	}
	return body, err
}

func (o *fallbackFetcher) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	blob, err := o.first.Fetch(ctx, desc)
	if err != nil && o.fallback != nil && errors.Is(err, errdef.ErrNotFound) {
		blob, err = o.fallback.Fetch(ctx, desc)
	}
	if err == nil || o.origins == nil || !errors.Is(err, errdef.ErrNotFound) {
		return blob, err
	}
	var volumes *archive.AbsentVolumesError
	isOnAbsentVolume := errors.As(err, &volumes)
	from, _, err := o.origins.Origin(ctx, o.image)
	if err != nil && isOnAbsentVolume {
		return nil, fmt.Errorf("%w, and at its origin: %w", volumes, err)
	}
	if err != nil {
		return nil, err
	}
	if blob, err = from.Fetch(ctx, desc); err != nil {
		return nil, fmt.Errorf("not found at the source, and %s: %w", storeName(from), err)
	}
	return blob, nil
}

// newMemoryReader returns a reader of content in memory.
func newMemoryReader(data []byte) io.ReadCloser { return memoryReader{bytes.NewReader(data)} }

type memoryReader struct{ *bytes.Reader }

func (memoryReader) Close() error { return nil }

// transferBlob is the content of an item on its way to a target. It reports progress and keeps the
// error of the source.
type transferBlob struct {
	body io.ReadCloser
	size int64
	// onProgress receives the number of bytes read, negative when some are to be read again.
	onProgress func(int64)
	// onResumed receives the number of bytes that the target has from an earlier attempt.
	onResumed func(int64)

	// offset is the number of bytes read.
	offset int64
	// checker verifies the content for a target that does not.
	checker interface {
		io.Writer
		Verified() bool
	}
	err error
	// verifier hashes the content for a target that verifies it, to show which side is at fault.
	verifier digest.Verifier
	// verifiedBytes is how much of the content verifier has seen.
	verifiedBytes int64
}

func (b *transferBlob) Read(p []byte) (n int, err error) {
	if b.err != nil {
		return 0, b.err
	}
	n, b.err = b.body.Read(p)
	if b.verifier != nil && b.verifiedBytes == b.offset {
		b.verifier.Write(p[:n])
		b.verifiedBytes += int64(n)
	}
	b.offset += int64(n)
	b.onProgress(int64(n))
	if b.checker != nil {
		b.checker.Write(p[:n])
	}
	switch {
	case b.offset > b.size:
		b.err = content.ErrTrailingData
	case b.offset == b.size && b.checker != nil && !b.checker.Verified():
		b.err = content.ErrMismatchedDigest
	case b.offset < b.size && b.err == io.EOF:
		b.err = io.ErrUnexpectedEOF
	}
	if b.sourceError() != nil {
		return 0, b.err
	}
	return n, b.err
}

// sourceError is why the content cannot be had, if that is so: what a target makes of it is not a news.
func (b *transferBlob) sourceError() error {
	if b.err == io.EOF {
		return nil
	}
	return b.err
}

// matchesDigest reports whether the content matches its digest; known is false if not all of it was
// read.
func (b *transferBlob) matchesDigest() (right, known bool) {
	if b.verifier == nil || b.verifiedBytes != b.size {
		return false, false
	}
	return b.verifier.Verified(), true
}

// IsTentative reports whether only the end of the content tells that it is right; a registry must not resume it then.
func (b *transferBlob) IsTentative() bool {
	_, made := b.body.(madeLayer)
	return made
}

func (b *transferBlob) Close() error { return b.body.Close() }

// seekableBlob is a blob with a source that seeks, so that a target can resume.
type seekableBlob struct{ *transferBlob }

// Seek implements [io.Seeker] for offsets from the start.
func (b seekableBlob) Seek(offset int64, whence int) (int64, error) {
	if whence != io.SeekStart {
		return 0, fmt.Errorf("seek from %d: %w", whence, errors.ErrUnsupported)
	}
	if b.sourceError() != nil {
		return 0, b.err
	}
	n, err := b.body.(io.Seeker).Seek(offset, io.SeekStart)
	if err == nil && n > b.offset {
		b.onResumed(n - b.offset)
	} else if err == nil {
		b.onProgress(n - b.offset)
	}
	if err == nil {
		b.offset, b.err = n, nil
	}
	return n, err
}

// storeName returns a store's name for errors.
func storeName(store any) string {
	switch s := store.(type) {
	case *fallbackFetcher:
		return storeName(s.first)
	case *remote.Repository:
		return s.Reference.Registry + "/" + s.Reference.Repository
	case fmt.Stringer:
		return s.String()
	}
	return fmt.Sprintf("%T", store)
}
