package gate

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
)

const (
	// heldBytes is how much of a blob is held back until its digest is right.
	heldBytes = 32 << 10
	// maxSmall is the size up to which blobs are read into memory.
	maxSmall = 1 << 20
	// partialPrefix is of files that are not complete.
	partialPrefix = "partial-"
)

// errNoRoom is the error of content that the cache does not take.
var errNoRoom = errors.New("no room in the cache")

// blobCache keeps content by digest in a folder, the latest used as far as they fit. What was
// downloaded was hashed; what an earlier process left, or another one changed, is hashed before it is used.
type blobCache struct {
	dir   string
	limit int64

	mu        sync.Mutex
	size      int64
	order     *list.List // of digest.Digest, the latest used first
	entries   map[digest.Digest]*cacheEntry
	downloads map[digest.Digest]*download
	running   sync.WaitGroup
	closed    bool
}

// cacheEntry is a complete file.
type cacheEntry struct {
	size  int64
	place *list.Element
	// modified is the file's time when it was hashed; zero if it was not.
	modified time.Time
}

func openCache(dir string, limit int64) (*blobCache, error) {
	if limit <= 0 {
		return nil, errors.New("cache: the size limit is not positive")
	}
	c := &blobCache{dir: dir, limit: limit, order: list.New(), entries: map[digest.Digest]*cacheEntry{}, downloads: map[digest.Digest]*download{}}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	if err := c.scanFolder(); err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	return c, nil
}

// scanFolder finds what an earlier process left.
func (c *blobCache) scanFolder() error {
	type found struct {
		d    digest.Digest
		info fs.FileInfo
	}
	var all []found
	err := filepath.WalkDir(c.dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		d := digest.NewDigestFromEncoded(digest.Algorithm(filepath.Base(filepath.Dir(name))), entry.Name())
		if d.Validate() != nil || !entry.Type().IsRegular() {
			if matched, _ := filepath.Match(partialPrefix+"*", entry.Name()); matched {
				return os.Remove(name)
			}
			return nil // not of the cache
		}
		info, err := entry.Info()
		if err == nil {
			all = append(all, found{d, info})
		}
		return err
	})
	if err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b found) int { return a.info.ModTime().Compare(b.info.ModTime()) })
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range all {
		c.entries[f.d] = &cacheEntry{size: f.info.Size(), place: c.order.PushFront(f.d)}
		c.size += f.info.Size()
	}
	c.makeRoom(0)
	return nil
}

// close ends downloads.
func (c *blobCache) close() {
	c.mu.Lock()
	c.closed = true
	for _, d := range c.downloads {
		d.cancel()
	}
	c.mu.Unlock()
	c.running.Wait()
}

func (c *blobCache) path(d digest.Digest) string {
	return filepath.Join(c.dir, d.Algorithm().String(), d.Encoded())
}

func (c *blobCache) totalSize() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.size
}

// makeRoom removes what was not used for the longest time, and reports whether so much fits then.
func (c *blobCache) makeRoom(bytes int64) bool {
	if bytes > c.limit {
		return false
	}
	for c.size+bytes > c.limit && c.order.Len() > 0 {
		c.dropBlob(c.order.Back().Value.(digest.Digest))
	}
	return c.size+bytes <= c.limit
}

// dropBlob removes an entry. Who reads the file reads on.
func (c *blobCache) dropBlob(d digest.Digest) {
	e := c.entries[d]
	if e == nil {
		return
	}
	c.order.Remove(e.place)
	delete(c.entries, d)
	c.size -= e.size
	os.Remove(c.path(d)) // if it stays, the next start finds it
}

// openFile opens a complete file whose content has its digest. It returns nil if the cache has no such file.
func (c *blobCache) openFile(d digest.Digest) *os.File {
	c.mu.Lock()
	e := c.entries[d]
	if e == nil {
		c.mu.Unlock()
		return nil
	}
	c.order.MoveToFront(e.place)
	modified, size := e.modified, e.size
	c.mu.Unlock()
	file, err := os.Open(c.path(d))
	if err == nil {
		var info fs.FileInfo
		if info, err = file.Stat(); err == nil && (info.Size() != size || !info.ModTime().Equal(modified)) {
			if err = checkFile(file, d); err == nil {
				c.mu.Lock()
				c.size += info.Size() - e.size
				e.modified, e.size = info.ModTime(), info.Size()
				c.mu.Unlock()
			}
		}
	}
	if err == nil {
		return file
	}
	if file != nil {
		file.Close()
	}
	c.mu.Lock()
	if c.entries[d] == e {
		c.dropBlob(d)
	}
	c.mu.Unlock()
	return nil
}

// checkFile hashes a file and goes back to its beginning.
func checkFile(file *os.File, d digest.Digest) error {
	verifier := d.Verifier()
	if _, err := io.Copy(verifier, file); err != nil {
		return err
	}
	if !verifier.Verified() {
		return fmt.Errorf("%s in the cache: %w", d, content.ErrMismatchedDigest)
	}
	_, err := file.Seek(0, io.SeekStart)
	return err
}

// readSmall returns content that is in the cache and no larger than the limit, hashed; nil if it is not there.
func (c *blobCache) readSmall(d digest.Digest, limit int64) []byte {
	file := c.openFile(d)
	if file == nil {
		return nil
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil || int64(len(data)) > limit || d.Algorithm().FromBytes(data) != d {
		return nil
	}
	return data
}

// putBlob keeps content that was hashed. That it cannot is no loss: it is asked for again.
func (c *blobCache) putBlob(d digest.Digest, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries[d] != nil || c.downloads[d] != nil || c.closed || !c.makeRoom(int64(len(data))) {
		return
	}
	file, err := c.createPartial()
	if err != nil {
		return
	}
	_, err = file.Write(data)
	if err = errors.Join(err, file.Close()); err == nil {
		err = c.keepFile(file.Name(), d, int64(len(data)))
	}
	if err != nil {
		os.Remove(file.Name())
	}
}

func (c *blobCache) createPartial() (*os.File, error) { return os.CreateTemp(c.dir, partialPrefix) }

// keepFile gives a complete file its name.
func (c *blobCache) keepFile(partial string, d digest.Digest, size int64) error {
	final := c.path(d)
	if err := os.MkdirAll(filepath.Dir(final), 0o700); err != nil {
		return err
	}
	info, err := os.Stat(partial)
	if err == nil {
		err = os.Rename(partial, final)
	}
	if err != nil {
		return err
	}
	c.entries[d] = &cacheEntry{size: size, place: c.order.PushFront(d), modified: info.ModTime()}
	c.size += size
	return nil
}

// openBlob opens content: a complete file, which is an [*os.File], or a reader of what is being downloaded. The error is errNoRoom if the cache does
// not take it.
func (c *blobCache) openBlob(ctx context.Context, desc ocispec.Descriptor, fetch func(context.Context) (io.ReadCloser, error)) (io.ReadCloser, error) {
	if file := c.openFile(desc.Digest); file != nil {
		return file, nil
	}
	c.mu.Lock()
	d := c.downloads[desc.Digest]
	if d != nil && !d.addReader(desc.Size) {
		d = nil
		c.mu.Unlock()
		return nil, errNoRoom
	}
	if d == nil {
		var err error
		if d, err = c.startDownload(desc, fetch); err != nil {
			c.mu.Unlock()
			return nil, errNoRoom
		}
	}
	c.mu.Unlock()
	reader := &downloadReader{ctx: ctx, download: d}
	reader.stop = context.AfterFunc(ctx, d.wakeReaders)
	if err := d.waitForStart(ctx); err != nil {
		return nil, errors.Join(err, reader.Close())
	}
	return reader, nil
}

// startDownload begins a download, with one reader.
func (c *blobCache) startDownload(desc ocispec.Descriptor, fetch func(context.Context) (io.ReadCloser, error)) (*download, error) {
	if c.closed || desc.Size < 0 || !c.makeRoom(desc.Size) {
		return nil, errNoRoom
	}
	file, err := c.createPartial()
	if err != nil {
		return nil, err
	}
	c.size += desc.Size // reserved
	ctx, cancel := context.WithCancel(context.Background())
	d := &download{desc: desc, file: file, cancel: cancel, readers: 2} // the reader, and the download itself
	d.changed.L = &d.mu
	c.downloads[desc.Digest] = d
	c.running.Go(func() {
		err := d.fetchContent(ctx, fetch)
		c.mu.Lock()
		delete(c.downloads, desc.Digest)
		c.size -= desc.Size
		if err == nil {
			err = c.keepFile(file.Name(), desc.Digest, desc.Size)
		}
		if err != nil {
			os.Remove(file.Name())
		}
		c.mu.Unlock()
		d.removeReader()
	})
	return d, nil
}

// download is content on its way into the cache, for all who read it meanwhile.
type download struct {
	desc   ocispec.Descriptor
	file   *os.File
	cancel context.CancelFunc

	mu      sync.Mutex
	changed sync.Cond
	written int64
	done    bool
	err     error
	readers int
}

// addReader adds a reader, unless the download was given up or is of another size.
func (d *download) addReader(size int64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.readers <= 1 || size != d.desc.Size || d.done && d.err != nil {
		return false
	}
	d.readers++
	return true
}

// removeReader removes a reader. With the last one a download that runs ends.
func (d *download) removeReader() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.readers--
	if d.readers == 1 && !d.done {
		d.cancel()
	}
	if d.readers == 0 {
		d.file.Close() // all was written, or nobody needs it
	}
}

func (d *download) wakeReaders() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.changed.Broadcast()
}

// fetchContent downloads and hashes the content.
func (d *download) fetchContent(ctx context.Context, fetch func(context.Context) (io.ReadCloser, error)) error {
	err := d.copyContent(ctx, fetch)
	d.cancel()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.done, d.err = true, err
	d.changed.Broadcast()
	return err
}

func (d *download) copyContent(ctx context.Context, fetch func(context.Context) (io.ReadCloser, error)) error {
	body, err := fetch(ctx)
	if err != nil {
		return err
	}
	defer body.Close()
	verifier := d.desc.Digest.Verifier()
	buffer := make([]byte, 128<<10)
	for {
		n, err := body.Read(buffer)
		if n > 0 {
			verifier.Write(buffer[:n]) // a hash takes everything
			if d.written+int64(n) > d.desc.Size {
				return fmt.Errorf("%s: %w", d.desc.Digest, content.ErrTrailingData)
			}
			if _, err := d.file.WriteAt(buffer[:n], d.written); err != nil {
				return err
			}
			d.mu.Lock()
			d.written += int64(n)
			d.changed.Broadcast()
			d.mu.Unlock()
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if d.written != d.desc.Size {
		return fmt.Errorf("%s: %d bytes of %d: %w", d.desc.Digest, d.written, d.desc.Size, io.ErrUnexpectedEOF)
	}
	if !verifier.Verified() {
		return fmt.Errorf("%s: %w", d.desc.Digest, content.ErrMismatchedDigest)
	}
	return nil
}

// countReadable returns how much may be read: not the last part before the digest is known to be right.
func (d *download) countReadable() int64 {
	if d.done && d.err == nil {
		return d.desc.Size
	}
	return max(0, d.written-heldBytes)
}

// waitForStart waits until something may be read, or the download has ended.
func (d *download) waitForStart(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for !d.done && d.countReadable() == 0 {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		d.changed.Wait()
	}
	if d.done {
		return d.err
	}
	return nil
}

// downloadReader reads what is being downloaded.
type downloadReader struct {
	ctx      context.Context
	download *download
	offset   int64
	stop     func() bool
	closed   bool
}

// Read waits for more content.
func (r *downloadReader) Read(p []byte) (int, error) {
	d := r.download
	d.mu.Lock()
	for d.countReadable() <= r.offset && !d.done {
		if r.ctx.Err() != nil {
			d.mu.Unlock()
			return 0, r.ctx.Err()
		}
		d.changed.Wait()
	}
	until, err := d.countReadable(), d.err
	d.mu.Unlock()
	if r.offset >= until {
		if err == nil {
			err = io.EOF
		}
		return 0, err
	}
	n, err := d.file.ReadAt(p[:min(int64(len(p)), until-r.offset)], r.offset)
	r.offset += int64(n)
	if err == io.EOF && n > 0 {
		err = nil
	}
	return n, err
}

// WaitForEnd waits until all content is there and right.
func (r *downloadReader) WaitForEnd() error {
	d := r.download
	d.mu.Lock()
	defer d.mu.Unlock()
	for !d.done {
		if r.ctx.Err() != nil {
			return r.ctx.Err()
		}
		d.changed.Wait()
	}
	return d.err
}

func (r *downloadReader) Close() error {
	if !r.closed {
		r.closed = true
		r.stop()
		r.download.removeReader()
	}
	return nil
}

// heldReader hashes content that is passed through, and holds its last part back until the digest is right.
type heldReader struct {
	body     io.ReadCloser
	desc     ocispec.Descriptor
	verifier digest.Verifier
	buffer   []byte
	// start and end are what of the buffer is to be read.
	start, end int
	read       int64
	err        error
}

func newHeldReader(body io.ReadCloser, desc ocispec.Descriptor) *heldReader {
	return &heldReader{body: body, desc: desc, verifier: desc.Digest.Verifier(), buffer: make([]byte, 2*heldBytes)}
}

func (r *heldReader) Read(p []byte) (int, error) {
	for {
		ready := r.end - r.start - heldBytes
		if r.err == io.EOF {
			ready = r.end - r.start
		}
		if ready > 0 {
			n := copy(p, r.buffer[r.start:r.start+ready])
			r.start += n
			return n, nil
		}
		if r.err != nil {
			return 0, r.err
		}
		r.fillBuffer()
	}
}

// fillBuffer reads more, and checks the whole at its end.
func (r *heldReader) fillBuffer() {
	copy(r.buffer, r.buffer[r.start:r.end])
	r.start, r.end = 0, r.end-r.start
	n, err := r.body.Read(r.buffer[r.end:])
	r.verifier.Write(r.buffer[r.end : r.end+n]) // a hash takes everything
	r.end += n
	r.read += int64(n)
	switch {
	case r.read > r.desc.Size:
		err = fmt.Errorf("%s: %w", r.desc.Digest, content.ErrTrailingData)
	case err == io.EOF && r.read < r.desc.Size:
		err = fmt.Errorf("%s: %d bytes of %d: %w", r.desc.Digest, r.read, r.desc.Size, io.ErrUnexpectedEOF)
	case err == io.EOF && !r.verifier.Verified():
		err = fmt.Errorf("%s: %w", r.desc.Digest, content.ErrMismatchedDigest)
	}
	r.err = err
}

func (r *heldReader) Close() error { return r.body.Close() }

// countedBody counts the bytes of a body.
type countedBody struct {
	io.ReadCloser
	bytes *atomic.Int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.bytes.Add(int64(n))
	return n, err
}
