package delta

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
)

// Source opens base layers.
type Source func(ctx context.Context, base Base) (io.ReadCloser, error)

// Apply returns the layer that the delta makes of bases. Bases are unpacked to temporary files before
// it returns; the layer is made as it is read. Its reader fails before its end unless the content has
// the wanted digest and size: nothing that the delta says of itself is believed. The caller closes it.
// A delta is applied once. Errors: [*BaseError], [ErrDamaged], [ErrMismatch], [ErrWork], [*VersionError].
func (d *Delta) Apply(ctx context.Context, want digest.Digest, size int64, open Source, o Options) (io.ReadCloser, error) {
	if err := want.Validate(); err != nil {
		return nil, err
	}
	if d.Layer.Digest != want || d.Layer.Size != size {
		return nil, fmt.Errorf("delta of %s, %d bytes, for layer %s, %d bytes: %w", d.Layer.Digest, d.Layer.Size, want, size, ErrMismatch)
	}
	old, err := d.openBases(ctx, open, o.Dir)
	if err != nil {
		return nil, err
	}
	clock := startClock(size, o)
	parts, err := newPartReader(bufio.NewReaderSize(waitingReader{clock, d.r}, 1<<16))
	if err != nil {
		return nil, errors.Join(err, old.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	r, w := io.Pipe()
	a := &applied{pipe: r, cancel: cancel, done: make(chan struct{}), old: old, want: want, verifier: want.Verifier(), left: size}
	go func() {
		defer close(a.done)
		defer parts.close()
		maker := newTarMaker(old, old.size(), parts, d.Layer.TarSize)
		defer maker.additions.releaseCoder()
		tar := readAhead(clock, maker)
		err := d.makeLayer(ctx, startClock(size, o), w, tar)
		tar.stop()
		if errors.Is(err, io.ErrClosedPipe) {
			err = context.Canceled
		}
		w.CloseWithError(err)
	}()
	return a, nil
}

// aheadReader is a reader of what another goroutine reads.
type aheadReader struct {
	*io.PipeReader
	done chan struct{}
}

// readAhead reads a tar while what was read before is compressed: each has a core where there are two.
func readAhead(clock *workClock, tar io.Reader) *aheadReader {
	r, w := io.Pipe()
	a := &aheadReader{r, make(chan struct{})}
	go func() {
		defer close(a.done)
		out := bufio.NewWriterSize(waitingWriter{clock, w}, aheadBuffer)
		_, err := io.Copy(out, &workingReader{workClock: clock, r: tar})
		if err == nil {
			err = out.Flush()
		}
		w.CloseWithError(err)
	}()
	return a
}

// aheadBuffer is how much is read ahead, and how much of the layer is passed on at once.
const aheadBuffer = 128 << 10

// stop ends the reading and waits for that.
func (a *aheadReader) stop() {
	a.Close()
	<-a.done
}

// openBases unpacks the bases, each checked.
func (d *Delta) openBases(ctx context.Context, open Source, dir string) (*baseSet, error) {
	set := &baseSet{starts: []int64{0}}
	for _, base := range d.Bases {
		layer := Layer{base.Digest, base.Size, func(ctx context.Context) (io.ReadCloser, error) { return open(ctx, base) }}
		file, err := unpackLayer(ctx, layer, base.TarSize, dir)
		var larger *tarSizeError
		if errors.As(err, &larger) {
			return nil, errors.Join(fmt.Errorf("base layer %s: %w: %w", base.Digest, err, ErrDamaged), set.Close())
		}
		if err != nil {
			return nil, errors.Join(baseError(base.Digest, err), set.Close())
		}
		set.addBase(base, file)
		if file.size != base.TarSize {
			return nil, errors.Join(fmt.Errorf("base layer %s has %d bytes as a tar, not %d: %w", base.Digest, file.size, base.TarSize, ErrDamaged), set.Close())
		}
	}
	return set, nil
}

// makeLayer writes the compressed layer.
func (d *Delta) makeLayer(ctx context.Context, clock *workClock, w io.Writer, tar io.Reader) error {
	out := bufio.NewWriterSize(waitingWriter{clock, w}, aheadBuffer)
	tar = &workingReader{workClock: clock, r: waitingReader{clock, tar}}
	if d.Encoder.Name == encoderNone {
		if _, err := io.Copy(out, contextReader{ctx, tar}); err != nil {
			return err
		}
		return out.Flush()
	}
	if _, err := out.Write(d.GzipHeader); err != nil {
		return err
	}
	if err := compressTo(ctx, out, d.Encoder, tar); err != nil {
		return err
	}
	return out.Flush()
}

// applied is a layer that is made as it is read.
type applied struct {
	pipe     *io.PipeReader
	cancel   context.CancelFunc
	done     chan struct{}
	old      *baseSet
	want     digest.Digest
	verifier digest.Verifier
	left     int64
	closed   bool
}

func (a *applied) Read(p []byte) (int, error) {
	n, err := a.pipe.Read(p)
	if int64(n) > a.left {
		return 0, fmt.Errorf("layer %s: more bytes than it has: %w", a.want, ErrMismatch)
	}
	a.left -= int64(n)
	a.verifier.Write(p[:n])
	switch {
	case err != nil && err != io.EOF:
		return 0, fmt.Errorf("make layer %s from its delta: %w", a.want, err)
	case err == io.EOF && a.left > 0:
		return 0, fmt.Errorf("layer %s: %d bytes are missing: %w", a.want, a.left, ErrMismatch)
	case a.left == 0 && !a.verifier.Verified():
		return 0, fmt.Errorf("layer %s: %w", a.want, ErrMismatch)
	}
	return n, err
}

// Close ends the work and removes the temporary files.
func (a *applied) Close() error {
	if a.closed {
		return nil
	}
	a.closed = true
	a.cancel()
	a.pipe.Close()
	<-a.done
	return a.old.Close()
}

// tarMaker is the tar that operations make, to read.
type tarMaker struct {
	old     io.ReaderAt
	oldSize int64
	parts   *partReader
	// left is how much of the tar is still to come.
	left    int64
	control *bytes.Reader
	// added are how many additions of the part are left, extra its extra bytes that are left.
	added     int64
	additions *additionCoder
	extra     []byte
	// ready are bytes of an addition that are made and not read yet; coded is where they were coded.
	ready []byte
	made  []byte
	coded []byte
	// op is the operation that is carried out, next where the one after it is expected in the bases.
	op   op
	next int64
}

func newTarMaker(old io.ReaderAt, oldSize int64, parts *partReader, size int64) *tarMaker {
	return &tarMaker{
		old: old, oldSize: oldSize, parts: parts, left: size, additions: newAdditionCoder(true),
		made: make([]byte, codedAtOnce), coded: make([]byte, codedAtOnce),
	}
}

func (t *tarMaker) Read(p []byte) (int, error) {
	for t.op.size == 0 && len(t.ready) == 0 {
		if err := t.nextOp(); err != nil {
			return 0, err
		}
	}
	if len(t.ready) == 0 && t.op.kind == opAdd {
		if err := t.addNext(); err != nil {
			return 0, err
		}
	}
	if len(t.ready) > 0 {
		n := copy(p, t.ready)
		t.ready = t.ready[n:]
		return n, nil
	}
	p = p[:min(int64(len(p)), t.op.size)]
	if t.op.kind == opExtra {
		copy(p, t.extra)
		t.extra = t.extra[len(p):]
	} else if _, err := t.old.ReadAt(p, t.op.old); err != nil {
		return 0, damaged(err)
	}
	t.advanceCopy(len(p))
	return len(p), nil
}

func (t *tarMaker) advanceCopy(n int) {
	t.op.size -= int64(n)
	t.op.old += int64(n)
}

// addNext makes the next bytes of an addition.
func (t *tarMaker) addNext() error {
	n := int(min(t.op.size, codedAtOnce))
	made, coded := t.made[:n], t.coded[:n]
	if _, err := t.old.ReadAt(made, t.op.old); err != nil {
		return damaged(err)
	}
	t.additions.codeBytes(made, coded)
	for i, b := range coded {
		made[i] += b
	}
	t.added -= int64(n)
	t.ready = made
	t.advanceCopy(n)
	return nil
}

// nextOp goes to the next operation, if need be in the next part.
func (t *tarMaker) nextOp() error {
	for t.control == nil || t.control.Len() == 0 {
		if left := t.added + int64(len(t.extra)); left > 0 {
			return fmt.Errorf("%d bytes that no operation takes: %w", left, ErrDamaged)
		}
		err := t.parts.readPart()
		if err == io.EOF && t.left > 0 {
			return fmt.Errorf("%d bytes of the tar are missing: %w", t.left, ErrDamaged)
		}
		if err != nil {
			return err
		}
		t.control, t.added, t.extra = bytes.NewReader(t.parts.control), int64(t.parts.added), t.parts.extra
		t.additions.beginSection(t.parts.additions)
	}
	var err error
	if t.op, err = nextOp(t.control, t.next); err != nil {
		return err
	}
	o := t.op
	switch {
	case o.size > t.left:
		err = fmt.Errorf("operation of %d bytes, with %d of the tar left: %w", o.size, t.left, ErrDamaged)
	case o.kind == opExtra && o.size > int64(len(t.extra)), o.kind == opAdd && o.size > t.added:
		err = fmt.Errorf("operation of %d bytes, more than its section has: %w", o.size, ErrDamaged)
	case o.kind != opExtra && (o.old < 0 || o.old > t.oldSize-o.size):
		err = fmt.Errorf("operation at byte %d of the bases, which have %d: %w", o.old, t.oldSize, ErrDamaged)
	}
	if err != nil {
		t.op.size = 0
		return err
	}
	t.left -= o.size
	if o.kind != opExtra {
		t.next = o.old + o.size
	}
	return nil
}
