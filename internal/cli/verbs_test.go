package cli

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/ui"
)

// ListPrintingVerbs returns the commands that print results for programs, sorted.
func ListPrintingVerbs() (verbs []string) {
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		if formatOf(cmd) != nil {
			verbs = append(verbs, strings.TrimPrefix(cmd.CommandPath(), "krtpkg "))
		}
		for _, sub := range cmd.Commands() {
			visit(sub)
		}
	}
	visit((&app{ui: &ui.UI{}}).rootCommand())
	slices.Sort(verbs)
	return verbs
}
