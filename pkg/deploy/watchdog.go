package deploy

import (
	"context"
	"fmt"
	"time"
)

// watchdogGrace is what kapp gets on top of the time to wait, to say itself what it waited for: it
// tries for 5 seconds what a webhook keeps from it.
const watchdogGrace = 8 * time.Second

// watchProgress returns an error when nothing has become ready, or gone, for as long as a call may
// wait, and nil when ctx ends. kapp looks at its own limit only between two requests: where each
// one takes its time to fail, that is late, and where it waits for something to go that is to be
// replaced it has none. While the API server does not answer, its own limit holds.
func (e *engine) watchProgress(ctx context.Context, told *messageTracker) error {
	if told == nil {
		return nil
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if e.cluster.retry.isFailing() {
			told.noteProgress()
		}
		if since := told.sinceProgress(); since > e.options.WaitTimeout+watchdogGrace+2*e.options.PollInterval {
			return fmt.Errorf("nothing has become ready for %s", since.Round(time.Second))
		}
	}
}
