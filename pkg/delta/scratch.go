package delta

import (
	"errors"
	"io"
	"os"
)

// Scratch is a temporary file. It has no name where the system allows that, so that nothing is left of a process
// that was killed.
type Scratch struct {
	*os.File
	size int64
	// named is set if the file is to be removed when it is closed.
	named bool
}

// NewScratch returns a temporary file in a folder, the system's if dir is empty. Closing it removes it.
func NewScratch(dir string) (*Scratch, error) {
	if dir == "" {
		dir = os.TempDir()
	}
	if file, err := openUnnamed(dir); err == nil {
		return &Scratch{File: file}, nil
	}
	file, err := os.CreateTemp(dir, "krtpkg-delta-*")
	if err != nil {
		return nil, &scratchError{err}
	}
	return &Scratch{File: file, named: os.Remove(file.Name()) != nil}, nil
}

// scratchError reports that a temporary file cannot be written: a full disk is not a damaged layer.
type scratchError struct{ err error }

func (e *scratchError) Error() string { return "temporary file: " + e.err.Error() }

func (e *scratchError) Unwrap() error { return e.err }

func (f *Scratch) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	f.size += int64(n)
	if err != nil {
		err = &scratchError{err}
	}
	return n, err
}

// ReadFrom keeps [io.Copy] from passing by Write.
func (f *Scratch) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{f}, r)
}

func (f *Scratch) Close() error {
	err := f.File.Close()
	if f.named {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}

// section returns a range of the file.
func (f *Scratch) section(from, size int64) *io.SectionReader {
	return io.NewSectionReader(f.File, from, size)
}
