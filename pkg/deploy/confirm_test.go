package deploy

import (
	"context"
	"errors"
	"testing"
)

// A question that was interrupted is not confirmed either, and says why.
func TestInterruptedQuestion(t *testing.T) {
	t.Parallel()
	err := notConfirmed(context.Canceled)
	if !errors.Is(err, ErrNotConfirmed) || !errors.Is(err, context.Canceled) || err.Error() != context.Canceled.Error() {
		t.Error(err)
	}
	if err := notConfirmed(nil); err != ErrNotConfirmed {
		t.Error(err)
	}
}
