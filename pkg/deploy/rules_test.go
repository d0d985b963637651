package deploy

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"
)

// A rule in ytt that does not come to its end does not keep an apply from being interrupted; the time to wait ends it
// likewise.
func TestRulesWithoutEnd(t *testing.T) {
	r := newRig(t)
	// It takes seconds and no more: what is left behind must not slow other tests.
	rule := config + "waitRules:\n- resourceMatchers: [{apiVersionKindMatcher: {apiVersion: v1, kind: ConfigMap}}]\n  ytt:\n    funcContractV1:\n      resource.star: |\n" +
		"        def is_done(resource):\n          for i in range(200000000):\n            x = i\n          end\n          return {\"done\": True, \"successful\": True}\n        end\n"
	rt := Runtime{Name: "endless", Units: []Unit{unit(1, "a", "1", rule, configMap("slow", "1"))}}
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan time.Time, 1)
	go func() {
		for !r.exists(configMaps, "slow") {
			time.Sleep(20 * time.Millisecond)
		}
		time.Sleep(200 * time.Millisecond) // kapp evaluates the rule
		over <- time.Now()
		cancel()
	}()
	_, err := r.Apply(ctx, rt, ApplyOptions{Options: quick()})
	if late := time.Since(<-over); !errors.Is(err, context.Canceled) || late > 3*time.Second {
		t.Errorf("got %v, %s after the interruption", err, late)
	}
}

// What takes too much memory is noticed, and what is let go of does not count.
func TestMemoryWatch(t *testing.T) {
	runtime.GC()
	w := newMemoryWatch(64<<20, 64<<20)
	if err := w.check(); err != nil {
		t.Errorf("at first: %v", err)
	}
	held := make([]byte, 128<<20)
	if err := w.check(); err == nil || !strings.Contains(err.Error(), "a kapp wait rule in ytt (waitRules) does not end") {
		t.Errorf("with 128 MiB: %v", err)
	}
	runtime.KeepAlive(held)
	held = nil // garbage does not count, collected or not
	if err := w.check(); err != nil {
		t.Errorf("without: %v", err)
	}
	ready, done := make(chan bool), make(chan bool)
	ended := make(chan bool)
	go func() {
		defer close(ended)
		recurse(500_000, ready, done)
	}()
	<-ready
	if err := newMemoryWatch(64<<20, 0).check(); err != nil {
		t.Errorf("what was there before: %v", err)
	}
	if err := w.check(); err == nil {
		t.Error("a deep recursion is not noticed")
	}
	close(done)
	<-ended
	runtime.GC()
	if err := w.check(); err != nil {
		t.Errorf("after the recursion: %v", err)
	}
}

//go:noinline
func recurse(depth int, ready, done chan bool) (sum int) {
	var room [16]int
	if depth == 0 {
		close(ready)
		<-done
		return 0
	}
	room[depth%16] = depth
	return recurse(depth-1, ready, done) + room[(depth+1)%16]
}
