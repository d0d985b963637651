package transfer

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"time"

	"oras.land/oras-go/v2/registry/remote/retry"
)

// maxAttempts limits the attempts for a manifest.
const maxAttempts = 5

// withRetries repeats f when a connection breaks, and once when content does not match its digest: a
// byte may have changed in transit. A registry's client repeats requests by itself, but it cannot
// resume a manifest.
func withRetries(ctx context.Context, f func() error) error {
	again := false
	for attempt := 0; ; attempt++ {
		err := f()
		if err != nil && !again && isWrongContent(err) && ctx.Err() == nil {
			again = true
			continue
		}
		if err == nil || ctx.Err() != nil || attempt+1 == maxAttempts || !isBrokenConnection(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(retry.DefaultBackoff(attempt, nil)):
		}
	}
}

func isBrokenConnection(err error) bool {
	var network net.Error
	return errors.As(err, &network) && network.Timeout() ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
