// Package retry repeats what fails only for a moment: requests to registries, to servers of sources and to an API
// server. Call [Policy.Do], which decides how often and how long to wait; which errors are worth another attempt is up to the
// caller. What retries in another way uses [Policy.Pause], [Wait] and [ParseAfter] by themselves.
package retry

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

// Policy is how often something is attempted, and how long the pauses are. The zero value attempts it five times, with
// pauses from a quarter of a second to eight seconds.
type Policy struct {
	// Attempts limits the attempts (default: 5).
	Attempts int
	// First is the first pause (default: 250 milliseconds). Each further pause is twice as long.
	First time.Duration
	// Longest limits a pause before jitter (default: 8 seconds).
	Longest time.Duration
}

// Pause returns the pause after a failed attempt, counted from 0, with [AddJitter].
func (p Policy) Pause(attempt int) time.Duration {
	pause, longest := cmp.Or(p.First, 250*time.Millisecond), cmp.Or(p.Longest, 8*time.Second)
	for range attempt {
		if pause >= longest {
			break
		}
		pause *= 2
	}
	return AddJitter(min(pause, longest))
}

// Do calls attempt until it succeeds, fails with an error that is not transient, or has been called Attempts times. An
// error after more than one attempt says how many there were. If ctx ends during a pause, the error wraps that of ctx
// and that of the last attempt.
func (p Policy) Do(ctx context.Context, isTransient func(error) bool, attempt func() error) error {
	attempts := cmp.Or(p.Attempts, 5)
	for n := 0; ; n++ {
		err := attempt()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil, !isTransient(err):
			return err
		case n+1 >= attempts && n == 0:
			return err
		case n+1 >= attempts:
			return fmt.Errorf("%w (%d attempts)", err, n+1)
		}
		if ended := Wait(ctx, p.Pause(n)); ended != nil {
			return fmt.Errorf("%w after: %w", ended, err)
		}
	}
}

// AddJitter returns a pause that is up to half as long again, so that clients that failed at the same time do not come
// back at the same time.
func AddJitter(pause time.Duration) time.Duration {
	if pause < 2 {
		return max(pause, 0)
	}
	return pause + rand.N(pause/2)
}

// Wait waits, and returns the error of ctx if that ends before.
func Wait(ctx context.Context, pause time.Duration) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// maxAfter is what [ParseAfter] returns for a longer time: callers have limits of their own, far below.
const maxAfter = 365 * 24 * time.Hour

// ParseAfter returns how long a server asks to wait by Retry-After (RFC 9110, 10.2.3), seconds or a date; 0 if it does
// not, or not in a way that can be read.
func ParseAfter(header http.Header) time.Duration {
	text := header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(text, 10, 32); err == nil {
		return min(time.Duration(seconds)*time.Second, maxAfter)
	}
	if date, err := http.ParseTime(text); err == nil {
		return min(max(time.Until(date), 0), maxAfter)
	}
	return 0
}
