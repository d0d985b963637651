package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/opencontainers/go-digest"
	"github.com/rogpeppe/go-internal/lockedfile"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/pkg/progress"
)

// WrittenFile describes a written file.
type WrittenFile struct {
	// Size is the size of the archive, Kept the part that an earlier attempt had written.
	Size, Kept int64
}

// partial is what a file is called until it is whole. It stands next to the final name, so
// that the last step is a rename and nothing is copied.
const partial = ".partial"

// WriteFile writes an archive to a file, which gets its name once it is complete. It checks and
// continues what an interrupted attempt has left next to it, even within a blob. An existing file of
// that name is replaced at the end.
func WriteFile(ctx context.Context, name string, c Contents, from content.Fetcher, o Options) (*WrittenFile, error) {
	return writeFile(ctx, name, c, from, o, func() error { return nil })
}

// writeFile asks, while it alone may write, whether the file is still to be replaced.
func writeFile(ctx context.Context, name string, c Contents, from content.Fetcher, o Options, still func() error) (*WrittenFile, error) {
	if c.Parity > 0 && o.Compress {
		return nil, errParityStream
	}
	layout, err := c.layOutFile()
	if err != nil {
		return nil, err
	}
	return writeLayout(ctx, name, layout, from, o, still)
}

func writeLayout(ctx context.Context, name string, layout fileLayout, from content.Fetcher, o Options, still func() error) (*WrittenFile, error) {
	all := layout.entries
	if !o.Compress {
		if done, err := isWhole(name, layout); done || err != nil {
			return &WrittenFile{Size: layout.size(), Kept: layout.size()}, err
		}
		if err := checkFileSpace(name, layout); err != nil {
			return nil, fmt.Errorf("write %s: %w", name, err)
		}
	}
	file, err := openPartial(name + partial)
	if err != nil {
		return nil, err
	}
	if err := still(); err != nil {
		if info, statErr := file.Stat(); statErr == nil && info.Size() == 0 {
			err = errors.Join(err, os.Remove(name+partial))
		}
		return nil, errors.Join(err, file.Close())
	}
	written := &WrittenFile{}
	attempt := func() error {
		if o.Compress {
			_, err := file.Seek(0, io.SeekStart)
			return errors.Join(err, file.Truncate(0), withCompression(file, true, func(w io.Writer) error {
				return writeStream(ctx, w, all, from, o)
			}))
		}
		kept, err := resumeFile(ctx, file, all, from, o)
		written.Kept = kept
		return err
	}
	err = attempt()
	reread := map[digest.Digest]bool{}
	kept := written.Kept
	for wrong := (*mismatchError)(nil); errors.As(err, &wrong) && !reread[wrong.digest] && ctx.Err() == nil; {
		// A byte may have changed on the way: what is right is kept, and the rest read again, each blob once.
		reread[wrong.digest] = true
		err = attempt()
		written.Kept = kept
	}
	if err == nil {
		err = layout.writeParity(ctx, file, o.Progress)
	}
	if err == nil {
		err = file.Sync()
	}
	if info, statErr := file.Stat(); statErr == nil {
		written.Size = info.Size()
	}
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", name, errors.Join(err, file.Close()))
	}
	// Renamed while it is locked, so that who waits for it sees that it is not a partial any more.
	if err := errors.Join(os.Rename(name+partial, name), file.Close()); err != nil {
		return nil, err
	}
	return written, syncFolder(filepath.Dir(name))
}

// openPartial opens and locks a partial file. Whoever had the lock before may have given the
// file its name: it is an archive then, and not to be written to. What else is in the folder may be a stranger's: a link
// is not followed, and a pipe not waited for.
func openPartial(name string) (*lockedfile.File, error) {
	for {
		if err := checkRegular(name); err != nil {
			return nil, err
		}
		file, err := lockedfile.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return nil, err
		}
		locked, err := file.Stat()
		if err != nil {
			return nil, errors.Join(err, file.Close())
		}
		now, err := os.Lstat(name) // again: a link may have come in between
		if err == nil && os.SameFile(locked, now) {
			return file, nil
		}
		if closed := file.Close(); closed != nil || err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, errors.Join(err, closed)
		}
	}
}

// checkRegular returns an error if there is something of a name that is not a regular file.
func checkRegular(name string) error {
	info, err := os.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", name)
	}
	return err
}

// syncFolder makes a rename last, where folders can be synced at all.
func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	if err := d.Sync(); err != nil && !errors.Is(err, fs.ErrInvalid) && !errors.Is(err, errors.ErrUnsupported) {
		return errors.Join(err, d.Close())
	}
	return d.Close()
}

// isWhole reports whether a file is this very archive: of its size, and with its index and
// headers. That its blobs are right is what Check is for.
func isWhole(name string, layout fileLayout) (bool, error) {
	file, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe would be waited for
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return false, errors.Join(err, fmt.Errorf("%s is not a file", name))
	}
	if info.Size() != layout.size() {
		return false, nil
	}
	if has, err := layout.hasParity(file); !has {
		return false, err
	}
	for _, e := range layout.entries {
		if same, err := hasAt(file, e.offset, e.header); !same {
			return false, err
		}
		if same, err := hasAt(file, e.contentOffset(), e.data); !same {
			return false, err
		}
	}
	return true, nil
}

// hasAt reports whether a file has these bytes there.
func hasAt(file io.ReaderAt, offset int64, want []byte) (bool, error) {
	have := make([]byte, len(want))
	n, err := file.ReadAt(have, offset)
	if n == len(want) || err == io.EOF {
		err = nil
	}
	return bytes.Equal(have[:n], want), err
}

// resumeFile writes what a file lacks.
func resumeFile(ctx context.Context, file *lockedfile.File, all []archiveEntry, from content.Fetcher, o Options) (kept int64, err error) {
	next, first, err := findResumePoint(ctx, file, all, o.Progress)
	if err != nil {
		return 0, err
	}
	kept = all[len(all)-1].endOffset()
	if next < len(all) {
		kept = all[next].offset
	}
	if first.written > 0 {
		kept = all[next].contentOffset() + first.written
	}
	// What follows may be anything; what is missing of the last padding is zeros.
	if err := file.Truncate(kept); err != nil {
		return 0, err
	}
	if _, err := file.Seek(kept, io.SeekStart); err != nil {
		return 0, err
	}
	gathered := &gatheredWriter{to: file}
	err = writeEntries(ctx, gathered, all[next:], from, o, first)
	// What an error leaves is where the next attempt goes on.
	return kept, errors.Join(err, gathered.flush())
}

// findResumePoint finds the first entry that is not there whole, and how much of it is.
func findResumePoint(ctx context.Context, file *lockedfile.File, all []archiveEntry, report progress.Func) (next int, first entryProgress, err error) {
	for i, e := range all {
		if ctx.Err() != nil {
			return 0, first, ctx.Err()
		}
		if same, err := hasAt(file, e.offset, e.header); !same {
			return i, first, err
		}
		if e.data != nil {
			if same, err := hasAt(file, e.contentOffset(), append(e.data, e.paddingBytes()...)); !same {
				return i, first, err
			}
			continue
		}
		hash := e.desc.Digest.Algorithm().Hash()
		n, err := io.Copy(hash, io.NewSectionReader(file, e.contentOffset(), e.desc.Size))
		if err != nil {
			return 0, first, err
		}
		if n < e.desc.Size {
			return i, entryProgress{n, hash}, nil
		}
		if e.desc.Digest.Encoded() != fmt.Sprintf("%x", hash.Sum(nil)) {
			return i, first, nil
		}
		if same, err := hasAt(file, e.contentOffset()+e.desc.Size, e.paddingBytes()); !same {
			return i, entryProgress{e.desc.Size, hash}, err
		}
		report.Emit(progress.Event{Kind: progress.Skipped, Subject: e.desc.Digest.String(), Bytes: e.desc.Size})
	}
	return len(all), first, nil
}
