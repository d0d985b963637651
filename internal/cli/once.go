package cli

import (
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// setOnce makes the flags of all commands that take one text refuse a second, different one. Other
// tools take several of some (-f of kubectl, --values of helm), and which one counts would
// not be seen: of two policies one would not be asked.
func setOnce(cmd *cobra.Command) {
	// As long as no command has run, these are a command's own flags. LocalNonPersistentFlags collects them again for each.
	cmd.Flags().VisitAll(func(flag *pflag.Flag) {
		if flag.Value.Type() == "string" && cmd.PersistentFlags().Lookup(flag.Name) == nil {
			flag.Value = &onceValue{Value: flag.Value}
		}
	})
	for _, sub := range cmd.Commands() {
		setOnce(sub)
	}
}

// onceValue is a flag's value that stays as it was set first.
type onceValue struct {
	pflag.Value
	isSet bool
}

// Set implements [pflag.Value].
func (v *onceValue) Set(text string) error {
	if v.isSet && text != v.String() {
		return fmt.Errorf("already set to %q: want a single value", v.String())
	}
	v.isSet = true
	return v.Value.Set(text)
}
