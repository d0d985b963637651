package apiserver

import (
	"context"
	"sync/atomic"
)

// fence holds the writes of a call back while it is not known whether its lock is still held: the API server may have
// been away for longer than the lock lasts, and have given it to someone else.
type fence struct {
	wait atomic.Pointer[func(context.Context) error]
}

type fenceKey struct{}

// WithFence returns a context whose writes are held back once [SetFence] has been called with it, or with a context that
// is derived from it.
func WithFence(ctx context.Context) context.Context {
	return context.WithValue(ctx, fenceKey{}, &fence{})
}

// SetFence makes writes with ctx call wait first, which returns when they may be sent, or an error. A context without a
// fence stays as it is.
func SetFence(ctx context.Context, wait func(context.Context) error) {
	if f, _ := ctx.Value(fenceKey{}).(*fence); f != nil {
		f.wait.Store(&wait)
	}
}

// CopyFence returns a context with the fence of another one, or with none.
func CopyFence(ctx, from context.Context) context.Context {
	return context.WithValue(ctx, fenceKey{}, from.Value(fenceKey{}))
}

// passFence waits until a write may be sent.
func passFence(ctx context.Context) error {
	f, _ := ctx.Value(fenceKey{}).(*fence)
	if f == nil {
		return nil
	}
	if wait := f.wait.Load(); wait != nil {
		return (*wait)(ctx)
	}
	return nil
}
