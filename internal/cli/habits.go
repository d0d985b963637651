package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// otherToolsCommands are commands that people bring from helm, docker, kubectl, kapp and zarf, and what to type here.
var otherToolsCommands = map[string]string{
	"install":    "krtpkg apply",
	"upgrade":    "krtpkg apply",
	"deploy":     "krtpkg apply",
	"run":        "krtpkg apply",
	"uninstall":  "krtpkg delete",
	"remove":     "krtpkg delete",
	"destroy":    "krtpkg delete",
	"rm":         "krtpkg delete",
	"template":   "krtpkg render",
	"lint":       "krtpkg build, which checks all of a definition",
	"validate":   "krtpkg build, which checks all of a definition",
	"package":    "krtpkg build",
	"create":     "krtpkg init, or krtpkg build",
	"new":        "krtpkg init",
	"lock":       "krtpkg update",
	"resolve":    "krtpkg update",
	"dependency": "krtpkg update",
	"save":       "krtpkg export",
	"load":       "krtpkg import",
	"publish":    "krtpkg push",
	"download":   "krtpkg export, or krtpkg pull for the manifests alone",
	"fetch":      "krtpkg export, or krtpkg pull for the manifests alone",
	"cp":         "krtpkg copy",
	"mirror":     "krtpkg copy --list FILE",
	"sync":       "krtpkg copy --list FILE",
	"digest":     "krtpkg inspect",
	"manifest":   "krtpkg inspect",
	"search":     "krtpkg list",
	"ls":         "krtpkg list REPOSITORY, or krtpkg status for what a cluster runs",
	"ps":         "krtpkg status",
	"get":        "krtpkg status, or krtpkg values",
	"describe":   "krtpkg status NAME --full",
	"registry":   "krtpkg serve",
}

// knownCommand refuses arguments of a command that has others below it: they are commands that do not exist.
func knownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fmt.Errorf("unknown command %q", args[0])
	if here := otherToolsCommands[args[0]]; here != "" && !cmd.HasParent() {
		return &usageError{fmt.Errorf("%w: use %s", err, here)}
	}
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return &usageError{fmt.Errorf("%w: did you mean %s?", err, strings.Join(near, " or "))}
	}
	if strings.ContainsAny(args[0], "/:") && cmd.HasParent() {
		var below []string
		for _, inner := range cmd.Commands() {
			below = append(below, inner.CommandPath()+" "+args[0])
		}
		return &usageError{fmt.Errorf("%w: want %s", err, strings.Join(below, " or "))}
	}
	return &usageError{fmt.Errorf("%w (see %s --help)", err, cmd.CommandPath())}
}

// checkHelp refuses help on a command that does not exist, for which cobra gives that of all commands.
func checkHelp(root *cobra.Command, args []string) error {
	asked := args
	switch {
	case len(args) > 1 && args[0] == "help":
		asked = args[1:]
	case len(args) == 0 || strings.HasPrefix(args[0], "-") || !slices.Contains(args, "--help") && !slices.Contains(args, "-h"):
		return nil
	}
	if cmd, _, err := root.Find(asked); err == nil && cmd != root || strings.HasPrefix(asked[0], "-") {
		return nil
	}
	return knownCommand(root, asked)
}
