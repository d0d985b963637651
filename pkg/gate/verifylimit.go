package gate

import (
	"context"
	"errors"
	"sync"
	"time"
)

// verifyLimit limits how many roots are verified at once, each of which takes memory. Repositories whose roots take long, which
// anybody can see to who may push there, hold up no other ones: what takes longer than patience has all places but one at most.
type verifyLimit struct {
	all, slow chan struct{}
	ofOne     int
	patience  time.Duration

	mu sync.Mutex
	// queues are of the repositories in which something is verified, or waits.
	queues map[string]*verifyQueue
}

// verifyQueue is what is verified in a repository, and for how many there is a queue.
type verifyQueue struct {
	places chan struct{}
	users  int
}

// verifyPatience is how long a verification takes that does not count as slow.
const verifyPatience = 30 * time.Second

func newVerifyLimit(ofOne, ofAll int) *verifyLimit {
	return &verifyLimit{
		all: make(chan struct{}, ofAll), slow: make(chan struct{}, ofAll-1), ofOne: ofOne, patience: verifyPatience, queues: map[string]*verifyQueue{},
	}
}

// errSlow is why a verification ends that begins again when there is a place for it.
var errSlow = errors.New("it takes long, and other verifications wait")

// runVerification calls a function once there is a place for it, a second time if it was slow while there was none for what is slow.
func (l *verifyLimit) runVerification(ctx context.Context, where string, work func(context.Context) error) error {
	queue, leaveQueue := l.enterQueue(where)
	defer leaveQueue()
	leaveOne, err := occupy(ctx, queue)
	if err != nil {
		return err
	}
	defer leaveOne()
	isSlow, err := l.verifyFirst(ctx, work)
	if !isSlow {
		return err
	}
	leaveSlow, err := occupy(ctx, l.slow)
	if err != nil {
		return err
	}
	defer leaveSlow()
	leave, err := occupy(ctx, l.all)
	if err != nil {
		return err
	}
	defer leave()
	return work(ctx)
}

// verifyFirst calls a function once there is a place for it. If it ends it since it is slow, it reports so.
func (l *verifyLimit) verifyFirst(ctx context.Context, work func(context.Context) error) (isSlow bool, err error) {
	leave, err := occupy(ctx, l.all)
	if err != nil {
		return false, err
	}
	defer leave()
	first, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-ended:
			return
		case <-time.After(l.patience):
		}
		select {
		case l.slow <- struct{}{}:
			<-ended
			<-l.slow
		default:
			cancel(errSlow)
		}
	}()
	err = work(first)
	close(ended)
	<-watched
	return err != nil && context.Cause(first) == errSlow, err
}

// enterQueue returns the places of a repository, which are forgotten when nobody uses them any more.
func (l *verifyLimit) enterQueue(where string) (places chan struct{}, leave func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	q, ok := l.queues[where]
	if !ok {
		q = &verifyQueue{places: make(chan struct{}, l.ofOne)}
		l.queues[where] = q
	}
	q.users++
	return q.places, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if q.users--; q.users == 0 {
			delete(l.queues, where)
		}
	}
}

func occupy(ctx context.Context, places chan struct{}) (leave func(), err error) {
	select {
	case places <- struct{}{}:
		return func() { <-places }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
