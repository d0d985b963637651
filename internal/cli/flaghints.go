package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"krtpkg.dev/krtpkg/pkg/manifest"
)

// elsewhere is for commands that take no values.
const elsewhere = "//values in the definition (values, valuesFiles), or of the site with krtpkg apply --values"

// notNeeded begins what is said of flags that ask for what krtpkg always does.
const notNeeded = "not needed: "

// otherToolsFlags are flags that people bring from helm, kubectl, crane and skopeo, and what to type here.
var otherToolsFlags = map[string]string{
	"set":             "--data-value BUNDLE.KEY=TEXT, or --data-value-yaml BUNDLE.KEY=VALUE for numbers, switches and lists" + elsewhere,
	"set-string":      "--data-value BUNDLE.KEY=TEXT" + elsewhere,
	"set-json":        "--data-value-yaml BUNDLE.KEY=VALUE" + elsewhere,
	"set-file":        "--data-value-file BUNDLE.KEY=FILE" + elsewhere,
	"kube-context":    "--context",
	"insecure":        "--plain-http, or --insecure-skip-tls-verify",
	"tls-verify":      "--insecure-skip-tls-verify",
	"src-tls-verify":  "--insecure-skip-tls-verify",
	"dest-tls-verify": "--insecure-skip-tls-verify",
	"all-platforms":   notNeeded + "all platforms are copied| unless --platform limits them",
	"recursive":       notNeeded + "signatures and other referrers come along|, see --attached",
	"atomic":          notNeeded + "a failed apply is taken back with krtpkg rollback",
	"install":         notNeeded + "apply installs and upgrades",
	"wait":            notNeeded + "apply waits until all is ready|, see --wait-timeout",
}

// flagError is what is wrong with the flags of a command, with what may have been meant.
func flagError(cmd *cobra.Command, err error) error {
	if name, unknown := strings.CutPrefix(err.Error(), "unknown flag: --"); unknown {
		if here := fitHint(cmd, otherToolsFlags[name]); here != "" {
			if !strings.HasPrefix(here, notNeeded) {
				here = "use " + here
			}
			return &usageError{fmt.Errorf("%w: %s (see %s --help)", err, here, cmd.CommandPath())}
		}
		var names []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		if near := manifest.NearestName(name, names); near != "" {
			return &usageError{fmt.Errorf("%w: did you mean --%s? (see %s --help)", err, near, cmd.CommandPath())}
		}
	}
	if strings.Contains(err.Error(), "unknown shorthand flag: 'p'") && hasFlag(cmd, "password-stdin") {
		return &usageError{fmt.Errorf("%w: others could read a password in the list of processes: pass --password-stdin", err)}
	}
	return &usageError{fmt.Errorf("%w (see %s --help)", err, cmd.CommandPath())}
}
