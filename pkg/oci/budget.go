package oci

import (
	"context"
	"fmt"
	"sync/atomic"
)

// Budget is how much memory the content of one operation may take. It is safe for concurrent
// use.
type Budget struct {
	limit int64
	used  atomic.Int64
}

// BudgetError reports that content takes more memory than an operation has.
type BudgetError struct {
	// Limit is the operation's budget in bytes.
	Limit int64
}

// Is makes it an [ErrTooLarge].
func (e *BudgetError) Is(err error) bool { return err == ErrTooLarge }

func (e *BudgetError) Error() string {
	return fmt.Sprintf("content exceeds the memory limit of %d MiB for one operation", e.Limit>>20)
}

type (
	budgetKey struct{}
	memoryKey struct{}
)

// WithMemory sets the budget of the operations that begin with the context; DefaultMemory where
// it is not set.
func WithMemory(ctx context.Context, bytes int64) context.Context {
	return context.WithValue(ctx, memoryKey{}, bytes)
}

// WithBudget returns a context whose operations share a budget: the one that the context has, or a new
// one.
func WithBudget(ctx context.Context) (context.Context, *Budget) {
	if b, ok := ctx.Value(budgetKey{}).(*Budget); ok {
		return ctx, b
	}
	b := &Budget{limit: DefaultMemory}
	if limit, ok := ctx.Value(memoryKey{}).(int64); ok {
		b.limit = limit
	}
	return context.WithValue(ctx, budgetKey{}, b), b
}

// Take counts content that is about to be kept. Its error is a [*BudgetError], and nothing is
// counted then.
func (b *Budget) Take(bytes int64) error {
	if bytes < 0 || b.used.Add(bytes) > b.limit {
		b.used.Add(-max(bytes, 0))
		return &BudgetError{Limit: b.limit}
	}
	return nil
}

// Release gives back what was taken for content that is dropped.
func (b *Budget) Release(bytes int64) { b.used.Add(-bytes) }
