package cli

import (
	"testing"

	"github.com/spf13/cobra"
)

// TestHintedFlags: commands that end with a hint to a flag have that flag.
func TestHintedFlags(t *testing.T) {
	a := &app{}
	for _, command := range []*cobra.Command{a.planCommand(), a.applyCommand(), a.rollbackCommand(), a.deleteCommand()} {
		flags := []string{"delete-foreign"}
		if command.Name() != "delete" {
			flags = append(flags, "take-over", "skip-check")
		}
		for _, flag := range flags {
			if command.Flags().Lookup(flag) == nil {
				t.Errorf("%s has no --%s", command.Name(), flag)
			}
		}
	}
}
