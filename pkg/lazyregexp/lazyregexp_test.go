package lazyregexp

import "testing"

func TestNew(t *testing.T) {
	t.Parallel()
	e := New(`^a+$`)
	if first := e.Get(); !e.MatchString("aa") || e.MatchString("ab") || e.Get() != first {
		t.Error("the expression does not match what it says, or is compiled twice")
	}
	defer func() {
		if recover() == nil {
			t.Error("no test would find an expression that is not valid")
		}
	}()
	New("(")
}
