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

// workFor is a verification that takes this long, unless it is ended.
func workFor(length time.Duration) func(context.Context) error {
	return func(ctx context.Context) error {
		select {
		case <-time.After(length):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// checkNoneLeft fails unless all places are free, and nobody waits.
func checkNoneLeft(t *testing.T, l *verifyLimit, ofAll int) {
	t.Helper()
	if l.free != ofAll || len(l.waiting)+len(l.slow)+l.ending+len(l.again)+len(l.queues) != 0 {
		t.Errorf("%d places of %d are free, %d wait, %d are slow, %d end, %d run again, %d queues",
			l.free, ofAll, len(l.waiting), len(l.slow), l.ending, len(l.again), len(l.queues))
	}
}

// However many repositories take long, others are verified meanwhile, and in the end they are, too.
func TestSlowRepositoriesLeavePlaces(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ ofOne, ofAll int }{{1, 3}, {2, 3}} {
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
					return workFor(length)(ctx)
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
			checkNoneLeft(t, l, c.ofAll)
		})
	}
}

// A repository whose verifications never end holds up no others, however long these take.
func TestEndlessRepositoryHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	for _, limit := range []func() *verifyLimit{newRootLimit, newRenewalLimit} {
		synctest.Test(t, func(t *testing.T) {
			l := limit()
			ofAll := l.free
			hostile, stop := context.WithCancel(t.Context())
			var attack, honest sync.WaitGroup
			for range 4 {
				attack.Go(func() {
					for hostile.Err() == nil {
						l.runVerification(hostile, "hostile", workFor(24*time.Hour))
					}
				})
			}
			time.Sleep(time.Minute)
			for i, length := range []time.Duration{time.Second, 45 * time.Second, 5 * time.Minute} {
				honest.Go(func() {
					for n := range 10 {
						began := time.Now()
						err := l.runVerification(t.Context(), fmt.Sprint("honest ", i), workFor(length))
						// It waits for a slow one once, or is ended once and waits for a place among those that run again.
						if took := time.Since(began); err != nil || took > 2*length+5*time.Minute+2*verifyPatience {
							t.Errorf("verification %d of %s: after %s: %v", n, length, took, err)
						}
						time.Sleep(10 * time.Second)
					}
				})
			}
			honest.Wait()
			stop()
			attack.Wait()
			checkNoneLeft(t, l, ofAll)
		})
	}
}

// The time that a verification waits is not counted as its own.
func TestWaitingTakesNoVerifyTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newVerifyLimit(1, 3)
		var group sync.WaitGroup
		for i := range 12 {
			group.Go(func() {
				if err := l.runVerification(t.Context(), fmt.Sprint(i%6), workFor(9*time.Minute)); err != nil {
					t.Errorf("verification %d: %v", i, err)
				}
			})
		}
		group.Wait()
		began := time.Now()
		if err := l.runVerification(t.Context(), "endless", workFor(time.Hour)); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != maxVerifyTime {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		began = time.Now()
		for i := range 3 { // one is ended after a minute, and runs again
			group.Go(func() {
				if err := l.runVerification(t.Context(), fmt.Sprint(i), workFor(24*time.Hour)); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("endless verification %d: %v", i, err)
				}
			})
		}
		time.Sleep(time.Minute)
		if err := l.runVerification(t.Context(), "quick", workFor(time.Second)); err != nil {
			t.Error(err)
		}
		group.Wait()
		if took, want := time.Since(began), time.Minute+time.Second+maxVerifyTime; took != want {
			t.Errorf("endless verifications ended after %s, want %s", took, want)
		}
		checkNoneLeft(t, l, 3)
	})
}

// While nobody waits for a place nothing is ended, and then no more than is needed, the longest first; nothing twice.
func TestEndOnlyForWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newVerifyLimit(1, 3)
		var mu sync.Mutex
		runs := map[string]int{}
		var group sync.WaitGroup
		start := func(where string, length time.Duration) {
			group.Go(func() {
				err := l.runVerification(t.Context(), where, func(ctx context.Context) error {
					mu.Lock()
					runs[where]++
					mu.Unlock()
					return workFor(length)(ctx)
				})
				if err != nil {
					t.Errorf("%s: %v", where, err)
				}
			})
			time.Sleep(time.Second)
		}
		check := func(when string, want map[string]int) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if fmt.Sprint(runs) != fmt.Sprint(want) {
				t.Errorf("%s: %v runs, want %v", when, runs, want)
			}
		}
		start("a", 9*time.Minute)
		start("b", 9*time.Minute)
		time.Sleep(2 * time.Minute)
		start("c", time.Second) // there is a third place
		check("with a place free", map[string]int{"a": 1, "b": 1, "c": 1})
		start("c", 9*time.Minute)
		time.Sleep(time.Minute)
		check("with all places taken, and nobody waiting", map[string]int{"a": 1, "b": 1, "c": 2})
		start("d", 20*time.Second) // takes the place of a, which ends no other
		check("with d running", map[string]int{"a": 1, "b": 1, "c": 2, "d": 1})
		time.Sleep(20 * time.Second)
		check("after d", map[string]int{"a": 2, "b": 1, "c": 2, "d": 1})
		start("d", 5*time.Second) // takes the place of b
		check("with d running again", map[string]int{"a": 2, "b": 1, "c": 2, "d": 2})
		time.Sleep(5 * time.Second)
		check("after d again", map[string]int{"a": 2, "b": 2, "c": 2, "d": 2})
		start("d", 2*time.Minute) // takes the place of c, for which there is no place among second runs
		time.Sleep(time.Minute)
		start("e", time.Second) // takes the place of d
		check("with d slow", map[string]int{"a": 2, "b": 2, "c": 2, "d": 3, "e": 1})
		group.Wait()
		check("in the end", map[string]int{"a": 2, "b": 2, "c": 3, "d": 4, "e": 1})
		checkNoneLeft(t, l, 3)
	})
}

// Who gives up while it waits for a place leaves it to others.
func TestGiveUpWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newVerifyLimit(1, 3)
		var group sync.WaitGroup
		for i := range 8 {
			group.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i+1)*verifyPatience/2)
				defer cancel()
				if err := l.runVerification(ctx, fmt.Sprint(i), workFor(time.Hour)); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("verification %d: %v", i, err)
				}
			})
		}
		group.Wait()
		checkNoneLeft(t, l, 3)
	})
}

// A place that is given to somebody who gives up at the same time is not lost.
func TestGiveUpInTurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newVerifyLimit(1, 3)
		l.free = 0
		ctx, giveUp := context.WithCancel(t.Context())
		var group sync.WaitGroup
		group.Go(func() {
			if err := l.takePlace(ctx, &waiter{turn: make(chan struct{})}); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		synctest.Wait()
		l.mu.Lock()
		giveUp()
		l.passPlace()
		l.mu.Unlock()
		group.Wait()
		checkNoneLeft(t, l, 1)
	})
}

// A repository cannot make any number of verifications wait.
func TestQueueOfRepositoryIsLimited(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newVerifyLimit(1, 3)
		var group sync.WaitGroup
		for range maxQueued {
			group.Go(func() {
				if err := l.runVerification(t.Context(), "edge", workFor(time.Second)); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		var failed *UpstreamError
		if err := l.runVerification(t.Context(), "edge", workFor(0)); !errors.As(err, &failed) {
			t.Errorf("one too many: %v", err)
		}
		if err := l.runVerification(t.Context(), "other", workFor(0)); err != nil {
			t.Error(err)
		}
		group.Wait()
		checkNoneLeft(t, l, 3)
	})
}

// What is cancelled, fails or ends late by itself is not verified twice.
func TestVerifyOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newVerifyLimit(1, 3)
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
