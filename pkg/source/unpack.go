package source

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// maxStream is how far an archive is decompressed.
const maxStream = 4 << 30

// unpack picks files of a tar (plain, gzip, zstd) or a zip. A link inside the archive is the
// file that it leads to.
func unpack(archive *os.File, pick Pick) (*Tree, error) {
	g, err := newGatherer(pick)
	if err != nil {
		return nil, err
	}
	if err := walkArchive(archive, g.take); err != nil {
		return nil, err
	}
	return g.tree(func(name string) ([]byte, error) { return readEntry(archive, name) })
}

// entry is one of an archive. Link is where it leads, for a link, from its own folder.
type entry struct {
	name string
	mode fs.FileMode
	link string
	size int64
	body io.Reader
}

// take is what a gatherer does with each entry of an archive.
func (g *gatherer) take(e entry) error {
	name, picked, err := g.enter(e.name)
	switch {
	case err != nil:
		return err
	case e.mode.IsDir():
		if len(g.folders) < 1000 {
			g.folders[name] = true
		}
		return nil
	case e.mode&fs.ModeSymlink != 0:
		if _, twice := g.links[name]; twice {
			return fmt.Errorf("entry %q is there twice", e.name)
		}
		g.links[name] = e.link
		return nil
	case !picked:
		return nil
	case !e.mode.IsRegular():
		return fmt.Errorf("entry %q is neither file, folder nor link", e.name)
	}
	if err := g.room(name, e.size); err != nil {
		return err
	}
	data, err := readAll(name, e.body)
	if err != nil {
		return fmt.Errorf("entry %q: %w", e.name, err)
	}
	return g.add(name, data)
}

var errFound = errors.New("found")

// readEntry reads one file of an archive.
func readEntry(archive *os.File, wanted string) ([]byte, error) {
	var data []byte
	names, err := newGatherer(Pick{})
	if err != nil {
		return nil, err
	}
	err = walkArchive(archive, func(e entry) error {
		name, _, err := names.enter(e.name)
		if err != nil || name != wanted || !e.mode.IsRegular() {
			return err
		}
		if data, err = readAll(name, e.body); err != nil {
			return err
		}
		return errFound
	})
	if errors.Is(err, errFound) {
		return data, nil
	}
	if err == nil {
		err = fs.ErrNotExist
	}
	return nil, err
}

// walkArchive calls visit for each entry.
func walkArchive(archive *os.File, visit func(entry) error) error {
	var head [4]byte
	if _, err := archive.ReadAt(head[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if bytes.Equal(head[:], []byte("PK\x03\x04")) {
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
		e := entry{name: header.Name, mode: header.FileInfo().Mode(), size: header.Size, body: archive}
		switch header.Typeflag {
		case tar.TypeSymlink:
			e.mode, e.link = fs.ModeSymlink, header.Linkname
		case tar.TypeLink:
			// A hard link's target counts from the top.
			e.mode, e.link = fs.ModeSymlink, fromTop(header.Name, header.Linkname)
		case tar.TypeReg, tar.TypeDir:
		default:
			e.mode = fs.ModeIrregular
		}
		if err := visit(e); err != nil {
			return err
		}
	}
}

func walkZip(file *os.File, visit func(entry) error) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	archive, err := zip.NewReader(file, info.Size())
	if err != nil {
		return fmt.Errorf("damaged archive: %w", err)
	}
	left := int64(maxStream)
	for _, f := range archive.File {
		body, err := f.Open()
		if err != nil {
			return fmt.Errorf("entry %q: %w", f.Name, err)
		}
		limited := &io.LimitedReader{R: body, N: left}
		e := entry{name: f.Name, mode: f.Mode(), size: int64(min(f.UncompressedSize64, maxStream)), body: limited}
		if e.mode&fs.ModeSymlink != 0 {
			to, failed := io.ReadAll(io.LimitReader(limited, 4096))
			e.link, err = string(to), failed
		}
		if err == nil {
			err = visit(e)
		}
		left = limited.N
		if err = errors.Join(err, body.Close()); err != nil {
			return err
		}
		if left <= 0 {
			return fmt.Errorf("it unpacks to over %d bytes", int64(maxStream))
		}
	}
	return nil
}
