package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/pkg/bundle"
)

func (a *app) schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:       "schema bundle|runtime",
		Short:     "print the JSON schema of definitions, for editors",
		Example:   "  krtpkg schema bundle > bundle.schema.json",
		GroupID:   groupLook,
		ValidArgs: []string{"bundle", "runtime"},
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		RunE: func(_ *cobra.Command, args []string) error {
			schema, err := bundle.Schema(strings.ToLower(args[0]))
			if err != nil {
				return err
			}
			_, err = a.ui.Out.Write(schema)
			return err
		},
	}
}
