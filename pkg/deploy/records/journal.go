package records

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Journal is what one change of a runtime does to its record: it begins at the first write.
type Journal struct {
	Store   Store
	Runtime string
	// History is the record as it was read before, Next the revision that the change makes, and Values are its values.
	History *History
	Next    Revision
	Values  []byte
	// LockDuration is how long the lock lasts without renewal; OnLost is called once if it is lost.
	LockDuration time.Duration
	OnLost       func(error)

	mu    sync.Mutex
	begun bool
	err   error
	lock  *Lock
}

// EndTimeout is the maximum time that an interrupted change spends on recording how it ended.
const EndTimeout = 5 * time.Second

// Begin takes the lock and records that a change has begun, once for all that call it.
func (j *Journal) Begin(ctx context.Context) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.begun {
		j.begun, j.err = true, j.writeBegin(ctx)
	}
	return j.err
}

func (j *Journal) writeBegin(ctx context.Context) error {
	var err error
	if j.lock, err = j.Store.AcquireLock(ctx, j.Runtime, j.LockDuration, j.OnLost); err != nil {
		return err
	}
	if err := j.Store.storeValues(ctx, j.Runtime, j.Values); err != nil {
		return err
	}
	j.Next.State, j.Next.Started, j.Next.By = InProgress, currentTime(), HolderName()
	return j.Store.saveRevisions(ctx, j.Runtime, j.History, j.History.addRevision(j.Next))
}

// End records how it ended, if it began, and gives the lock back. It works after the end of the
// apply's context, but does not wait for an API server then.
func (j *Journal) End(ctx context.Context, state State, reason string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	defer j.lock.Release()
	if !j.begun || j.err != nil {
		return nil // an error was that of the apply
	}
	limit := EndTimeout
	if ctx.Err() == nil {
		limit += j.Store.RetryTimeout
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	revisions := slices.Clone(j.History.Revisions)
	revisions[0].State, revisions[0].Reason, revisions[0].Ended = state, ShortenReason(reason), currentTime()
	return j.Store.saveRevisions(ctx, j.Runtime, j.History, revisions)
}

func currentTime() time.Time { return time.Now().UTC().Truncate(time.Second) }
