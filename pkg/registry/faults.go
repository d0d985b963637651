package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"oras.land/oras-go/v2/registry/remote/errcode"

	"krtpkg.dev/krtpkg/pkg/retry"
)

// maxWait limits a single Retry-After of a registry.
const maxWait = 5 * time.Minute

// rateLimitError is an answer that asks to wait before the next request.
type rateLimitError struct {
	error
	after time.Duration
}

func (e *rateLimitError) Unwrap() error { return e.error }

// responseError returns the error in an answer.
func responseError(response *http.Response) error {
	at := *response.Request.URL
	at.User, at.RawQuery = nil, "" // storage behind a registry is asked with signed URLs
	err := &errcode.ErrorResponse{Method: response.Request.Method, URL: &at, StatusCode: response.StatusCode}
	var body struct {
		Errors errcode.Errors `json:"errors"`
	}
	if json.NewDecoder(io.LimitReader(response.Body, 8<<10)).Decode(&body) == nil {
		err.Errors = body.Errors
	}
	if after := retryAfter(response); after > 0 {
		return &rateLimitError{err, after}
	}
	return err
}

// retryAfter returns how long a registry asks to wait (RFC 9110, 10.2.3), or 0.
func retryAfter(response *http.Response) time.Duration {
	if response.StatusCode != http.StatusTooManyRequests && response.StatusCode != http.StatusServiceUnavailable {
		return 0
	}
	return retry.ParseAfter(response.Header)
}

// WaitError is the error of a registry that asks to wait for longer than is allowed.
type WaitError struct {
	Host  string
	After time.Duration
}

func (e *WaitError) Error() string {
	return fmt.Sprintf("registry %s refuses requests for the next %s", e.Host, e.After.Round(time.Second))
}

// retryPolicy decides when to repeat a request without a body, or with one that can be read again.
type retryPolicy struct {
	backoff    func(attempt int) time.Duration
	waitBudget *waitBudget
}

func (p retryPolicy) Retry(attempt int, response *http.Response, err error) (time.Duration, error) {
	if response != nil {
		after := retryAfter(response)
		if after > maxWait {
			return -1, &WaitError{response.Request.URL.Host, after}
		}
		if after > 0 && attempt < maxResends {
			if !p.waitBudget.allowWait(after) {
				return -1, &WaitError{response.Request.URL.Host, after}
			}
			return after, nil
		}
	}
	if attempt < maxResends && (err != nil && isBrokenConnection(err) || response != nil && isTransientStatus(response.StatusCode)) {
		return p.backoff(attempt), nil
	}
	return -1, nil
}

// wireTransport tells requests that broke on the wire from those that never got there, in whichever
// way the protocol says so: HTTP/2 has errors of its own, most of which are not exported.
type wireTransport struct{ http.RoundTripper }

// RoundTrip sends a request. Its error is a [*brokenError] if the registry got the request's header,
// and neither the content nor the caller failed.
func (t *wireTransport) RoundTrip(request *http.Request) (*http.Response, error) {
	var written atomic.Bool
	trace := &httptrace.ClientTrace{WroteHeaders: func() { written.Store(true) }}
	sent := request.WithContext(httptrace.WithClientTrace(request.Context(), trace))
	body := &sentBody{ReadCloser: request.Body}
	if request.Body != nil && request.Body != http.NoBody {
		sent.Body = body
	}
	response, err := t.RoundTripper.RoundTrip(sent)
	if err != nil && written.Load() && !body.failed.Load() && request.Context().Err() == nil {
		err = &brokenError{err}
	}
	return response, err
}

// sentBody is the content of a request, which may fail where it comes from.
type sentBody struct {
	io.ReadCloser
	failed atomic.Bool
}

func (b *sentBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		b.failed.Store(true)
	}
	return n, err
}

// isWorthRetrying reports whether another attempt may succeed after err.
func isWorthRetrying(err error) bool {
	var broken *brokenError
	var response *errcode.ErrorResponse
	var wait *WaitError
	var slow *SlowError
	switch {
	case errors.As(err, &broken):
		return true
	case errors.As(err, &wait), errors.As(err, &slow), errors.Is(err, ErrEndless):
		return false
	case errors.As(err, &response):
		if response.Method != http.MethodPut && response.Method != http.MethodPatch {
			return false // the transport has tried
		}
		switch response.StatusCode {
		case http.StatusNotFound, http.StatusRequestedRangeNotSatisfiable, http.StatusMethodNotAllowed,
			http.StatusUnsupportedMediaType, http.StatusNotImplemented:
			return true // the session is gone, or chunks are refused: begin another
		}
		return isTransientStatus(response.StatusCode)
	}
	return isBrokenConnection(err) || errors.Is(err, syscall.ECONNREFUSED)
}

// isTransientStatus reports whether another attempt may succeed after a status.
func isTransientStatus(status int) bool {
	return status == http.StatusRequestTimeout || status == http.StatusTooManyRequests ||
		status >= http.StatusInternalServerError && status != http.StatusInsufficientStorage && status != http.StatusNotImplemented
}

// isBrokenConnection reports whether err is the error of a broken or stalled connection.
func isBrokenConnection(err error) bool {
	var broken *brokenError
	var network net.Error
	return errors.As(err, &broken) || errors.As(err, &network) && network.Timeout() || isChangedRecord(err) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// isChangedRecord reports whether a byte of a TLS record changed on the way to either side. crypto/tls does not
// export what tells it from other alerts, which are for ever.
func isChangedRecord(err error) bool {
	var alert *net.OpError
	return errors.As(err, &alert) && (alert.Op == "local error" || alert.Op == "remote error") &&
		strings.HasSuffix(alert.Err.Error(), "bad record MAC")
}

func isStatus(err error, status int) bool {
	var response *errcode.ErrorResponse
	return errors.As(err, &response) && response.StatusCode == status
}

func hasCode(err error, code string) bool {
	var response *errcode.ErrorResponse
	return errors.As(err, &response) && slices.ContainsFunc(response.Errors, func(e errcode.Error) bool { return e.Code == code })
}

// newDialer returns a dial function for connections that fail when they stall.
func newDialer(stall time.Duration) func(ctx context.Context, network, address string) (net.Conn, error) {
	d := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := d.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &watchedConn{Conn: conn, stall: stall}, nil
	}
}

// watchedConn is a connection that fails when no byte moves in either direction. One clock serves
// both, since nothing arrives while a body is sent, and the other way round.
type watchedConn struct {
	net.Conn
	stall time.Duration
	// lastMoved is the time of the last byte, in nanoseconds since 1970.
	lastMoved atomic.Int64
}

func (c *watchedConn) Read(p []byte) (int, error) {
	return c.transferWatched(p, c.Conn.SetReadDeadline, c.Conn.Read)
}

func (c *watchedConn) Write(p []byte) (written int, err error) {
	for written < len(p) && err == nil {
		var n int
		n, err = c.transferWatched(p[written:], c.Conn.SetWriteDeadline, c.Conn.Write)
		written += n
	}
	return written, err
}

// copyBuffers are buffers for uploads, larger than those of io.Copy to save system calls.
var copyBuffers = sync.Pool{New: func() any { return new([256 << 10]byte) }}

// ReadFrom implements [io.ReaderFrom].
func (c *watchedConn) ReadFrom(r io.Reader) (int64, error) {
	buffer := copyBuffers.Get().(*[256 << 10]byte)
	defer copyBuffers.Put(buffer)
	return io.CopyBuffer(struct{ io.Writer }{c}, r, buffer[:])
}

// transferWatched moves some bytes, and waits longer while others move on the connection.
func (c *watchedConn) transferWatched(p []byte, deadline func(time.Time) error, move func([]byte) (int, error)) (int, error) {
	// An idle connection has half of the time left.
	c.lastMoved.Store(max(c.lastMoved.Load(), time.Now().UnixNano()-int64(c.stall)/2))
	for {
		last := c.lastMoved.Load()
		if err := deadline(time.Unix(0, last).Add(c.stall)); err != nil {
			return 0, err
		}
		n, err := move(p)
		var network net.Error
		late := errors.As(err, &network) && network.Timeout()
		switch {
		case n > 0:
			c.lastMoved.Store(time.Now().UnixNano())
			if late {
				err = nil
			}
			return n, err
		case !late:
			return n, err
		case c.lastMoved.Load() == last:
			return n, &stallError{c.stall}
		}
	}
}

// stallError is a net.Error.
type stallError struct{ after time.Duration }

func (e *stallError) Error() string { return fmt.Sprintf("no byte moved for %s", e.after) }
func (*stallError) Timeout() bool   { return true }
func (*stallError) Temporary() bool { return true }
