package deploy

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"carvel.dev/kapp/pkg/kapp/clusterapply"
)

// sectionLog notes when it is told of sections.
type sectionLog struct {
	clusterapply.UI
	began time.Time
	times []time.Duration
}

func (s *sectionLog) NotifySection(string, ...any) { s.times = append(s.times, time.Since(s.began)) }

// Looks at what is not ready follow each other fast at first, and again when something has become ready.
func TestPacedWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := &sectionLog{began: time.Now()}
		wait := &pacedWait{UI: log, ctx: t.Context(), longest: 400 * time.Millisecond}
		wait.NotifySection("applying %d changes %s", 2, "[0/2 done]")
		for range 6 {
			wait.NotifySection("waiting on %d changes %s", 2, "[0/2 done]")
		}
		for range 2 {
			wait.NotifySection("waiting on %d changes %s", 1, "[1/2 done]")
		}
		var got []int64
		for _, at := range log.times {
			got = append(got, at.Milliseconds())
		}
		if want := []int64{0, 0, 50, 150, 350, 750, 1150, 1150, 1200}; !slices.Equal(got, want) {
			t.Errorf("looked after %v ms, want %v", got, want)
		}
	})
}

// Kapp's goroutine ends with its call.
func TestPacedWaitEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		log := &sectionLog{began: time.Now()}
		wait := &pacedWait{UI: log, ctx: ctx, longest: time.Hour}
		for range 2 {
			wait.NotifySection("waiting on 1 changes [0/1 done]")
		}
		if took := log.times[1]; took != time.Second {
			t.Errorf("waited %s after its context had ended", took-time.Second)
		}
	})
}
