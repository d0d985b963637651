package gate

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// However many repositories take long, others are verified meanwhile, and in the end they are, too.
func TestSlowRepositoriesLeavePlaces(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ ofOne, ofAll int }{{1, 2}, {2, 3}} {
		synctest.Test(t, func(t *testing.T) {
			l := newVerifyLimit(c.ofOne, c.ofAll)
			var group sync.WaitGroup
			var running, most atomic.Int64
			work := func(length time.Duration) func(context.Context) error {
				return func(ctx context.Context) error {
					now := running.Add(1)
					defer running.Add(-1)
					for seen := most.Load(); now > seen && !most.CompareAndSwap(seen, now); seen = most.Load() {
					}
					select {
					case <-time.After(length):
						return nil
					case <-ctx.Done():
						return ctx.Err()
					}
				}
			}
			const slow, others = 5, 10
			for i := range slow {
				for range c.ofOne {
					group.Go(func() {
						if err := l.runVerification(t.Context(), fmt.Sprint("slow ", i), work(9*time.Minute)); err != nil {
							t.Errorf("slow repository %d: %v", i, err)
						}
					})
				}
			}
			time.Sleep(time.Second)
			began := time.Now()
			var ended atomic.Int64
			for i := range others {
				group.Go(func() {
					if err := l.runVerification(t.Context(), fmt.Sprint("other ", i), work(time.Second)); err != nil {
						t.Error(err)
					}
					ended.Store(max(ended.Load(), int64(time.Since(began))))
				})
			}
			group.Wait()
			// Each slow one holds a place once until it is known to be slow, and the others have one for themselves.
			if waited, limit := time.Duration(ended.Load()), slow*time.Duration(c.ofOne)*verifyPatience+others*time.Second; waited > limit {
				t.Errorf("%d at once, %d of one repository: others waited for %s, want at most %s", c.ofAll, c.ofOne, waited, limit)
			}
			if most.Load() != int64(c.ofAll) {
				t.Errorf("%d were verified at once, want %d", most.Load(), c.ofAll)
			}
			if len(l.queues)+len(l.all)+len(l.slow) != 0 {
				t.Errorf("places are left: %d queues, %d, %d slow", len(l.queues), len(l.all), len(l.slow))
			}
		})
	}
}

// What is cancelled, fails or ends late by itself is not verified twice.
func TestVerifyOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newVerifyLimit(1, 2)
		failed := errors.New("refused")
		for _, length := range []time.Duration{0, 2 * verifyPatience} {
			calls := 0
			err := l.runVerification(t.Context(), "edge", func(context.Context) error {
				calls++
				time.Sleep(length)
				return failed
			})
			if calls != 1 || !errors.Is(err, failed) {
				t.Errorf("after %s: %d calls, %v", length, calls, err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := l.runVerification(ctx, "edge", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("cancelled: %v", err)
		}
	})
}
