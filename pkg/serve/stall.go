package serve

import (
	"io"
	"math"
	"net/http"
	"time"
)

const (
	// stallTimeout is how long a client may take for stallBytes of an answer: lines are thin, but who takes nothing
	// at all keeps files and connections open.
	stallTimeout = 2 * time.Minute
	stallBytes   = 128 << 10
)

// limitStalls ends connections of clients that do not take their answers.
func limitStalls(next http.Handler, within time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		paced := &pacedWriter{w, http.NewResponseController(w), within}
		defer paced.extend() // for what is still to be flushed
		next.ServeHTTP(paced, r)
	})
}

// pacedWriter sets a deadline for each part of an answer, and none while no part is written: with HTTP 2 a deadline ends the
// answer when it passes, even if it is the handler that waits, for what it has to send.
type pacedWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	within  time.Duration
}

// extend begins the time for the next part. Where there are no deadlines there is no connection either.
func (w *pacedWriter) extend() { _ = w.control.SetWriteDeadline(time.Now().Add(w.within)) }

// rest ends the time for a part that was written.
func (w *pacedWriter) rest() { _ = w.control.SetWriteDeadline(time.Time{}) }

// WriteHeader implements [http.ResponseWriter].
func (w *pacedWriter) WriteHeader(status int) {
	w.extend()
	defer w.rest()
	w.ResponseWriter.WriteHeader(status)
}

// Write implements [http.ResponseWriter].
func (w *pacedWriter) Write(p []byte) (total int, err error) {
	defer w.rest()
	for {
		w.extend()
		n, err := w.ResponseWriter.Write(p[:min(len(p), stallBytes)])
		total, p = total+n, p[n:]
		if err != nil || len(p) == 0 {
			return total, err
		}
	}
}

// ReadFrom lets the system send files by itself, a part at a time.
func (w *pacedWriter) ReadFrom(r io.Reader) (total int64, err error) {
	to, ok := w.ResponseWriter.(io.ReaderFrom)
	if !ok {
		return io.Copy(struct{ io.Writer }{w}, r)
	}
	whole, ok := r.(*io.LimitedReader) // within another one the file would not be seen
	if !ok {
		whole = &io.LimitedReader{R: r, N: math.MaxInt64}
	}
	for whole.N > 0 {
		part := &io.LimitedReader{R: whole.R, N: min(whole.N, stallBytes)}
		size := part.N
		w.extend()
		n, err := to.ReadFrom(part)
		w.rest()
		total, whole.N = total+n, whole.N-n
		if err != nil || n < size {
			return total, err
		}
	}
	return total, nil
}

// FlushError is for [http.ResponseController], too.
func (w *pacedWriter) FlushError() error {
	w.extend()
	defer w.rest()
	return w.control.Flush()
}

// Unwrap is for [http.ResponseController].
func (w *pacedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
