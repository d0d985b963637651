package transfer

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"oras.land/oras-go/v2/registry/remote/errcode"
	"oras.land/oras-go/v2/registry/remote/retry"
)

// attempts is how often one item is tried.
const attempts = 5

// retried runs f again while it fails in a way that may pass. A registry's transport sends
// requests again by itself, but not one whose body is a stream that has been read, and it
// can't mend an answer that breaks off.
func retried(ctx context.Context, f func() error) error {
	for attempt := 0; ; attempt++ {
		err := f()
		if err == nil || ctx.Err() != nil || attempt+1 == attempts || !transient(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(retry.DefaultBackoff(attempt, nil)):
		}
	}
}

func transient(err error) bool {
	var response *errcode.ErrorResponse
	if errors.As(err, &response) {
		if response.Method != http.MethodPut || strings.Contains(response.URL.Path, "/manifests/") {
			return false // the transport has tried
		}
		switch code := response.StatusCode; code {
		case http.StatusNotFound, // the upload's session got lost
			http.StatusRequestTimeout, http.StatusTooManyRequests:
			return true
		default:
			return code >= http.StatusInternalServerError
		}
	}
	var network net.Error
	return errors.As(err, &network) && network.Timeout() ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
