package gate

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// verifyLimit limits how many roots are verified at once, each of which takes memory. Repositories whose roots take long, which
// anybody can see to who may push there, hold up no others: when a verification waits for a place, one that takes longer than
// verifyPatience is ended, and runs again later. A second run is not ended. Second runs have all places but one, and those of
// a repository have one, so that no repository has all of them.
type verifyLimit struct {
	ofOne int
	// again has the places of second runs.
	again chan struct{}

	mu   sync.Mutex
	free int
	// waiting are those that wait for a place, in turn.
	waiting []*waiter
	// slow are first runs that take longer than verifyPatience, the longest first.
	slow []*firstRun
	// ending counts first runs that were ended, and have their places still.
	ending int
	// queues are of the repositories in which something is verified, or waits.
	queues map[string]*verifyQueue
}

// verifyQueue has the places of a repository, and that of its second run; users counts what runs and waits there.
type verifyQueue struct {
	places, again chan struct{}
	users         int
}

// waiter waits for a place.
type waiter struct {
	// turn is closed when it has a place.
	turn chan struct{}
	// isFirst is set for first runs. Slow runs are ended for these only: one that was ended for another ends no third.
	isFirst bool
}

// firstRun is a verification that may be ended.
type firstRun struct {
	end              context.CancelFunc
	isEnded, hasLeft bool
}

const (
	// maxVerifyTime is how long the verification of a root may take, without the time that it waits.
	maxVerifyTime = 10 * time.Minute
	// verifyPatience is how long a verification runs that does not count as slow.
	verifyPatience = 30 * time.Second
	// maxQueued is how many verifications of a repository run or wait at most.
	maxQueued = 1_000
)

// newRootLimit returns the limit of new roots.
func newRootLimit() *verifyLimit { return newVerifyLimit(2, 3) }

// newRenewalLimit returns the limit of roots that were accepted before.
func newRenewalLimit() *verifyLimit { return newVerifyLimit(1, 3) }

// newVerifyLimit returns a limit. It takes three places or more: one for first runs, and two for second ones, of which one
// repository cannot have both.
func newVerifyLimit(ofOne, ofAll int) *verifyLimit {
	return &verifyLimit{ofOne: ofOne, free: ofAll, again: make(chan struct{}, ofAll-1), queues: map[string]*verifyQueue{}}
}

// runVerification calls a function once there is a place for it, and a second time if it was ended for others.
func (l *verifyLimit) runVerification(ctx context.Context, where string, work func(context.Context) error) error {
	queue, leaveQueue, err := l.enterQueue(where)
	if err != nil {
		return err
	}
	defer leaveQueue()
	leaveOne, err := occupy(ctx, queue.places)
	if err != nil {
		return err
	}
	defer leaveOne()
	isEnded, err := l.runFirst(ctx, work)
	if !isEnded {
		return err
	}
	leaveOwn, err := occupy(ctx, queue.again)
	if err != nil {
		return err
	}
	defer leaveOwn()
	leaveAgain, err := occupy(ctx, l.again)
	if err != nil {
		return err
	}
	defer leaveAgain()
	if err := l.takePlace(ctx, &waiter{turn: make(chan struct{})}); err != nil {
		return err
	}
	defer l.leavePlace()
	return runInTime(ctx, work)
}

// runFirst calls a function once there is a place for it. It reports whether it was ended for others.
func (l *verifyLimit) runFirst(ctx context.Context, work func(context.Context) error) (isEnded bool, err error) {
	if err := l.takePlace(ctx, &waiter{turn: make(chan struct{}), isFirst: true}); err != nil {
		return false, err
	}
	ctx, end := context.WithCancel(ctx)
	defer end()
	run := &firstRun{end: end}
	patience := time.AfterFunc(verifyPatience, func() { l.addSlow(run) })
	defer func() {
		patience.Stop()
		isEnded = l.leaveFirst(run) && err != nil
	}()
	return false, runInTime(ctx, work)
}

func runInTime(ctx context.Context, work func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, maxVerifyTime)
	defer cancel()
	return work(ctx)
}

// addSlow adds a run to those that may be ended.
func (l *verifyLimit) addSlow(run *firstRun) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !run.hasLeft {
		l.slow = append(l.slow, run)
		l.endSlow()
	}
}

// endSlow ends as many slow runs as first runs need that wait.
func (l *verifyLimit) endSlow() {
	for needed := l.countNeeded(); len(l.slow) > 0 && l.ending < needed; l.ending++ {
		l.slow[0].isEnded = true
		l.slow[0].end()
		l.slow = slices.Delete(l.slow, 0, 1)
	}
}

// countNeeded returns how many places are needed until all first runs have one that wait.
func (l *verifyLimit) countNeeded() int {
	for i, w := range slices.Backward(l.waiting) {
		if w.isFirst {
			return i + 1
		}
	}
	return 0
}

// leaveFirst leaves the place of a first run, and reports whether it was ended.
func (l *verifyLimit) leaveFirst(run *firstRun) (isEnded bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	run.hasLeft = true
	if run.isEnded {
		l.ending--
	}
	if i := slices.Index(l.slow, run); i >= 0 {
		l.slow = slices.Delete(l.slow, i, i+1)
	}
	l.passPlace()
	return run.isEnded
}

// takePlace waits for a place.
func (l *verifyLimit) takePlace(ctx context.Context, w *waiter) error {
	l.mu.Lock()
	if l.free > 0 {
		l.free--
		l.mu.Unlock()
		return nil
	}
	l.waiting = append(l.waiting, w)
	l.endSlow()
	l.mu.Unlock()
	select {
	case <-w.turn:
		return nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.waiting, w); i >= 0 {
		l.waiting = slices.Delete(l.waiting, i, i+1)
	} else {
		l.passPlace()
	}
	return ctx.Err()
}

func (l *verifyLimit) leavePlace() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.passPlace()
}

// passPlace gives a place to the first who waits.
func (l *verifyLimit) passPlace() {
	if len(l.waiting) == 0 {
		l.free++
		return
	}
	close(l.waiting[0].turn)
	l.waiting = slices.Delete(l.waiting, 0, 1)
}

// enterQueue returns the places of a repository, which are forgotten when nobody uses them any more. It fails if too many do.
func (l *verifyLimit) enterQueue(where string) (q *verifyQueue, leave func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	q, ok := l.queues[where]
	if !ok {
		q = &verifyQueue{places: make(chan struct{}, l.ofOne), again: make(chan struct{}, 1)}
		l.queues[where] = q
	}
	if q.users == maxQueued {
		return nil, nil, &UpstreamError{where, fmt.Errorf("%d roots wait to be verified", maxQueued)}
	}
	q.users++
	return q, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if q.users--; q.users == 0 {
			delete(l.queues, where)
		}
	}, nil
}

func occupy(ctx context.Context, places chan struct{}) (leave func(), err error) {
	select {
	case places <- struct{}{}:
		return func() { <-places }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
