package gate

import (
	"context"
	"hash/fnv"
)

// verifyLimit limits how many roots are verified at once, each of which takes memory. A repository whose roots take long, which
// anybody can see to who may push there, holds up no other one, and new roots hold up none that was accepted before.
type verifyLimit struct {
	all, renewals chan struct{}
	// each is for the repositories, several of which may share one.
	each [64]chan struct{}
}

const (
	// maxVerifying is how many new roots are verified at once, of one repository and of all.
	maxVerifyingOfOne, maxVerifying = 2, 3
	// maxRenewing is how many are verified again.
	maxRenewing = 1
)

func newVerifyLimit() *verifyLimit {
	l := &verifyLimit{all: make(chan struct{}, maxVerifying), renewals: make(chan struct{}, maxRenewing)}
	for i := range l.each {
		l.each[i] = make(chan struct{}, maxVerifyingOfOne)
	}
	return l
}

// wait waits for a place, to be left by calling done.
func (l *verifyLimit) wait(ctx context.Context, where string, isRenewal bool) (done func(), err error) {
	if isRenewal {
		return occupy(ctx, l.renewals)
	}
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
