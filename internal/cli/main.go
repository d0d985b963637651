package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// lastMoment is how long what was interrupted may take to end. Locks and records on clusters take
// five seconds each; template engines do not hear at all.
const lastMoment = 15 * time.Second

// Main is the whole program: it runs the command line of the process and ends it. The first signal
// interrupts, the second ends the process at once, and so does work that goes on for long after
// the first.
func Main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, func() {
		stop()
		time.AfterFunc(lastMoment, func() {
			fmt.Fprintf(os.Stderr, "interrupted: running work has not stopped within %s\n", lastMoment)
			os.Exit(exitInterrupted)
		})
	})
	os.Exit(Run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
