package delta

import (
	"errors"
	"fmt"
	"io"
	"time"
)

// ErrWork reports a delta that would take more work than a layer of its size can need. What it makes could be right,
// but anyone may have written it, and a small delta must not keep a site busy.
var ErrWork = errors.New("exceeds the work limit")

// Limits on the work for one layer. [Make] keeps to them, so that they refuse nothing that it made.
const (
	// maxRatio is how many times its size a layer can have as a tar: deflate gives 1,032 at most.
	maxRatio = 1100
	// maxLargeRatio is the same for a tar of more than largeTar: large layers are not that empty.
	maxLargeRatio = 32
	largeTar      = 256 << 20
	// maxBaseRatio is how many times the size of the layer its bases may have together, and those of its tar as
	// tars, with moreBases and moreBaseTars on top.
	maxBaseRatio = 16
	moreBases    = 256 << 20
	moreBaseTars = 1 << 30

	// moreTime is how long it may take to make a layer, and pace how much of it is to be made in a second more.
	moreTime = 30 * time.Second
	pace     = 128 << 10
)

// maxTarSize returns how large a layer can be as a tar.
func maxTarSize(size int64) int64 { return size*maxRatio + 1<<16 }

// allowedTarSize returns how large the tar may be of a layer that a delta makes.
func allowedTarSize(size int64) int64 {
	return min(maxTarSize(size), max(largeTar, size*maxLargeRatio))
}

// allowedBases returns how large the bases of a layer may be together, and how large as tars.
func (b Base) allowedBases() (size, tarSize int64) {
	return b.Size*maxBaseRatio + moreBases, b.TarSize*maxBaseRatio + moreBaseTars
}

// checkWork returns an error if making the layer would read or write more than it can need.
func (h Header) checkWork() error {
	if limit := allowedTarSize(h.Layer.Size); h.Layer.TarSize > limit {
		return fmt.Errorf("tar of %d bytes for a layer of %d, the limit is %d: %w", h.Layer.TarSize, h.Layer.Size, limit, ErrWork)
	}
	var size, tarSize int64
	for _, b := range h.Bases {
		size, tarSize = size+b.Size, tarSize+b.TarSize
	}
	if most, mostAsTar := h.Layer.allowedBases(); size > most || tarSize > mostAsTar {
		return fmt.Errorf("bases of %d bytes, %d as tars, for a layer of %d, %d as a tar: %w", size, tarSize, h.Layer.Size, h.Layer.TarSize, ErrWork)
	}
	return nil
}

// workClock measures the time of work, not the time of waiting for a reader or a writer. One goroutine uses it.
type workClock struct {
	limit, spent time.Duration
	// since is when the work went on; zero while it waits.
	since time.Time
}

// startClock starts the clock of a layer.
func startClock(size int64, o Options) *workClock {
	limit := o.MaxTime
	if limit <= 0 {
		limit = moreTime + time.Duration(size/pace)*time.Second
	}
	return &workClock{limit: limit, since: time.Now()}
}

// checkTime returns an error if the work has taken too long.
func (c *workClock) checkTime() error {
	if c.spent+time.Since(c.since) > c.limit {
		return fmt.Errorf("rebuild layer: not finished after %v: %w", c.limit.Round(time.Millisecond), ErrWork)
	}
	return nil
}

// waitFor calls what the work waits for.
func (c *workClock) waitFor(do func() (int, error)) (int, error) {
	c.spent += time.Since(c.since)
	n, err := do()
	c.since = time.Now()
	return n, err
}

// waitingReader is a reader that the work waits for.
type waitingReader struct {
	*workClock
	r io.Reader
}

func (w waitingReader) Read(p []byte) (int, error) {
	return w.waitFor(func() (int, error) { return w.r.Read(p) })
}

// waitingWriter is a writer that the work waits for.
type waitingWriter struct {
	*workClock
	w io.Writer
}

func (w waitingWriter) Write(p []byte) (int, error) {
	if err := w.checkTime(); err != nil {
		return 0, err
	}
	return w.waitFor(func() (int, error) { return w.w.Write(p) })
}

// workingReader is a reader that ends when the work has taken too long.
type workingReader struct {
	*workClock
	r io.Reader
	// done is how much was read since the clock was looked at.
	done int
}

func (w *workingReader) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	// A tar is read operation by operation, most of which are short.
	if w.done += n + 1<<8; w.done >= 1<<15 && err == nil {
		w.done, err = 0, w.checkTime()
	}
	return n, err
}
