package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// noArguments is [cobra.NoArgs] for commands without subcommands: what is typed is not a command that is unknown,
// but more often the definition without its flag.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fmt.Errorf("%s takes no arguments, but %q was given", cmd.CommandPath(), args[0])
	isFile := !strings.ContainsAny(args[0], ":@") // a reference otherwise
	if f := cmd.Flags().ShorthandLookup("f"); f != nil && len(args) == 1 && isFile {
		err = fmt.Errorf("%w: name it with -f %s", err, args[0])
	}
	return err
}
