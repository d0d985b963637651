package deploy

import (
	"context"
	"fmt"
	"runtime"
	"runtime/metrics"
	"time"
)

// watchdogGrace is what kapp gets on top of the time to wait, to say itself what it waited for: it
// tries for 5 seconds what a webhook keeps from it.
const watchdogGrace = 8 * time.Second

// watchProgress returns an error when nothing has become ready, or gone, for as long as a call may
// wait, and nil when ctx ends. kapp looks at its own limit only between two requests: where each
// one takes its time to fail, that is late, and where it waits for something to go that is to be
// replaced it has none. While the API server does not answer, its own limit holds.
//
// Rules in ytt of a bundle run in this process while kapp waits: what has no end is over with the wait, and what
// takes too much memory at once. Either goes on behind the error, until the program ends, as it should then.
func (e *engine) watchProgress(ctx context.Context, p *kappParts, told *messageTracker) error {
	if told == nil {
		return nil
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	memory := newMemoryWatch(maxHeap, maxStacks)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if p.hasScripts.Load() {
			if err := memory.check(); err != nil {
				return err
			}
		}
		if e.cluster.retry.IsFailing() {
			told.noteProgress()
		}
		if since := told.sinceProgress(); since > e.options.WaitTimeout+watchdogGrace+2*e.options.PollInterval {
			return fmt.Errorf("nothing has become ready for %s", since.Round(time.Second))
		}
	}
}

// Limits on how much memory a call may take more than there was before, in objects and in recursion.
const (
	maxHeap   = 2 << 30
	maxStacks = 256 << 20
)

// memoryWatch compares the memory of the process with what it had. That of single goroutines is not known.
type memoryWatch struct{ heap, stacks uint64 }

func newMemoryWatch(heap, stacks uint64) memoryWatch {
	usedHeap, usedStacks := usedMemory()
	return memoryWatch{usedHeap + heap, usedStacks + stacks}
}

// check returns an error if the process has more than that. What is over the limit may be garbage, of a runtime with
// many definitions for example: it is collected before it counts.
func (w memoryWatch) check() error {
	heap, stacks := usedMemory()
	if heap > w.heap {
		runtime.GC()
		heap, stacks = usedMemory()
	}
	if heap <= w.heap && stacks <= w.stacks {
		return nil
	}
	return fmt.Errorf("more than %d MiB of memory, or %d MiB of recursion: a kapp wait rule in ytt (waitRules) does not end", w.heap>>20, w.stacks>>20)
}

func usedMemory() (heap, stacks uint64) {
	samples := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(samples)
	return samples[0].Value.Uint64(), samples[1].Value.Uint64()
}
