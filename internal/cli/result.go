package cli

import (
	"context"
	"errors"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/result"
)

// printResult prints the result of a command: in a format for programs, or what text writes. A command that
// has a result and fails all the same passes why, which programs find in the result and which is returned.
func (a *app) printResult(ctx context.Context, format ui.Format, value result.Result, failed error, text func(io.Writer)) error {
	if failed != nil && format != "" {
		value.SetError(a.describeError(ctx, failed))
		a.errorShown = true
	}
	return errors.Join(failed, a.ui.Result(format, value, text))
}

// describeError returns why a command failed, for programs.
func (a *app) describeError(ctx context.Context, err error) *result.Error {
	e := situation{a.command, a.args, a.usesPolicyFile}.explainError(ctx, err)
	e.Message = a.ui.ErrorText(err.Error())
	if e.Object == "" && len(a.args) == 1 {
		e.Object = a.args[0]
	}
	return &e
}

// printError prints the result of a command that failed before it had one.
func (a *app) printError(cmd *cobra.Command, args []string, e *result.Error) {
	if format := requestedFormat(cmd, args); format != "" && !a.errorShown {
		_ = a.ui.Result(format, &result.Outcome{Error: e}, nil) // the error is told on standard error, too
	}
}

// requestedFormat returns the format for programs that a command line asks for, also one that is not valid
// as a whole.
func requestedFormat(cmd *cobra.Command, args []string) ui.Format {
	format := formatOf(cmd)
	if format == nil {
		return ""
	}
	if *format != "" {
		return *format
	}
	var found ui.Format
	for i, arg := range args {
		text, given := strings.CutPrefix(arg, "--output=")
		if short, is := strings.CutPrefix(arg, "-o"); is && short != "" {
			text, given = strings.TrimPrefix(short, "="), true
		}
		if (arg == "-o" || arg == "--output") && i+1 < len(args) {
			text, given = args[i+1], true
		}
		if given {
			_ = found.Set(text) // the parser says what is wrong with it
		}
	}
	return found
}

// formatOf returns the format of a command that prints results for programs; nil for another.
func formatOf(cmd *cobra.Command) *ui.Format {
	flag := cmd.Flags().Lookup("output")
	if flag == nil {
		return nil
	}
	switch format := flag.Value.(type) {
	case *ui.Format:
		return format
	case *ui.DocumentFormat:
		return &format.Format
	}
	return nil
}
