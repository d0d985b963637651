package cli

import (
	"context"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/telemetry"
	"krtpkg.dev/krtpkg/pkg/result"
)

// startTelemetry begins to tell an OpenTelemetry collector of the command, if the environment names one. That it cannot is not
// an error of the command.
func (a *app) startTelemetry(ctx context.Context, args []string) context.Context {
	if len(args) > 0 && (args[0] == renderWorker || strings.HasPrefix(args[0], cobra.ShellCompRequestCmd)) {
		return ctx // a part of a command that is told of, and the shell
	}
	ctx, session, err := telemetry.Start(ctx, os.Getenv, programVersion())
	if err != nil {
		a.ui.Note("WARNING: traces are not sent: %v", err)
	}
	a.telemetry = session
	return ctx
}

// endTelemetry tells how the command ended: a failure by its code, since its text may quote what is confidential.
func (a *app) endTelemetry(ctx context.Context, failed *result.Error) {
	code, problem := 0, ""
	if failed != nil {
		code, problem = failed.ExitCode, string(failed.Code)
	}
	if err := a.telemetry.End(ctx, code, problem); err != nil {
		a.ui.Note("WARNING: traces were not sent: %v", err)
	}
}
