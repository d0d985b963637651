package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/doctor"
	"krtpkg.dev/krtpkg/internal/place"
	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/result"
)

// errUnfit is the error of a registry that lacks what krtpkg needs.
var errUnfit = errors.New("the registry lacks what krtpkg needs")

func (a *app) doctorCommand() *cobra.Command {
	var format ui.Format
	cmd := &cobra.Command{
		Use:   "doctor REGISTRY/REPOSITORY",
		Short: "test what works with a registry and what does not",
		Long: `Doctor tries every operation that krtpkg may use, in a repository that you can write to, and
reports what works and what the consequences are. It writes a few small blobs and manifests, also to
REPOSITORY/krtpkg-doctor, and deletes them if the registry allows it.

A note is a deviation from the specification that krtpkg handles.

The exit code is 1 if something that krtpkg needs does not work.`,
		Example: "  krtpkg doctor registry.example/krt/scratch",
		GroupID: groupLook,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runDoctor(cmd.Context(), args[0], format)
		},
	}
	outputFlag(cmd, &format)
	return cmd
}

func (a *app) runDoctor(ctx context.Context, reference string, format ui.Format) error {
	at, err := place.Parse(reference)
	if err != nil {
		return &usageError{err}
	}
	if !at.IsRegistry() || at.Tag != "" || at.Digest != "" {
		return &usageError{fmt.Errorf("%s: want REGISTRY/REPOSITORY", reference)}
	}
	client, err := a.newClient()
	if err != nil {
		return err
	}
	repo, err := client.Repository(ctx, at.Repository)
	if err != nil {
		return err
	}
	second, err := client.Repository(ctx, at.Repository+"/krtpkg-doctor")
	if err != nil {
		return err
	}
	report, err := doctor.Examine(ctx, repo, second)
	if err != nil {
		return err
	}
	var failed error
	if failing := report.FailedCapabilities(); len(failing) > 0 {
		failed = fmt.Errorf("%w: no %s", errUnfit, strings.Join(failing, ", no "))
	}
	r := &result.Doctor{Findings: report.Findings, Deviations: append([]string{}, report.Deviations...), Left: report.Left}
	err = a.printResult(ctx, format, r, failed, func(w io.Writer) {
		for _, f := range report.Findings {
			ui.Fprintf(w, "%s\t%s\t%s\n", findingWord(f), f.Capability, f.Meaning)
			if f.Reason != "" {
				ui.Fprintf(w, "\t\t(%s)\n", strings.ReplaceAll(f.Reason, "\n", " "))
			}
		}
		for _, d := range report.Deviations {
			ui.Fprintf(w, "note\t%s\n", d)
		}
	})
	if len(report.Left) > 0 {
		a.ui.Say("could not delete %s: the registry does not allow it", countNoun(len(report.Left), "tag or manifest"))
	}
	if err != nil {
		return err
	}
	if limits := report.SigningLimits(); len(limits) > 0 {
		a.ui.Say("krtpkg works here with limits: %s", strings.Join(limits, "; "))
		return nil
	}
	a.ui.Say("everything that krtpkg needs works")
	return nil
}

func findingWord(f result.Capability) string {
	switch {
	case f.Works:
		return "ok"
	case f.Needed:
		return "FAILS"
	}
	return "no"
}
