// Command krtpkg bundles Kubernetes runtimes as signed OCI artifacts and applies them.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"krtpkg.dev/krtpkg/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	os.Exit(cli.Run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
