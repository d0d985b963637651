package records

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"sync/atomic"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"krtpkg.dev/krtpkg/pkg/deploy/apiserver"
	"krtpkg.dev/krtpkg/pkg/deploy/marks"
)

// renewals is how often a lock's holder renews it in the time for which it lasts.
const renewals = 3

// LockedError reports that someone else changes the runtime.
type LockedError struct {
	Runtime, Holder string
	Since           time.Time
	// Renewed is when the holder was last known to be alive, Expires when others may take the lock of a dead one.
	Renewed, Expires time.Time
}

func (e *LockedError) Error() string {
	text := fmt.Sprintf("runtime %s is being changed by %s", e.Runtime, cmp.Or(e.Holder, "somebody"))
	if !e.Since.IsZero() {
		text += " since " + e.Since.UTC().Format(time.RFC3339)
	}
	if !e.Renewed.IsZero() {
		text += " (last renewed " + e.Renewed.UTC().Format(time.RFC3339) + ", expires " + e.Expires.UTC().Format(time.RFC3339) + ")"
	}
	return text
}

// ErrLockLost means that the lock could not be renewed, so that someone else may have it.
var ErrLockLost = errors.New("lost the lock on the runtime")

// Lock is a Lease that its holder renews.
type Lock struct {
	store   Store
	lease   *coordinationv1.Lease
	lasts   time.Duration
	stop    chan struct{}
	ended   chan struct{}
	renewed atomic.Pointer[time.Time] // when the API server last said that it is ours
}

// waitUntilHeld waits until the lock is known to be held: writes wait for it ([apiserver.SetFence]).
func (l *Lock) waitUntilHeld(ctx context.Context) error {
	for time.Since(*l.renewed.Load()) > l.lasts {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-l.ended:
			return ErrLockLost
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}

// AcquireLock takes the Lease of a runtime, which lasts for a time unless it is renewed; lost is called
// once if it cannot be renewed any more. A lock whose holder gave no sign of life for as long as
// it lasts, by the holder's clock and while we look, is taken over.
//
// Errors: [*LockedError].
func (s Store) AcquireLock(ctx context.Context, runtime string, lasts time.Duration, lost func(error)) (*Lock, error) {
	leases := s.Client.CoordinationV1().Leases(s.Namespace)
	name := ObjectName(runtime)
	held, err := leases.Get(apiserver.WithoutLogs(ctx), name, metav1.GetOptions{})
	if err == nil {
		if held, err = s.waitForExpiry(ctx, runtime, held); err != nil {
			return nil, err
		}
	}
	now := metav1.NowMicro()
	seconds, holder := int32(max(lasts/time.Second, 1)), HolderName()
	spec := coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: &seconds, AcquireTime: &now, RenewTime: &now}
	grace, cancel := withGracePeriod(ctx)
	defer cancel()
	switch {
	case err == nil:
		held.Spec = spec
		held, err = leases.Update(apiserver.WithoutLogs(grace), held, metav1.UpdateOptions{})
	case apierrors.IsNotFound(err):
		labels := map[string]string{marks.Runtime: runtime}
		held, err = leases.Create(apiserver.WithoutLogs(grace), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Spec: spec}, metav1.CreateOptions{})
	}
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		if held, err := leases.Get(apiserver.WithoutLogs(ctx), name, metav1.GetOptions{}); err == nil {
			return nil, lockedBy(runtime, held)
		}
	}
	if err != nil {
		s.releaseUnconfirmed(name, now)
		return nil, fmt.Errorf("lock runtime %s by lease %s/%s: %w", runtime, s.Namespace, name, err)
	}
	l := &Lock{store: s, lease: held, lasts: lasts, stop: make(chan struct{}), ended: make(chan struct{})}
	l.renewed.Store(&now.Time)
	apiserver.SetFence(ctx, l.waitUntilHeld)
	go l.keepRenewing(apiserver.CopyFence(context.WithoutCancel(ctx), context.Background()), lost)
	return l, nil
}

// withGracePeriod returns a context that ends a moment after ctx: the API server may still grant the lock of a
// cancelled request, and then nothing would release it.
func withGracePeriod(ctx context.Context) (context.Context, context.CancelFunc) {
	grace, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(200*time.Millisecond, cancel) })
	return grace, func() { stop(); cancel() }
}

// releaseUnconfirmed releases a lock that may have been granted in a response that was lost.
func (s Store) releaseUnconfirmed(name string, taken metav1.MicroTime) {
	ctx, cancel := context.WithTimeout(context.Background(), EndTimeout)
	defer cancel()
	leases := s.Client.CoordinationV1().Leases(s.Namespace)
	l, err := leases.Get(apiserver.WithoutLogs(ctx), name, metav1.GetOptions{})
	holder := HolderName()
	mine := &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder, AcquireTime: &taken}}
	if err != nil || !sameLock(l, mine) {
		return
	}
	_ = leases.Delete(apiserver.WithoutLogs(ctx), name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &l.ResourceVersion}})
}

// waitForExpiry waits for the end of a lock that looks dead, and refuses one that is not.
func (s Store) waitForExpiry(ctx context.Context, runtime string, held *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	spec := held.Spec
	if valueOrZero(spec.HolderIdentity) == "" || spec.RenewTime == nil {
		return held, nil
	}
	// Clocks differ: the holder's may be behind ours, so that it looks dead, or ahead, so that it
	// would look alive for as long as that. One that lives renews the lock while we look.
	lasts := leaseDuration(held)
	age := time.Since(spec.RenewTime.Time)
	look := lasts / 2
	switch {
	case age < -lasts:
		look = lasts
	case age < lasts:
		return nil, lockedBy(runtime, held)
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(look):
	}
	now, err := s.Client.CoordinationV1().Leases(s.Namespace).Get(apiserver.WithoutLogs(ctx), held.Name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("look at lease %s/%s: %w", s.Namespace, held.Name, err)
	}
	if now.ResourceVersion != held.ResourceVersion {
		return nil, lockedBy(runtime, now)
	}
	return now, nil
}

// isExpired reports whether the holder of a lock has given no sign of life for as long as it lasts.
func isExpired(l *coordinationv1.Lease) bool {
	return valueOrZero(l.Spec.HolderIdentity) == "" || l.Spec.RenewTime == nil || time.Since(l.Spec.RenewTime.Time) > leaseDuration(l)
}

func leaseDuration(l *coordinationv1.Lease) time.Duration {
	return time.Duration(valueOrZero(l.Spec.LeaseDurationSeconds)) * time.Second
}

func lockedBy(runtime string, l *coordinationv1.Lease) error {
	e := &LockedError{Runtime: runtime, Holder: valueOrZero(l.Spec.HolderIdentity)}
	if l.Spec.AcquireTime != nil {
		e.Since = l.Spec.AcquireTime.Time
	}
	if l.Spec.RenewTime != nil {
		e.Renewed = l.Spec.RenewTime.Time
		e.Expires = e.Renewed.Add(leaseDuration(l))
	}
	return e
}

func valueOrZero[T any](p *T) (value T) {
	if p != nil {
		value = *p
	}
	return value
}

// keepRenewing renews the lock until it is released. While the API server does not answer nobody else can
// take it, either; see [Lock.waitUntilHeld] for what comes after that.
func (l *Lock) keepRenewing(ctx context.Context, lost func(error)) {
	defer close(l.ended)
	pause := l.lasts / renewals
	for {
		select {
		case <-l.stop:
			return
		case <-time.After(pause):
		}
		began := time.Now()
		err := l.renewLease(ctx)
		switch {
		case err == nil:
			l.renewed.Store(&began)
			pause = l.lasts / renewals
		case errors.Is(err, ErrLockLost):
			lost(err)
			return
		case time.Since(*l.renewed.Load()) > l.lasts+l.store.RetryTimeout:
			since := time.Since(*l.renewed.Load()).Round(time.Second)
			lost(fmt.Errorf("%w: no answer from the API server for %s", ErrLockLost, since))
			return
		default:
			pause = min(l.lasts/renewals, time.Second)
		}
	}
}

// renewLease renews the lease.
//
// Errors: [ErrLockLost] if the lock is someone else's, or gone.
func (l *Lock) renewLease(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, l.lasts/renewals)
	defer cancel()
	leases := l.store.Client.CoordinationV1().Leases(l.store.Namespace)
	now := metav1.NowMicro()
	next := l.lease.DeepCopy()
	next.Spec.RenewTime = &now
	updated, err := leases.Update(apiserver.WithoutLogs(ctx), next, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) {
		// The update may have been made although its response was lost.
		if updated, err = leases.Get(apiserver.WithoutLogs(ctx), next.Name, metav1.GetOptions{}); err == nil && !sameLock(updated, next) {
			return ErrLockLost
		}
	}
	if apierrors.IsNotFound(err) {
		return ErrLockLost
	}
	if err == nil {
		l.lease = updated
	}
	return err
}

// sameLock reports whether both are of one holder, from one moment on.
func sameLock(a, b *coordinationv1.Lease) bool {
	same := valueOrZero(a.Spec.HolderIdentity) == valueOrZero(b.Spec.HolderIdentity) && a.Spec.AcquireTime != nil && b.Spec.AcquireTime != nil
	return same && a.Spec.AcquireTime.Time.Truncate(time.Microsecond).Equal(b.Spec.AcquireTime.Time.Truncate(time.Microsecond))
}

// Release gives the lock back. It works also after the end of the context that it was taken
// with; if the API server cannot be reached, the lock ends by itself.
func (l *Lock) Release() {
	if l == nil {
		return
	}
	close(l.stop)
	<-l.ended
	ctx, cancel := context.WithTimeout(context.Background(), EndTimeout)
	defer cancel()
	version := l.lease.ResourceVersion
	_ = l.store.Client.CoordinationV1().Leases(l.store.Namespace).Delete(apiserver.WithoutLogs(ctx), l.lease.Name,
		metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &version}})
}

// HolderName returns who holds a lock and who made a change: user@host, and the process.
func HolderName() string {
	name := os.Getenv("USER")
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s@%s (process %d)", cmp.Or(name, "unknown"), host, os.Getpid())
}
