package source

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// maxUnpacked limits the decompressed size of an archive.
const maxUnpacked = 4 << 30

// unpackArchive picks files of a tar (plain, gzip, zstd) or a zip. Links inside the archive stand
// for the files that they lead to.
func unpackArchive(ctx context.Context, archive *os.File, pick Pick) (*Tree, error) {
	t, err := listArchive(ctx, archive)
	if err != nil {
		return nil, err
	}
	return t.pickFiles(pick)
}

// archiveEntry is an entry of an archive, with a function that reads its bytes.
type archiveEntry struct {
	name string
	node
	readBytes func() ([]byte, error)
}

// listArchive lists the entries of an archive.
func listArchive(ctx context.Context, archive *os.File) (*entryTree, error) {
	t, p := newEntryTree(), &archivePack{ctx, archive}
	return t, walkArchive(ctx, archive, func(e archiveEntry) error {
		n := e.node
		n.pack, n.key = p, path.Clean(e.name)
		if n.kind == isFolder {
			n = *newFolder()
		}
		return t.addEntry(e.name, &n)
	})
}

// archivePack reads files of a listed archive.
type archivePack struct {
	ctx     context.Context
	archive *os.File
}

var errAllRead = errors.New("all is read")

func (p *archivePack) readFiles(files map[string][]byte, _ func(string, error) error) error {
	left := len(files)
	err := walkArchive(p.ctx, p.archive, func(e archiveEntry) (err error) {
		name := path.Clean(e.name)
		if _, wanted := files[name]; !wanted || e.kind != isFile {
			return nil
		}
		if files[name], err = e.readBytes(); err != nil {
			return fmt.Errorf("entry %q: %w", e.name, err)
		}
		if left--; left == 0 {
			return errAllRead
		}
		return nil
	})
	switch {
	case errors.Is(err, errAllRead):
		return nil
	case err == nil:
		err = errors.New("the archive changed while it was read")
	}
	return err
}

// walkArchive calls visit for each entry.
func walkArchive(ctx context.Context, archive *os.File, each func(archiveEntry) error) error {
	visit := func(e archiveEntry) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return each(e)
	}
	var head [4]byte
	if _, err := archive.ReadAt(head[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if head := string(head[:]); head == "PK\x03\x04" || head == "PK\x05\x06" {
		return walkZip(archive, visit)
	}
	if _, err := archive.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return walkTar(bufio.NewReader(archive), visit)
}

// walkTar visits the entries of a tar stream, which may be compressed.
func walkTar(r *bufio.Reader, visit func(archiveEntry) error) error {
	head, err := r.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	var stream io.Reader = r
	switch {
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		unzipped, err := gzip.NewReader(r)
		if err != nil {
			return err
		}
		defer unzipped.Close()
		stream = unzipped
	case bytes.Equal(head, []byte("\x28\xb5\x2f\xfd")):
		unzipped, err := zstd.NewReader(r, zstd.WithDecoderMaxMemory(64<<20), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return err
		}
		defer unzipped.Close()
		stream = unzipped
	}
	limited := &io.LimitedReader{R: stream, N: maxUnpacked}
	archive := tar.NewReader(limited)
	for first := true; ; first = false {
		header, err := archive.Next()
		switch {
		case limited.N <= 0:
			return fmt.Errorf("the archive unpacks to more than %d bytes", int64(maxUnpacked))
		case errors.Is(err, io.EOF) && !first:
			return nil
		case first && (errors.Is(err, io.EOF) || errors.Is(err, tar.ErrHeader)):
			return errors.New("not a tar or zip archive")
		case err != nil:
			return fmt.Errorf("damaged archive: %w", err)
		case header.Typeflag == tar.TypeXGlobalHeader:
			continue
		}
		e := archiveEntry{name: header.Name, node: node{kind: isOther, size: header.Size}}
		e.readBytes = func() ([]byte, error) { return readAll("it", archive) }
		// The type alone decides: the mode's bits may say anything.
		switch header.Typeflag {
		case tar.TypeReg, tar.TypeGNUSparse:
			e.kind = isFile
		case tar.TypeDir:
			e.kind = isFolder
		case tar.TypeSymlink:
			e.kind, e.target = isLink, header.Linkname
		case tar.TypeLink:
			e.kind, e.target, e.fromTop = isLink, header.Linkname, true
		}
		if err := visit(e); err != nil {
			return err
		}
	}
}

// maxZipDirectory limits the list of files in a zip, which is kept in memory.
const maxZipDirectory = 32 << 20

func walkZip(file *os.File, visit func(archiveEntry) error) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	directory := &limitedReaderAt{file, maxZipDirectory}
	archive, err := zip.NewReader(directory, info.Size())
	if err != nil {
		return fmt.Errorf("damaged archive: %w", err)
	}
	directory.left = math.MaxInt64
	for _, f := range archive.File {
		e := archiveEntry{name: f.Name, node: node{kind: isOther, size: int64(min(f.UncompressedSize64, math.MaxInt64))}}
		e.readBytes = func() ([]byte, error) { return readZipped(f, e.size) }
		switch mode := f.Mode(); {
		case mode.IsDir():
			e.kind = isFolder
		case mode.IsRegular():
			e.kind = isFile
		case mode&fs.ModeSymlink != 0:
			to, err := readZipped(f, min(e.size, maxName))
			if err != nil {
				return fmt.Errorf("entry %q: %w", f.Name, err)
			}
			e.kind, e.target = isLink, string(to)
		}
		if err := visit(e); err != nil {
			return err
		}
	}
	return nil
}

func readZipped(f *zip.File, size int64) (data []byte, err error) {
	if f.Flags&1 != 0 {
		return nil, errors.New("is encrypted, which is not supported")
	}
	body, err := f.Open()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	data, err = io.ReadAll(io.LimitReader(body, size+1))
	if err == nil && int64(len(data)) > size {
		err = fmt.Errorf("it %w of %d bytes", errTooLong, size)
	}
	return data, err
}

// limitedReaderAt reads at most left bytes in all.
type limitedReaderAt struct {
	io.ReaderAt
	left int64
}

func (b *limitedReaderAt) ReadAt(p []byte, at int64) (int, error) {
	if b.left -= int64(len(p)); b.left < 0 {
		return 0, fmt.Errorf("the list of files %w of %d bytes", errTooLong, int64(maxZipDirectory))
	}
	return b.ReaderAt.ReadAt(p, at)
}
