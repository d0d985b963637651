package gate

import (
	"context"
	"hash/fnv"
)

// verifyLimit limits how many roots are verified at once, each of which takes memory. A repository whose roots take long, which
// anybody can see to who may push there, holds up no other one.
type verifyLimit struct {
	all chan struct{}
	// each is for the repositories, several of which may share one.
	each [64]chan struct{}
}

func newVerifyLimit(ofOne, ofAll int) *verifyLimit {
	l := &verifyLimit{all: make(chan struct{}, ofAll)}
	for i := range l.each {
		l.each[i] = make(chan struct{}, ofOne)
	}
	return l
}

// wait waits for a place, to be left by calling done.
func (l *verifyLimit) wait(ctx context.Context, where string) (done func(), err error) {
	sum := fnv.New32a()
	sum.Write([]byte(where)) // a hash takes everything
	leaveOne, err := occupy(ctx, l.each[sum.Sum32()%uint32(len(l.each))])
	if err != nil {
		return nil, err
	}
	leave, err := occupy(ctx, l.all)
	if err != nil {
		leaveOne()
		return nil, err
	}
	return func() { leave(); leaveOne() }, nil
}

func occupy(ctx context.Context, places chan struct{}) (leave func(), err error) {
	select {
	case places <- struct{}{}:
		return func() { <-places }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
