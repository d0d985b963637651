package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/worker"
	"krtpkg.dev/krtpkg/pkg/render"
)

// lastMoment is how long what was interrupted may take to end. Locks and records on clusters take
// five seconds each.
const lastMoment = 15 * time.Second

// renderWorker is the command by which this program starts itself to run template engines.
const renderWorker = "render-worker"

// ownPath is where this very program is: on Linux also after it was replaced or moved.
func ownPath() string {
	const running = "/proc/self/exe"
	if _, err := os.Stat(running); err == nil {
		return running
	}
	path, err := os.Executable()
	if err != nil {
		return os.Args[0]
	}
	return path
}

// renderWorkerCommand is for this program alone. Whoever types it learns so.
func (a *app) renderWorkerCommand() *cobra.Command {
	return &cobra.Command{
		Use: renderWorker, Hidden: true, Args: cobra.NoArgs,
		Short: "render what comes in on standard input, for krtpkg itself",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return worker.Serve(cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}

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
	os.Exit(runArgs(ctx))
}

// runArgs runs the command line of the process with template engines in processes of their own, and returns the exit code.
func runArgs(ctx context.Context) int {
	engines := worker.NewPool(worker.Options{Path: ownPath(), Args: []string{os.Args[0], renderWorker}})
	defer engines.Close()
	return Run(render.WithRunner(ctx, engines), os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
}
