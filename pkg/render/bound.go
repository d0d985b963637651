package render

import (
	"errors"
	"fmt"
	"runtime/metrics"
	"sync/atomic"
	"time"
)

// ErrRunaway is the error of templates that do not come to an end, or take more memory than there
// may be.
var ErrRunaway = errors.New("rendering does not end")

// bounds are how long rendering a source may take, and how many bytes of memory. The largest
// charts take seconds, and some hundred megabytes.
var bounds = struct {
	time   time.Duration
	memory uint64
	// stack is how much of it recursion may take: above a gigabyte the runtime ends the program.
	stack uint64
}{10 * time.Minute, 2 << 30, 256 << 20}

// running is how many sources are rendered at this moment. The memory of one can't be told from
// that of the others: each of these gives a quarter more.
var running atomic.Int64

// bounded runs an engine until it ends or is over the bounds. No engine can be stopped: one that
// runs away goes on behind the error, until the program ends, as it should then.
func bounded[T any](run func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	ended := make(chan result, 1)
	heap, stack := used()
	running.Add(1)
	defer running.Add(-1)
	go func() {
		value, err := run()
		ended <- result{value, err}
	}()
	timer, ticker := time.NewTimer(bounds.time), time.NewTicker(10*time.Millisecond)
	defer timer.Stop()
	defer ticker.Stop()
	var none T
	for {
		select {
		case r := <-ended:
			return r.value, r.err
		case <-timer.C:
			return none, fmt.Errorf("more than %s: %w", bounds.time, ErrRunaway)
		case <-ticker.C:
			nowHeap, nowStack := used()
			memory := bounds.memory + bounds.memory/4*uint64(running.Load()-1)
			if nowHeap > heap+memory || nowStack > stack+bounds.stack {
				return none, fmt.Errorf("more than %d MiB of memory, or %d MiB of recursion: %w", bounds.memory>>20, bounds.stack>>20, ErrRunaway)
			}
		}
	}
}

// used are the bytes of objects and of stacks.
func used() (heap, stack uint64) {
	samples := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(samples)
	return samples[0].Value.Uint64(), samples[1].Value.Uint64()
}
