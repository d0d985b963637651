package gate

import (
	"context"
	"sync"
)

// verifyLimit limits how many roots are verified at once, each of which takes memory. A repository whose roots take long, which
// anybody can see to who may push there, holds up no other one.
type verifyLimit struct {
	all   chan struct{}
	ofOne int

	mu sync.Mutex
	// queues are of the repositories in which something is verified, or waits.
	queues map[string]*verifyQueue
}

// verifyQueue is what is verified in a repository, and for how many there is a queue.
type verifyQueue struct {
	places chan struct{}
	users  int
}

func newVerifyLimit(ofOne, ofAll int) *verifyLimit {
	return &verifyLimit{all: make(chan struct{}, ofAll), ofOne: ofOne, queues: map[string]*verifyQueue{}}
}

// wait waits for a place, to be left by calling done.
func (l *verifyLimit) wait(ctx context.Context, where string) (done func(), err error) {
	queue, leaveQueue := l.enterQueue(where)
	leaveOne, err := occupy(ctx, queue)
	if err != nil {
		leaveQueue()
		return nil, err
	}
	leave, err := occupy(ctx, l.all)
	if err != nil {
		leaveOne()
		leaveQueue()
		return nil, err
	}
	return func() { leave(); leaveOne(); leaveQueue() }, nil
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
