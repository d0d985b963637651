package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"krtpkg.dev/krtpkg/pkg/parity"
	"krtpkg.dev/krtpkg/pkg/progress"
)

// An archive with parity has two more entries, which other programs leave alone: the first, with how it is made, and the
// last, with the parity of everything before it.
const (
	parityFolder   = "krtpkg-parity/"
	parityGeometry = parityFolder + "geometry"
	parityBlocks   = parityFolder + "blocks"
	// geometryOffset is where the content of the first entry is.
	geometryOffset = block
)

// isParity reports whether an entry is of the parity.
func isParity(name string) bool { return strings.HasPrefix(name, parityFolder) }

// fileLayout is a whole file: its entries, and its parity if it has some.
type fileLayout struct {
	entries []archiveEntry
	// parityHeader is the header of the entry with the parity; geometry is the zero value without.
	parityHeader []byte
	geometry     parity.Geometry
}

// appendEntry appends an entry behind the others.
func appendEntry(all []archiveEntry, name string, e archiveEntry, records map[string]string) ([]archiveEntry, error) {
	var err error
	if len(all) > 0 {
		e.offset = all[len(all)-1].endOffset()
	}
	if e.header, err = encodeHeader(name, e.contentSize(), records); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return append(all, e), nil
}

// layOutFile returns the file of the contents.
func (c Contents) layOutFile() (fileLayout, error) {
	all, err := c.listEntries()
	if err != nil {
		return fileLayout{}, err
	}
	return layOutEntries(all, c.Parity)
}

// layOutEntries adds parity to entries, of which the first then is the one for the geometry.
func layOutEntries(all []archiveEntry, percent int) (l fileLayout, err error) {
	l.entries = all
	if percent == 0 {
		return l, nil
	}
	for length := 0; length != len(l.parityHeader) || length == 0; { // the header's length depends on the size
		length = max(block, len(l.parityHeader))
		if l.geometry, err = parity.NewGeometry(l.entriesEnd()+int64(length), percent); err != nil {
			return l, err
		}
		if l.parityHeader, err = encodeHeader(parityBlocks, l.geometry.ParitySize(), nil); err != nil {
			return l, err
		}
	}
	all[0].data = l.geometry.Sector()
	return l, nil
}

func (l fileLayout) entriesEnd() int64 { return l.entries[len(l.entries)-1].endOffset() }

// size returns the size of the file.
func (l fileLayout) size() int64 {
	if l.parityHeader == nil {
		return l.entriesEnd() + int64(len(trailer))
	}
	return l.geometry.End() + int64(len(trailer))
}

// writeParity writes what follows the entries. Parity is made of the finished file in a second pass, so that memory
// does not grow with it.
func (l fileLayout) writeParity(ctx context.Context, file parity.File, report progress.Func) error {
	if l.parityHeader == nil {
		return nil
	}
	if _, err := file.WriteAt(l.parityHeader, l.entriesEnd()); err != nil {
		return err
	}
	event := progress.Event{Kind: progress.Began, Subject: parityBlocks, Detail: "parity", Bytes: l.geometry.Size}
	report.Emit(event)
	event.Kind = progress.Moved
	if err := parity.Write(ctx, file, l.geometry, func(bytes int64) {
		event.Bytes = bytes
		report.Emit(event)
	}); err != nil {
		return fmt.Errorf("write parity: %w", err)
	}
	event.Kind, event.Bytes = progress.Copied, l.geometry.Size
	report.Emit(event)
	_, err := file.WriteAt(trailer, l.geometry.End())
	return err
}

// hasParity reports whether a file has the parity where it should be, by its ends.
func (l fileLayout) hasParity(file io.ReaderAt) (bool, error) {
	if l.parityHeader == nil {
		return true, nil
	}
	for _, part := range []struct {
		offset int64
		want   []byte
	}{{l.entriesEnd(), l.parityHeader}, {l.geometry.End() - parity.SectorSize, l.geometry.Sector()}} {
		if same, err := hasAt(file, part.offset, part.want); !same {
			return false, err
		}
	}
	return true, nil
}

// errParityStream is the error of parity in what is written in one pass.
var errParityStream = errors.New("parity is made of the finished file: write a file, not a stream or a compressed archive")

// archiveFile is a file that is read in place.
type archiveFile interface {
	io.ReaderAt
	io.Closer
	Name() string
	Stat() (fs.FileInfo, error)
	// size is how many bytes there are to read.
	size() int64
}

// plainFile is a file without parity.
type plainFile struct {
	*os.File
	bytes int64
}

func (f plainFile) size() int64 { return f.bytes }

// healedFile is a file with parity: what is damaged is healed as it is read.
type healedFile struct {
	*os.File
	reader *parity.Reader
	bytes  int64
	// set opens the other volumes once something has to be restored from them; nil for a single file.
	set *lazySet
}

func (f *healedFile) size() int64 { return max(f.bytes, f.trailerEnd()) }

func (f *healedFile) trailerEnd() int64 { return f.reader.Geometry.End() + int64(len(trailer)) }

func (f *healedFile) Close() error {
	var setErr error
	if f.set != nil {
		setErr = f.set.Close()
	}
	return errors.Join(f.reader.Close(), f.File.Close(), setErr)
}

// ReadAt reads the content healed, and the end of the tar as it should be.
func (f *healedFile) ReadAt(p []byte, offset int64) (int, error) {
	n, err := f.reader.ReadAt(p, offset)
	if err == io.EOF && offset+int64(len(p)) <= f.size() {
		clear(p[n:])
		n, err = len(p), nil
	} else if err == io.EOF && offset < f.size() {
		clear(p[n : f.size()-offset])
		n = int(f.size() - offset)
	}
	// The end of a tar is zeros.
	from, to := max(offset, f.reader.Geometry.End()), min(offset+int64(n), f.trailerEnd())
	if from < to {
		clear(p[from-offset : to-offset])
	}
	return n, err
}

// openArchiveFile opens a file to read in place. What has parity is healed on the way.
func openArchiveFile(ctx context.Context, name string) (archiveFile, error) {
	file, err := openRegular(name)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	reader, err := openParity(ctx, file)
	if errors.Is(err, parity.ErrNotFound) {
		return plainFile{file, info.Size()}, nil
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return newHealedFile(file, reader, info.Size()), nil
}

// openParity opens the parity of a file, wherever in it something tells of it. Errors: [parity.ErrNotFound], [ErrDamaged].
func openParity(ctx context.Context, file *os.File) (*parity.Reader, error) {
	return lookForParity(ctx, file, parity.Open, parity.Search)
}

// findParity returns the geometry of the parity of a file, as [openParity] finds it.
func findParity(ctx context.Context, file *os.File) (parity.Geometry, error) {
	return lookForParity(ctx, file, parity.FindGeometry, parity.SearchGeometry)
}

// lookForParity looks for parity at the ends of a file, and in all of it unless its beginning shows that it has none.
func lookForParity[T any](ctx context.Context, file *os.File, atEnds func(file io.ReaderAt, size, head int64) (T, error),
	anywhere func(ctx context.Context, file io.ReaderAt, size, head int64) (T, error),
) (found T, err error) {
	info, err := file.Stat()
	if err != nil {
		return found, err
	}
	found, err = atEnds(file, info.Size(), geometryOffset)
	if errors.Is(err, parity.ErrNotFound) && !beginsWithoutParity(file) {
		found, err = anywhere(ctx, file, info.Size(), geometryOffset)
	}
	if err != nil && !errors.Is(err, parity.ErrNotFound) && ctx.Err() == nil {
		err = fmt.Errorf("%w: %w", err, ErrDamaged)
	}
	return found, err
}

// beginsWithoutParity reports whether the beginning of a file shows that it has no parity, so that not all of it has to be
// searched: what has some begins with the entry of its geometry.
func beginsWithoutParity(file io.ReaderAt) bool {
	if refuseCompressed(file) != nil {
		return true
	}
	h, err := tar.NewReader(io.NewSectionReader(file, 0, 1<<20)).Next()
	return err == nil && !isParity(h.Name)
}

func newHealedFile(file *os.File, reader *parity.Reader, size int64) *healedFile {
	f := &healedFile{File: file, reader: reader, bytes: size}
	if _, isVolume := Siblings(file.Name()); isVolume {
		f.shareSet(&lazySet{name: file.Name()})
	}
	return f
}

// shareSet lets a volume be healed from the others of a set.
func (f *healedFile) shareSet(set *lazySet) {
	siblings, _ := Siblings(f.Name())
	f.set, f.reader.Fallback = set, setVolume{set, slices.Index(siblings, f.Name())}
}
