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

// attempts is how often a manifest is tried.
const attempts = 5

// retried runs f again while a connection breaks, and once more when content arrived that is not
// what its digest says: a byte may have changed on the way. A registry's client sends requests
// again by itself, but it can't mend a manifest that breaks off.
func retried(ctx context.Context, f func() error) error {
	again := false
	for attempt := 0; ; attempt++ {
		err := f()
		if err != nil && !again && isWrongContent(err) && ctx.Err() == nil {
			again = true
			continue
		}
		if err == nil || ctx.Err() != nil || attempt+1 == attempts || !breaks(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(retry.DefaultBackoff(attempt, nil)):
		}
	}
}

func breaks(err error) bool {
	var network net.Error
	return errors.As(err, &network) && network.Timeout() ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
