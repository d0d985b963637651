package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// Limits on what a server sends, and how fast. Whoever runs it may never come to an end.
const (
	// maxAnswer is how many bytes a git server has for its refs: a million of them.
	maxAnswer = 128 << 20
	// maxBeforePack is how many bytes it has for what comes before a pack.
	maxBeforePack = 16 << 20
	// maxErrorBody is how many bytes of an error are read.
	maxErrorBody = 64 << 10
	// headerTime is how long an answer may take to begin; window is the time over which the rate is averaged.
	headerTime = 5 * time.Minute
	window     = 10 * time.Minute
	// minRate is the least rate, in bytes a second.
	minRate = 1 << 10
)

var errSlow = errors.New("the server is too slow")

// answerGuard is a transport that refuses answers without an end.
type answerGuard struct {
	next http.RoundTripper
	// limit is how many bytes an answer may have; 0 leaves that to the reader.
	limit atomic.Int64
}

// RoundTrip implements [http.RoundTripper].
func (g *answerGuard) RoundTrip(request *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(request.Context())
	timer := time.AfterFunc(headerTime, func() {
		cancel(fmt.Errorf("%w: no answer from %s in %s", errSlow, request.URL.Host, headerTime))
	})
	response, err := g.next.RoundTrip(request.WithContext(ctx))
	timer.Stop()
	if err != nil {
		if errors.Is(context.Cause(ctx), errSlow) {
			err = context.Cause(ctx)
		}
		cancel(nil)
		return nil, err
	}
	response.Body = &guardedBody{ReadCloser: response.Body, guard: g, host: request.URL.Host, isError: response.StatusCode >= http.StatusBadRequest, ctx: ctx, cancel: cancel}
	return response, nil
}

// guardedBody is the body of an answer.
type guardedBody struct {
	io.ReadCloser
	guard   *answerGuard
	host    string
	isError bool
	ctx     context.Context
	cancel  context.CancelCauseFunc
	all     int64
	// waited and bytes are of the current window. Only the time that the reader waits counts.
	waited time.Duration
	bytes  int64
}

func (b *guardedBody) Read(p []byte) (int, error) {
	limit := b.guard.limit.Load()
	switch {
	case b.isError && b.all >= maxErrorBody:
		return 0, io.EOF
	case b.isError:
		p = p[:min(int64(len(p)), maxErrorBody-b.all)]
	case limit > 0 && b.all > limit:
		return 0, fmt.Errorf("the answer %w of %d bytes", errTooLong, limit)
	}
	began := time.Now()
	timer := time.AfterFunc(window, func() {
		b.cancel(fmt.Errorf("%w: nothing from %s in %s", errSlow, b.host, window))
	})
	n, err := b.ReadCloser.Read(p)
	timer.Stop()
	b.all += int64(n)
	b.bytes += int64(n)
	b.waited += time.Since(began)
	switch cause := context.Cause(b.ctx); {
	case err != nil && errors.Is(cause, errSlow):
		return n, cause
	case b.waited < window || err != nil:
	case float64(b.bytes) < minRate*b.waited.Seconds():
		return n, fmt.Errorf("%w: %d bytes from %s in %s", errSlow, b.bytes, b.host, b.waited.Round(time.Second))
	default:
		b.waited, b.bytes = 0, 0
	}
	return n, err
}

func (b *guardedBody) Close() error {
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}
