package source

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"krtpkg.dev/krtpkg/pkg/oci"
)

// sizedReader is the body of an answer with its size, which is -1 if the server does not tell it.
type sizedReader struct {
	io.Reader
	size int64
}

// StreamURL passes the content of a URL, or of its mirror, to take as a stream of any length, with its size or -1 if
// that is not known; once more if the connection breaks. An error of take that is not of the stream ends it at once.
// Nothing is kept, in memory or on disk.
func (f *Fetcher) StreamURL(ctx context.Context, url string, take func(r io.Reader, size int64) error) error {
	var refused error
	err := f.fetchWithMirrors(ctx, url, func(r io.Reader) error {
		stream := &brokenReader{Reader: r}
		err := take(stream, streamSize(r))
		if err != nil && stream.err == nil {
			refused = err // and would be next time
			return nil
		}
		return err
	})
	if err == nil && refused != nil {
		return fmt.Errorf("fetch %s: %w", describeURL(url, f.mirrorURL(url)), refused)
	}
	return err
}

// brokenReader remembers what ended a stream too early.
type brokenReader struct {
	io.Reader
	err error
}

func (r *brokenReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}

// streamSize returns the size of what a reader of a URL or of a mirror's file gives; -1 if that is not known.
func streamSize(r io.Reader) int64 {
	switch of := r.(type) {
	case sizedReader:
		return of.size
	case interface{ Stat() (fs.FileInfo, error) }:
		if info, err := of.Stat(); err == nil {
			return info.Size()
		}
	}
	return -1
}

// DigestURL returns the sha256, in hex, and the size of the current content of a URL, of any length.
func (f *Fetcher) DigestURL(ctx context.Context, url string) (sum string, size int64, err error) {
	err = f.StreamURL(ctx, url, func(r io.Reader, told int64) (err error) {
		if told < 0 {
			r = CapUnsized(r)
		}
		sum, size, err = digestStream(r)
		return err
	})
	return sum, size, err
}

// CapUnsized returns a reader of a stream of unknown size that fails over the limit for one ([oci.MaxUnsizedFile]): it
// may not end.
func CapUnsized(r io.Reader) io.Reader { return &cappedReader{r, oci.MaxUnsizedFile} }

// cappedReader fails where a stream goes on over its limit.
type cappedReader struct {
	io.Reader
	left int64
}

func (r *cappedReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p[:min(int64(len(p)), r.left+1)])
	if r.left -= int64(n); r.left < 0 {
		return 0, fmt.Errorf("over the limit for a file of unknown size (set size and sha256 in the definition): %w", oci.ErrTooLarge)
	}
	return n, err
}

// DigestFile returns the sha256, in hex, and the size of a file below the folder of the definition.
func (f *Fetcher) DigestFile(ctx context.Context, name string) (sum string, size int64, err error) {
	err = f.StreamFile(name, func(r io.Reader, _ int64) (err error) {
		sum, size, err = digestStream(oci.StopReader(ctx, r))
		return err
	})
	return sum, size, err
}

func digestStream(r io.Reader) (sum string, size int64, err error) {
	hash := sha256.New()
	size, err = io.Copy(hash, r)
	return fmt.Sprintf("%x", hash.Sum(nil)), size, err
}

// StreamFile passes the content of a file below the folder of the definition to take, with its size.
func (f *Fetcher) StreamFile(name string, take func(r io.Reader, size int64) error) error {
	root, err := os.OpenRoot(f.Dir)
	if err != nil {
		return err
	}
	defer root.Close()
	name = filepath.FromSlash(name)
	info, err := root.Stat(name)
	if err := checkRegular(name, info, err); err != nil {
		return err
	}
	file, err := root.Open(name)
	if err != nil {
		return describeOpenError(name, err)
	}
	defer file.Close()
	if err := take(file, info.Size()); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
