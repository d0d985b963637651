package transfer

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"

	"krtpkg.dev/krtpkg/pkg/retry"
)

// withRetries repeats f when a connection breaks, and once at once when content does not match its digest: a
// byte may have changed in transit. A registry's client repeats requests by itself, but it cannot
// resume a manifest.
func withRetries(ctx context.Context, f func() error) error {
	reread := false
	return retry.Policy{}.Do(ctx, isBrokenConnection, func() error {
		err := f()
		if err != nil && !reread && isWrongContent(err) && ctx.Err() == nil {
			reread = true
			err = f()
		}
		return err
	})
}

func isBrokenConnection(err error) bool {
	var network net.Error
	return errors.As(err, &network) && network.Timeout() ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
