package archive

import (
	"cmp"
	"context"
	"fmt"
	"hash"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/pkg/progress"
	"krtpkg.dev/krtpkg/pkg/tracing"
)

// Options are the parameters of writing.
type Options struct {
	// Compress makes it a zstd stream. Layers are compressed already, so that this saves
	// little, and such an archive cannot be read in place.
	Compress bool
	// Concurrency is how many items are read at once, ahead of the one that is being written; 4 when zero, and 1 when negative.
	Concurrency int
	// Progress receives events; nil drops them.
	Progress progress.Func
}

// Write writes an archive in one pass. It verifies content on the way; after an error w has the
// beginning of an archive, which every reader recognizes as incomplete.
func Write(ctx context.Context, w io.Writer, c Contents, from content.Fetcher, o Options) error {
	if c.Parity > 0 {
		return errParityStream
	}
	all, err := c.listEntries()
	if err != nil {
		return err
	}
	return withCompression(w, o.Compress, func(w io.Writer) error {
		return writeStream(ctx, w, all, from, o)
	})
}

// writeStream writes entries to what cannot be gone on with: after an error nothing more is written, since nobody may read it.
func writeStream(ctx context.Context, w io.Writer, all []archiveEntry, from content.Fetcher, o Options) error {
	gathered := &gatheredWriter{to: w}
	if err := writeEntries(ctx, gathered, all, from, o, entryProgress{}); err != nil {
		return err
	}
	return gathered.flush()
}

func withCompression(w io.Writer, compress bool, f func(io.Writer) error) error {
	if !compress {
		return f(w)
	}
	// One at a time, so that the bytes do not depend on the number of cores.
	encoder, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault))
	if err != nil {
		return err
	}
	if err := f(encoder); err != nil {
		return err
	}
	return encoder.Close()
}

// entryProgress is how much of the first entry is written already, and the state of its digest.
type entryProgress struct {
	written int64
	hash    hash.Hash
}

const (
	chunk = 256 << 10
	// chunksAhead is how many chunks of all entries wait to be written, 8 MiB; at least one of each entry that is fetched.
	chunksAhead = 32
	// defaultConcurrency is how many entries are fetched at once.
	defaultConcurrency = 4
)

// writeEntries writes entries, the first from where it stopped. Some of them may be held at the end, or at an error.
func writeEntries(ctx context.Context, gathered *gatheredWriter, all []archiveEntry, from content.Fetcher, o Options, first entryProgress) (err error) {
	ctx, end := tracing.Start(ctx, "write archive", tracing.Items(len(all)))
	defer func() { end(err) }()
	window := max(1, cmp.Or(o.Concurrency, defaultConcurrency))
	ctx, cancel := context.WithCancel(ctx)
	var fetches sync.WaitGroup
	defer fetches.Wait()
	defer cancel()
	queue := make(chan *entryStream, window-1)
	fetches.Go(func() {
		defer close(queue)
		for i, e := range all {
			s := &entryStream{archiveEntry: e, chunks: make(chan []byte, max(1, chunksAhead/window))}
			if i == 0 {
				s.start = first
			}
			select {
			case queue <- s:
			case <-ctx.Done():
				return
			}
			if e.data == nil {
				fetches.Go(func() { s.runFetch(ctx, from) })
			}
		}
	})
	for s := range queue {
		if err := s.writeTo(ctx, gathered, o.Progress); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	_, err = gathered.Write(trailer)
	return err
}

// gatheredWriter gathers short writes: a header and padding around each of many small blobs.
type gatheredWriter struct {
	to   io.Writer
	held []byte
}

// maxGathered is how much is gathered.
const maxGathered = 64 << 10

func (g *gatheredWriter) Write(p []byte) (int, error) {
	isLong := len(p) >= maxGathered/2
	if isLong || len(g.held)+len(p) > maxGathered {
		if err := g.flush(); err != nil {
			return 0, err
		}
	}
	if isLong {
		return g.to.Write(p)
	}
	g.held = append(g.held, p...)
	return len(p), nil
}

func (g *gatheredWriter) flush() error {
	if len(g.held) == 0 {
		return nil
	}
	_, err := g.to.Write(g.held)
	g.held = g.held[:0]
	return err
}

var buffers = sync.Pool{New: func() any { return new([chunk]byte) }}

// entryStream is an entry on its way into the archive: one goroutine fetches it and checks its
// digest, another writes it.
type entryStream struct {
	archiveEntry
	start  entryProgress
	chunks chan []byte
	// err is why the chunks ended, to be read after that.
	err error
}

func (s *entryStream) runFetch(ctx context.Context, from content.Fetcher) {
	defer close(s.chunks)
	ctx, end := tracing.Start(ctx, "read blob", tracing.Digest(s.desc.Digest), tracing.Bytes(s.desc.Size))
	if s.err = s.fetchContent(ctx, from); s.err != nil {
		s.err = fmt.Errorf("read %s: %w", s.desc.Digest, s.err)
	}
	end(s.err)
}

// mismatchError is the [content.ErrMismatchedDigest] of an entry.
type mismatchError struct{ digest digest.Digest }

func (*mismatchError) Error() string { return content.ErrMismatchedDigest.Error() }
func (*mismatchError) Unwrap() error { return content.ErrMismatchedDigest }

func (s *entryStream) fetchContent(ctx context.Context, from content.Fetcher) error {
	sum := s.start.hash
	if sum == nil {
		sum = s.desc.Digest.Algorithm().Hash()
	}
	if s.desc.Size-s.start.written <= chunk {
		if err := s.readPart(ctx, from, sum); err != nil {
			return err
		}
	} else if err := s.readParts(ctx, from, sum); err != nil {
		return err
	}
	if s.desc.Digest.Encoded() != fmt.Sprintf("%x", sum.Sum(nil)) {
		return &mismatchError{s.desc.Digest}
	}
	return nil
}

// readPart reads and hashes content that fits into one chunk.
func (s *entryStream) readPart(ctx context.Context, from content.Fetcher, sum hash.Hash) error {
	read := make(chan []byte, 1)
	if err := s.readRest(ctx, from, read); err != nil {
		return err
	}
	close(read)
	for part := range read {
		sum.Write(part)
		s.chunks <- part
	}
	return nil
}

// readParts reads and hashes content. One goroutine reads, another hashes: together they are slower than a disk.
func (s *entryStream) readParts(ctx context.Context, from content.Fetcher, sum hash.Hash) error {
	read := make(chan []byte, 2)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(read)
		return s.readRest(ctx, from, read)
	})
	group.Go(func() error {
		for part := range read {
			sum.Write(part)
			select {
			case s.chunks <- part:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	return group.Wait()
}

// readRest reads what is missing of the content, and makes sure that it ends there.
func (s *entryStream) readRest(ctx context.Context, from content.Fetcher, parts chan<- []byte) error {
	left := s.desc.Size - s.start.written
	if left == 0 {
		return nil
	}
	body, err := openAt(ctx, from, s.desc, s.start.written)
	if err != nil {
		return err
	}
	defer body.Close()
	for left > 0 {
		buffer := buffers.Get().(*[chunk]byte)
		n, err := io.ReadFull(body, buffer[:min(left, chunk)])
		if err != nil {
			return unexpectedEOF(err)
		}
		left -= int64(n)
		select {
		case parts <- buffer[:n]:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if n, err := io.ReadFull(body, make([]byte, 1)); n > 0 {
		return content.ErrTrailingData
	} else if err != io.EOF {
		return err
	}
	return nil
}

func unexpectedEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// openAt opens content from an offset on.
func openAt(ctx context.Context, from content.Fetcher, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	body, err := from.Fetch(ctx, desc)
	if err != nil || offset == 0 {
		return body, err
	}
	if seeker, ok := body.(io.Seeker); ok {
		_, err = seeker.Seek(offset, io.SeekStart)
	} else {
		_, err = io.CopyN(io.Discard, body, offset)
	}
	if err != nil {
		body.Close()
		return nil, err
	}
	return body, nil
}

func (s *entryStream) writeTo(ctx context.Context, w io.Writer, report progress.Func) error {
	if s.start.written == 0 {
		if _, err := w.Write(s.header); err != nil {
			return err
		}
	}
	if s.data != nil {
		_, err := w.Write(append(s.data, s.paddingBytes()...))
		return err
	}
	subject := s.desc.Digest.String()
	report.Emit(progress.Event{Kind: progress.Began, Subject: subject, Bytes: s.desc.Size})
	if s.start.written > 0 {
		report.Emit(progress.Event{Kind: progress.Resumed, Subject: subject, Bytes: s.start.written})
	}
	for part := range s.chunks {
		if _, err := w.Write(part); err != nil {
			return fmt.Errorf("write %s: %w", s.desc.Digest, err)
		}
		report.Emit(progress.Event{Kind: progress.Moved, Subject: subject, Bytes: int64(len(part))})
		buffers.Put((*[chunk]byte)(part[:chunk]))
	}
	if s.err != nil {
		return s.err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	report.Emit(progress.Event{Kind: progress.Copied, Subject: subject, Bytes: s.desc.Size})
	_, err := w.Write(s.paddingBytes())
	return err
}
