package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"oras.land/oras-go/v2/registry/remote/errcode"
)

// maxWait is the longest that a registry may ask to be waited for.
const maxWait = 5 * time.Minute

// limitedError is a registry's answer that asks to be left alone for a while.
type limitedError struct {
	error
	after time.Duration
}

func (e *limitedError) Unwrap() error { return e.error }

// failure is the error that an answer says.
func failure(response *http.Response) error {
	err := &errcode.ErrorResponse{Method: response.Request.Method, URL: response.Request.URL, StatusCode: response.StatusCode}
	var body struct {
		Errors errcode.Errors `json:"errors"`
	}
	if json.NewDecoder(io.LimitReader(response.Body, 8<<10)).Decode(&body) == nil {
		err.Errors = body.Errors
	}
	if after := retryAfter(response); after > 0 {
		return &limitedError{err, after}
	}
	return err
}

// retryAfter returns how long a registry asks to wait (RFC 9110, 10.2.3); 0 where it does not.
func retryAfter(response *http.Response) time.Duration {
	text := response.Header.Get("Retry-After")
	if response.StatusCode != http.StatusTooManyRequests && response.StatusCode != http.StatusServiceUnavailable || text == "" {
		return 0
	}
	if seconds, err := strconv.ParseInt(text, 10, 32); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if date, err := http.ParseTime(text); err == nil {
		return max(0, time.Until(date))
	}
	return 0
}

// WaitError says that a registry wants to be left alone for longer than anybody waits.
type WaitError struct {
	Host  string
	After time.Duration
}

func (e *WaitError) Error() string {
	return fmt.Sprintf("registry %s takes no more requests for %s", e.Host, e.After.Round(time.Second))
}

// policy is when a request is sent again that has no body, or one that can be read again.
type policy struct {
	backoff  func(attempt int) time.Duration
	patience *patience
}

func (p policy) Retry(attempt int, response *http.Response, err error) (time.Duration, error) {
	if response != nil {
		after := retryAfter(response)
		if after > maxWait {
			return -1, &WaitError{response.Request.URL.Host, after}
		}
		if after > 0 && attempt < resends {
			if !p.patience.allows(after) {
				return -1, &WaitError{response.Request.URL.Host, after}
			}
			return after, nil
		}
	}
	if attempt < resends && (err != nil && breaks(err) || response != nil && mayPass(response.StatusCode)) {
		return p.backoff(attempt), nil
	}
	return -1, nil
}

// passes reports whether an error may pass when the same is tried again.
func passes(err error) bool {
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
			return true // the session is gone, or parts are not taken: another begins
		}
		return mayPass(response.StatusCode)
	}
	return breaks(err) || errors.Is(err, syscall.ECONNREFUSED)
}

// mayPass reports whether a status is worth another try.
func mayPass(status int) bool {
	return status == http.StatusRequestTimeout || status == http.StatusTooManyRequests ||
		status >= http.StatusInternalServerError && status != http.StatusInsufficientStorage && status != http.StatusNotImplemented
}

// breaks reports whether an error is that of a connection that broke, or stood still.
func breaks(err error) bool {
	var network net.Error
	return errors.As(err, &network) && network.Timeout() ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func isStatus(err error, status int) bool {
	var response *errcode.ErrorResponse
	return errors.As(err, &response) && response.StatusCode == status
}

func hasCode(err error, code string) bool {
	var response *errcode.ErrorResponse
	return errors.As(err, &response) && slices.ContainsFunc(response.Errors, func(e errcode.Error) bool { return e.Code == code })
}

// dialer makes connections that fail when nothing moves on them for a while.
func dialer(stall time.Duration) func(ctx context.Context, network, address string) (net.Conn, error) {
	d := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := d.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &watched{Conn: conn, stall: stall}, nil
	}
}

// watched is a connection that fails when no byte moves in either direction. While a body
// goes up nothing comes down, and the other way round, so one clock counts for both.
type watched struct {
	net.Conn
	stall time.Duration
	// moved is when the last byte did, in nanoseconds since 1970.
	moved atomic.Int64
}

func (c *watched) Read(p []byte) (int, error) {
	return c.watch(p, c.Conn.SetReadDeadline, c.Conn.Read)
}

func (c *watched) Write(p []byte) (written int, err error) {
	for written < len(p) && err == nil {
		var n int
		n, err = c.watch(p[written:], c.Conn.SetWriteDeadline, c.Conn.Write)
		written += n
	}
	return written, err
}

// copies are buffers for what goes up: larger than those of io.Copy, so that a blob takes
// fewer calls of the system.
var copies = sync.Pool{New: func() any { return new([256 << 10]byte) }}

// ReadFrom sends all that a reader has.
func (c *watched) ReadFrom(r io.Reader) (int64, error) {
	buffer := copies.Get().(*[256 << 10]byte)
	defer copies.Put(buffer)
	return io.CopyBuffer(struct{ io.Writer }{c}, r, buffer[:])
}

// watch moves some bytes, and waits for longer while others move on the connection.
func (c *watched) watch(p []byte, deadline func(time.Time) error, move func([]byte) (int, error)) (int, error) {
	// A connection that was idle has half of the time left.
	c.moved.Store(max(c.moved.Load(), time.Now().UnixNano()-int64(c.stall)/2))
	for {
		last := c.moved.Load()
		if err := deadline(time.Unix(0, last).Add(c.stall)); err != nil {
			return 0, err
		}
		n, err := move(p)
		var network net.Error
		late := errors.As(err, &network) && network.Timeout()
		switch {
		case n > 0:
			c.moved.Store(time.Now().UnixNano())
			if late {
				err = nil
			}
			return n, err
		case !late:
			return n, err
		case c.moved.Load() == last:
			return n, &stallError{c.stall}
		}
	}
}

// stallError is a net.Error.
type stallError struct{ after time.Duration }

func (e *stallError) Error() string { return fmt.Sprintf("no byte moved for %s", e.after) }
func (*stallError) Timeout() bool   { return true }
func (*stallError) Temporary() bool { return true }
