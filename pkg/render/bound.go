package render

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/metrics"
	"sync/atomic"
	"time"
)

// ErrRunaway is the error of templates that do not come to an end, or take more memory than there
// may be.
var ErrRunaway = errors.New("rendering does not end")

// Limits are what rendering one source may take. The largest charts take seconds, and some hundred
// megabytes.
type Limits struct {
	// Time is how long it may take; 10 minutes when zero.
	Time time.Duration
	// Memory is how many bytes of objects it may hold; 2 GiB when zero.
	Memory uint64
	// Recursion is how many bytes of stack it may take, of which the Go runtime ends a program that
	// has a gigabyte; 256 MiB when zero.
	Recursion uint64
}

// WithDefaults returns the limits with the defaults of those that are zero.
func (l Limits) WithDefaults() Limits {
	return Limits{
		Time: cmp.Or(l.Time, 10*time.Minute), Memory: cmp.Or(l.Memory, 2<<30), Recursion: cmp.Or(l.Recursion, 256<<20),
	}
}

// TimeError is that of a source that took more than its time.
func (l Limits) TimeError() error { return fmt.Errorf("more than %s: %w", l.Time, ErrRunaway) }

// MemoryError is that of a source that took more than its memory.
func (l Limits) MemoryError() error {
	return fmt.Errorf("more than %d MiB of memory, or %d MiB of recursion: %w", l.Memory>>20, l.Recursion>>20, ErrRunaway)
}

// running is how many sources are rendered at this moment. The memory of one cannot be told from
// that of the others: each of these gives a quarter more.
var running atomic.Int64

// runBounded runs an engine until it ends, is over the limits, or ctx is done. No engine can be stopped:
// one that runs away goes on behind the error, until the program ends, as it should then.
func runBounded[T any](ctx context.Context, limits Limits, run func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	ended := make(chan result, 1)
	heap, stack := usedMemory()
	running.Add(1)
	defer running.Add(-1)
	go func() {
		value, err := run()
		ended <- result{value, err}
	}()
	timer, ticker := time.NewTimer(limits.Time), time.NewTicker(10*time.Millisecond)
	defer timer.Stop()
	defer ticker.Stop()
	var none T
	for {
		select {
		case r := <-ended:
			return r.value, r.err
		case <-ctx.Done():
			return none, ctx.Err()
		case <-timer.C:
			return none, limits.TimeError()
		case <-ticker.C:
			nowHeap, nowStack := usedMemory()
			memory := limits.Memory + limits.Memory/4*uint64(running.Load()-1)
			if nowHeap > heap+memory || nowStack > stack+limits.Recursion {
				return none, limits.MemoryError()
			}
		}
	}
}

// usedMemory returns the bytes of objects and of stacks.
func usedMemory() (heap, stack uint64) {
	samples := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(samples)
	return samples[0].Value.Uint64(), samples[1].Value.Uint64()
}
