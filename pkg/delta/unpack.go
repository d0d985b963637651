package delta

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

// baseError returns the error of a base, unless it is one of a temporary file.
func baseError(base digest.Digest, err error) error {
	var scratch *scratchError
	if errors.As(err, &scratch) {
		return err
	}
	return &BaseError{base, err}
}

// fetchLayer stores a layer in a temporary file and checks its digest.
func fetchLayer(ctx context.Context, layer Layer, dir string) (_ *Scratch, err error) {
	body, err := layer.Open(ctx)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	file, err := NewScratch(dir)
	if err != nil {
		return nil, err
	}
	verifier := layer.Digest.Verifier()
	_, err = io.Copy(io.MultiWriter(file, verifier), contextReader{ctx, io.LimitReader(body, layer.Size+1)})
	if err == nil && (file.size != layer.Size || !verifier.Verified()) {
		err = errMismatchedDigest
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

var errMismatchedDigest = errors.New("content does not match its digest")

// Base is a layer that a delta names.
type Base struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`
	// TarSize is its size as a tar.
	TarSize int64 `json:"tarSize"`
}

// baseSet are bases as tars, one after the other: a delta gives places in it.
type baseSet struct {
	bases []Base
	tars  []*Scratch
	// starts are where each begins, and where the last ends.
	starts []int64
}

// unpackBases undoes the compression of those bases of a layer that it may be made from: what would take more than
// [ErrWork] allows is left out.
func unpackBases(ctx context.Context, of Base, layers []Layer, dir string) (*baseSet, error) {
	set := &baseSet{starts: []int64{0}}
	left, leftAsTar := of.allowedBases()
	for _, layer := range layers {
		if layer.Size > left {
			continue
		}
		file, err := unpackLayer(ctx, layer, min(maxTarSize(layer.Size), leftAsTar), dir)
		var larger *tarSizeError
		if errors.As(err, &larger) && larger.limit == leftAsTar {
			continue
		}
		if err != nil {
			return nil, errors.Join(baseError(layer.Digest, err), set.Close())
		}
		set.addBase(Base{layer.Digest, layer.Size, file.size}, file)
		left, leftAsTar = left-layer.Size, leftAsTar-file.size
	}
	return set, nil
}

func (s *baseSet) addBase(base Base, file *Scratch) {
	s.bases, s.tars = append(s.bases, base), append(s.tars, file)
	s.starts = append(s.starts, s.starts[len(s.starts)-1]+file.size)
}

func (s *baseSet) size() int64 { return s.starts[len(s.starts)-1] }

// ReadAt reads across the bases.
func (s *baseSet) ReadAt(p []byte, at int64) (n int, err error) {
	for n < len(p) {
		i := s.indexOf(at)
		if i == len(s.tars) {
			return n, io.EOF
		}
		part := p[n:]
		if left := s.starts[i+1] - at; int64(len(part)) > left {
			part = part[:left]
		}
		read, err := s.tars[i].ReadAt(part, at-s.starts[i])
		n, at = n+read, at+int64(read)
		if read < len(part) {
			return n, err
		}
	}
	return n, nil
}

// indexOf returns the number of the base in which a place is.
func (s *baseSet) indexOf(at int64) int {
	i, found := slices.BinarySearch(s.starts, at)
	if !found {
		return i - 1
	}
	for i+1 < len(s.starts) && s.starts[i+1] == at {
		i++ // a base without content
	}
	return i
}

// dropUnused leaves out the bases that no operation reads, changes the places in the operations
// accordingly, and returns the bases that are left.
func (s *baseSet) dropUnused(ops []op) []Base {
	used := make([]bool, len(s.tars))
	for _, o := range ops {
		if o.kind == opExtra {
			continue
		}
		for i := s.indexOf(o.old); i < len(s.tars) && s.starts[i] < o.old+o.size; i++ {
			used[i] = true
		}
	}
	shift := make([]int64, len(s.tars))
	kept, dropped := &baseSet{starts: []int64{0}}, int64(0)
	var left []*Scratch
	for i, file := range s.tars {
		shift[i] = dropped
		if used[i] {
			kept.addBase(s.bases[i], file)
		} else {
			dropped += file.size
			left = append(left, file)
		}
	}
	for i := range ops {
		if ops[i].kind != opExtra {
			ops[i].old -= shift[s.indexOf(ops[i].old)]
		}
	}
	for _, file := range left {
		file.Close()
	}
	*s = *kept
	return s.bases
}

func (s *baseSet) Close() error {
	var errs []error
	for _, file := range s.tars {
		errs = append(errs, file.Close())
	}
	return errors.Join(errs...)
}

// unpackError returns the error of a layer whose digest is right.
func unpackError(ctx context.Context, err error) error {
	var scratch *scratchError
	if ctx.Err() != nil || errors.As(err, &scratch) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnpack, err)
}

// unpackLayer writes a layer as a tar of at most limit bytes to a temporary file, and checks its
// digest.
func unpackLayer(ctx context.Context, layer Layer, limit int64, dir string) (_ *Scratch, err error) {
	body, err := layer.Open(ctx)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	file, err := NewScratch(dir)
	if err != nil {
		return nil, err
	}
	verifier := layer.Digest.Verifier()
	counted := &countingWriter{w: verifier}
	packed := io.TeeReader(contextReader{ctx, io.LimitReader(body, layer.Size+1)}, counted)
	err = decompress(file, packed, limit)
	// A decoder complains first of what is damaged: the digest tells.
	var scratch *scratchError
	if errors.As(err, &scratch) {
		return nil, errors.Join(err, file.Close())
	}
	_, drainErr := io.Copy(io.Discard, packed)
	switch {
	case drainErr != nil:
		err = drainErr
	case counted.n != layer.Size || !verifier.Verified():
		err = errMismatchedDigest
	case err != nil:
		err = unpackError(ctx, err)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

var (
	gzipMagic = []byte{0x1f, 0x8b}
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
)

// tarSizeError reports a layer whose tar is larger than it may be.
type tarSizeError struct{ limit int64 }

func (e *tarSizeError) Error() string {
	return fmt.Sprintf("more than %d bytes when unpacked", e.limit)
}

// decompress writes what a layer is without compression, whichever it has.
func decompress(w io.Writer, packed io.Reader, limit int64) error {
	buffered := bufio.NewReaderSize(packed, 1<<16)
	magic, err := buffered.Peek(len(zstdMagic))
	if err != nil && err != io.EOF {
		return err
	}
	var r io.Reader = buffered
	switch {
	case bytes.HasPrefix(magic, gzipMagic):
		unpacked, err := gzip.NewReader(buffered)
		if err != nil {
			return err
		}
		defer unpacked.Close()
		r = unpacked
	case bytes.Equal(magic, zstdMagic):
		unpacked, err := zstd.NewReader(buffered, zstd.WithDecoderMaxWindow(32<<20), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return err
		}
		defer unpacked.Close()
		r = unpacked
	}
	n, err := io.Copy(w, io.LimitReader(r, limit+1))
	if err == nil && n > limit {
		err = &tarSizeError{limit}
	}
	return err
}
