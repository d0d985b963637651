package lazyregexp

import (
	"os"
	"testing"
)

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

func TestNewInProgramWithoutName(t *testing.T) {
	args := os.Args
	t.Cleanup(func() { os.Args = args })
	os.Args = nil
	if !New(`^a+$`).MatchString("aa") {
		t.Error("no match")
	}
}
