package firstgc

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

func TestFirstCollectionEndsTheDelay(t *testing.T) {
	getPercent := func() int {
		now := debug.SetGCPercent(100)
		debug.SetGCPercent(now)
		return now
	}
	runtime.GC() // ends the delay of this process
	for deadline := time.Now().Add(time.Minute); getPercent() != 100; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("GOGC is %d after a collection, want 100", getPercent())
		}
	}
	runtime.GC()
	var memory runtime.MemStats
	if runtime.ReadMemStats(&memory); memory.NextGC < 2*ballastSize {
		t.Errorf("the next collection is at %d bytes, want at least %d", memory.NextGC, 2*ballastSize)
	}
	t.Setenv("GOGC", "")
	delayCollection()
	if got := getPercent(); got != firstPercent {
		t.Errorf("GOGC is %d before a collection, want %d", got, firstPercent)
	}
	t.Setenv("GOGC", "50")
	debug.SetGCPercent(50)
	delayCollection()
	if got := getPercent(); got != 50 {
		t.Errorf("GOGC is %d where the user has set 50", got)
	}
}
