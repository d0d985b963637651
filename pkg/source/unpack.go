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

// maxStream is how far an archive is decompressed.
const maxStream = 4 << 30

// unpack picks files of a tar (plain, gzip, zstd) or a zip. A link inside the archive is the
// file that it leads to.
func unpack(ctx context.Context, archive *os.File, pick Pick) (*Tree, error) {
	t, err := list(ctx, archive)
	if err != nil {
		return nil, err
	}
	return t.pick(pick)
}

// entry is one of an archive: a node, and how its bytes are read.
type entry struct {
	name string
	node
	bytes func() ([]byte, error)
}

// list goes through an archive for what is in it.
func list(ctx context.Context, archive *os.File) (*nodes, error) {
	t, p := newNodes(), &packed{ctx, archive}
	return t, walkArchive(ctx, archive, func(e entry) error {
		n := e.node
		n.pack, n.key = p, path.Clean(e.name)
		if n.kind == isFolder {
			n = *newFolder()
		}
		return t.add(e.name, &n)
	})
}

// packed reads files of an archive that was listed.
type packed struct {
	ctx     context.Context
	archive *os.File
}

var errAll = errors.New("all is read")

func (p *packed) read(files map[string][]byte, _ func(string, error) error) error {
	left := len(files)
	err := walkArchive(p.ctx, p.archive, func(e entry) (err error) {
		name := path.Clean(e.name)
		if _, wanted := files[name]; !wanted || e.kind != isFile {
			return nil
		}
		if files[name], err = e.bytes(); err != nil {
			return fmt.Errorf("entry %q: %w", e.name, err)
		}
		if left--; left == 0 {
			return errAll
		}
		return nil
	})
	switch {
	case errors.Is(err, errAll):
		return nil
	case err == nil:
		err = errors.New("it changed while it was read")
	}
	return err
}

// walkArchive calls visit for each entry.
func walkArchive(ctx context.Context, archive *os.File, each func(entry) error) error {
	visit := func(e entry) error {
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

// walkTar goes through a tar stream, decompressing it if it is compressed.
func walkTar(r *bufio.Reader, visit func(entry) error) error {
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
	limited := &io.LimitedReader{R: stream, N: maxStream}
	archive := tar.NewReader(limited)
	for first := true; ; first = false {
		header, err := archive.Next()
		switch {
		case limited.N <= 0:
			return fmt.Errorf("it unpacks to over %d bytes", int64(maxStream))
		case errors.Is(err, io.EOF) && !first:
			return nil
		case first && (errors.Is(err, io.EOF) || errors.Is(err, tar.ErrHeader)):
			return errors.New("it is no tar and no zip archive")
		case err != nil:
			return fmt.Errorf("damaged archive: %w", err)
		case header.Typeflag == tar.TypeXGlobalHeader:
			continue
		}
		e := entry{name: header.Name, node: node{kind: isOther, size: header.Size}}
		e.bytes = func() ([]byte, error) { return readAll("it", archive) }
		// By the type alone: the bits of the mode may say anything.
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

// maxDirectory is the limit on the list of files in a zip, which is held whole.
const maxDirectory = 32 << 20

func walkZip(file *os.File, visit func(entry) error) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	directory := &budget{file, maxDirectory}
	archive, err := zip.NewReader(directory, info.Size())
	if err != nil {
		return fmt.Errorf("damaged archive: %w", err)
	}
	directory.left = math.MaxInt64
	for _, f := range archive.File {
		e := entry{name: f.Name, node: node{kind: isOther, size: int64(min(f.UncompressedSize64, math.MaxInt64))}}
		e.bytes = func() ([]byte, error) { return readZipped(f, e.size) }
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
		return nil, errors.New("it is encrypted")
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

// budget reads until so many bytes are read.
type budget struct {
	io.ReaderAt
	left int64
}

func (b *budget) ReadAt(p []byte, at int64) (int, error) {
	if b.left -= int64(len(p)); b.left < 0 {
		return 0, fmt.Errorf("the list of its files %w of %d bytes", errTooLong, int64(maxDirectory))
	}
	return b.ReaderAt.ReadAt(p, at)
}
