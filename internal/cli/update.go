package cli

import (
	"context"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/assemble"
	"krtpkg.dev/krtpkg/pkg/result"
)

func (a *app) updateCommand() *cobra.Command {
	var definition string
	var latest bool
	var format ui.Format
	cmd := &cobra.Command{
		Use:   "update -f DEFINITION",
		Short: "pin every source and image of a definition to the newest version in its range",
		Long: `Update looks up the sources and images of a definition upstream and pins them: in the definition
where it has a digest or a commit, and otherwise in the lock file next to it (bundle.lock.yaml for
bundle.yaml). It prints the changes. Commit both files.

Charts move within the version range of the definition, git repositories with the tag or branch
in ref, images and artifacts with their tag. --latest changes the definition to the newest versions, and
lists those of images, whose tags are in your manifests.`,
		Example: `  krtpkg update -f bundle.yaml
  krtpkg update -f runtime.yaml --latest`,
		GroupID: groupMake,
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.printMoves(cmd.Context(), format, "nothing has moved", false, func(ctx context.Context, o assemble.Options) (*assemble.Outdated, error) {
				moves, err := assemble.Update(ctx, definition, latest, o)
				return &assemble.Outdated{Moves: moves}, err
			})
		},
	}
	fileFlag(cmd, &definition)
	cmd.Flags().BoolVar(&latest, "latest", false, "change the definition to the newest versions, regardless of its range")
	outputFlag(cmd, &format)
	return cmd
}

func (a *app) outdatedCommand() *cobra.Command {
	var definition string
	var format ui.Format
	var exitCode bool
	cmd := &cobra.Command{
		Use:   "outdated -f DEFINITION",
		Short: "list the sources and images of a definition with newer versions upstream",
		Long: `Outdated lists what krtpkg update would change, and newer versions outside the definition's range;
for images, tags of the same form with a higher version. It changes nothing. In a folder without a
definition it looks at all bundles below; if one of them cannot be looked up, it still lists the others.`,
		Example: `  krtpkg outdated -f runtime.yaml
  krtpkg outdated -f bundles --exit-code`,
		GroupID: groupMake,
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.printMoves(cmd.Context(), format, "everything is up to date", exitCode, func(ctx context.Context, o assemble.Options) (*assemble.Outdated, error) {
				return assemble.ListOutdated(ctx, definition, o)
			})
		},
	}
	fileFlag(cmd, &definition)
	cmd.Flags().BoolVar(&exitCode, "exit-code", false, "exit with code 5 if anything is outdated")
	outputFlag(cmd, &format)
	return cmd
}

// fileFlag is the flag of commands that take a definition.
func fileFlag(cmd *cobra.Command, definition *string) {
	cmd.Flags().StringVarP(definition, "file", "f", "", "the definition: a file, or a folder with bundle.yaml or runtime.yaml")
	requireFlags(cmd, "file")
}

// printMoves prints what is outdated or updated; with exitCode anything that is fails.
func (a *app) printMoves(ctx context.Context, format ui.Format, none string, exitCode bool, find func(context.Context, assemble.Options) (*assemble.Outdated, error)) error {
	o, err := a.buildOptions()
	if err != nil {
		return err
	}
	found, failed := find(ctx, o)
	if failed != nil && (found == nil || len(found.Moves) == 0) {
		return failed
	}
	moves := found.Moves
	if len(found.Unlocked) > 0 {
		a.ui.Note("note: %s: no lock file, so images were not looked up; krtpkg update writes one", nameSome(found.Unlocked, "bundle"))
		none = "no source has a newer version"
	}
	if failed == nil && exitCode && len(moves) > 0 {
		failed = errChanges
	}
	r := &result.Moves{Moves: append([]assemble.Move{}, moves...), Unlocked: append([]string{}, found.Unlocked...)}
	return a.printResult(ctx, format, r, failed, func(w io.Writer) {
		if len(moves) == 0 {
			ui.Fprintln(w, none)
			return
		}
		ui.Fprintf(w, "BUNDLE\tKIND\tNAME\tFROM\tTO\tNEWEST\n")
		for _, m := range moves {
			ui.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", m.Bundle, m.Kind, m.Name, shortPin(m.From), shortPin(m.To), m.Newest)
		}
	})
}

// nameSome returns the names of a few things, or how many there are.
func nameSome(names []string, what string) string {
	if len(names) > 3 {
		return countNoun(len(names), what)
	}
	return strings.Join(names, ", ")
}

// shortPin returns the first characters of a digest or a commit; - if it is empty.
func shortPin(pin string) string {
	switch {
	case pin == "":
		return "-"
	case len(pin) == 40:
		return pin[:12]
	}
	return shortenDigest(pin)
}
