package cli

import (
	"regexp"
	"strings"

	"github.com/spf13/cobra"
)

// Hints are written for all commands that can fail in one way, in clauses: | begins one that is left out, and //
// another to take instead, where the command that runs lacks a flag that the clause names. What stands in a clause
// behind "krtpkg VERB" is held to the flags of that verb.

// hintWord matches what a clause of a hint names: flags, and commands, of other programs too.
var hintWord = regexp.MustCompile(`\bkrtpkg [a-z-]+( [a-z]+\b)?|\b(aws|gcloud) [a-z]+|--[a-z][a-z-]*`)

// fitHint returns a hint with what the command that runs can do: no flag that it does not have is named.
func fitHint(cmd *cobra.Command, hint string) string {
	fitted := ""
	for i, clause := range strings.Split(hint, "|") {
		for choice := range strings.SplitSeq(clause, "//") {
			if !canType(cmd, choice) {
				continue
			}
			if i > 0 && fitted == "" {
				choice = strings.TrimPrefix(strings.TrimLeft(choice, ",; "), "or ")
			}
			fitted += choice
			break
		}
	}
	return fitted
}

// canType reports whether the command, and those that a clause begins with "krtpkg", have each flag that it names.
func canType(cmd *cobra.Command, clause string) bool {
	at, isOther := cmd, false
	for _, word := range hintWord.FindAllString(clause, -1) {
		name, isFlag := strings.CutPrefix(word, "--")
		switch verb, isOurs := strings.CutPrefix(word, "krtpkg "); {
		case isOurs:
			found, _, err := cmd.Root().Find(strings.Fields(verb))
			if err != nil || found == cmd.Root() {
				return false
			}
			at, isOther = found, false
		case !isFlag:
			isOther = true
		case !isOther && !hasFlag(at, name):
			return false
		}
	}
	return true
}

// hasFlag reports whether a command takes a flag.
func hasFlag(cmd *cobra.Command, name string) bool {
	return cmd.Flags().Lookup(name) != nil || cmd.InheritedFlags().Lookup(name) != nil
}
