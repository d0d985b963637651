// Package cli is the command line: a file a command, each of which parses its flags, calls
// the library and renders what came back.
package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"krtpkg.dev/krtpkg/internal/telemetry"
	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/registry"
)

// Run runs a command line and returns the exit code.
func Run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	a := &app{ui: &ui.UI{In: in, Out: out, Err: errOut}}
	root := a.rootCommand()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	cmd, err := root, checkHelp(root, args)
	if err == nil {
		ctx = a.startTelemetry(ctx, args)
		cmd, err = root.ExecuteContextC(ctx)
	}
	a.ui.EndProgress(err)
	a.noteHealed()
	a.command = cmd
	if err == nil {
		a.endTelemetry(ctx, nil)
		return 0
	}
	e := a.describeError(ctx, err)
	a.endTelemetry(ctx, e)
	a.printError(cmd, args, e)
	if e.ExitCode == exitInterrupted {
		a.ui.Note("%s", strings.TrimSuffix("interrupted: "+e.Hint, ": "))
		return e.ExitCode
	}
	a.ui.Error(err)
	if e.Hint != "" {
		a.ui.Note("hint: %s", e.Hint)
	}
	return e.ExitCode
}

// NewCommand returns the command line, for programs that document it.
func NewCommand() *cobra.Command {
	a := &app{ui: &ui.UI{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}}
	return a.rootCommand()
}

// app is what commands share.
type app struct {
	ui       *ui.UI
	settings settings
	// args are the command's, and errorShown is set once a result says why it failed.
	args       []string
	errorShown bool
	// command is the one that runs, and usesPolicyFile is set if a file says who is trusted.
	command        *cobra.Command
	usesPolicyFile bool
	// telemetry tells of the command; nil if nobody is to be told.
	telemetry *telemetry.Session
	// archives are those that were opened to read in place.
	archives []*archive.Store
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "krtpkg",
		Short: "bundle Kubernetes runtimes as signed OCI artifacts, carry them anywhere, apply them",
		Long: `krtpkg assembles the components of a Kubernetes runtime into versioned, signed OCI
artifacts, pushes them with all their images to any registry, and verifies and applies them
with kapp on target clusters.

References name a place:
  registry.example/krt/edge:1.4.0    a registry
  oci:./dist:1.4.0                   an OCI layout in a folder
  ./edge-1.4.0.tar                   an archive, as export writes it`,
		Example: `  krtpkg build -f runtime.yaml
  krtpkg push oci:dist:1.0.0 registry.example/krt/edge:1.0.0
  krtpkg sign --key cosign.key registry.example/krt/edge:1.0.0
  krtpkg apply --key cosign.pub registry.example/krt/edge:1.0.0`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          knownCommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SuggestionsMinimumDistance = 2
	root.SetFlagErrorFunc(flagError)
	root.Version = programVersion()
	root.SetVersionTemplate("krtpkg {{.Version}}\n")
	a.settings.addGlobalFlags(root.PersistentFlags())
	a.progressFlags(root)
	root.AddGroup(
		&cobra.Group{ID: groupMake, Title: "Make and publish:"},
		&cobra.Group{ID: groupCarry, Title: "Carry:"},
		&cobra.Group{ID: groupTrust, Title: "Trust:"},
		&cobra.Group{ID: groupLook, Title: "Look:"},
		&cobra.Group{ID: groupCluster, Title: "On a cluster:"},
	)
	root.AddCommand(
		a.initCommand(), a.buildCommand(), a.imagesCommand(), a.outdatedCommand(), a.updateCommand(),
		a.pushCommand(), a.deltaCommand(), a.copyCommand(), a.pullCommand(), a.tagCommand(),
		a.exportCommand(), a.importCommand(), a.inventoryCommand(), a.checkCommand(), a.pruneCommand(), a.serveCommand(), a.mirrorConfigCommand(),
		a.doctorCommand(), a.loginCommand(), a.logoutCommand(),
		a.keygenCommand(), a.signCommand(), a.attestCommand(), a.attestationCommand(), a.verifyCommand(), a.promoteCommand(), a.trustCommand(), a.receiptsCommand(),
		a.layersCommand(), a.inspectCommand(), a.treeCommand(), a.filesCommand(), a.catalogCommand(), a.diffCommand(), a.graphCommand(), a.sbomCommand(), a.provenanceCommand(), a.renderCommand(), a.schemaCommand(), a.showCommand(),
		a.listCommand(), a.planCommand(), a.applyCommand(), a.statusCommand(), a.historyCommand(), a.valuesCommand(),
		a.rollbackCommand(), a.deleteCommand(), a.rbacCommand(), a.packagesCommand(),
		a.versionCommand(), a.renderWorkerCommand(),
	)
	setUsageArgs(root)
	setOnce(root)
	a.completeReferences(root)
	return root
}

// progressFlags adds --progress, and --quiet, which is the same as --progress none.
func (a *app) progressFlags(root *cobra.Command) {
	flags := root.PersistentFlags()
	flags.BoolVarP(&a.ui.Quiet, "quiet", "q", false, "no progress, only results, notes and errors: --progress none")
	flags.Var(&a.ui.Mode, "progress", "how progress is shown on standard error: auto is tty on a terminal and plain elsewhere")
	_ = root.RegisterFlagCompletionFunc("progress", cobra.FixedCompletions(ui.ListModes(), cobra.ShellCompDirectiveNoFileComp))
	root.PersistentPreRunE = func(cmd *cobra.Command, args []string) error {
		a.args, a.command = args, cmd
		a.telemetry.SetCommand(cmd.CommandPath())
		a.ui.Quiet = a.ui.Quiet || a.ui.Mode == ui.None
		ctx, err := a.settings.withMemory(cmd.Context(), os.Getenv)
		cmd.SetContext(ctx)
		return err
	}
}

const (
	groupMake    = "make"
	groupCarry   = "carry"
	groupTrust   = "trust"
	groupLook    = "look"
	groupCluster = "cluster"
)

// requireFlags makes the absence of flags a usage error.
func requireFlags(cmd *cobra.Command, names ...string) {
	for _, name := range names {
		_ = cmd.MarkFlagRequired(name) // for completion; names are of this file's neighbours
	}
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		for _, name := range names {
			if !cmd.Flags().Changed(name) {
				return &usageError{fmt.Errorf("--%s is missing\nusage: %s", name, cmd.UseLine())}
			}
		}
		return nil
	}
}

// setUsageArgs makes a wrong number of arguments a usage error in all commands below one.
func setUsageArgs(parent *cobra.Command) {
	for _, cmd := range parent.Commands() {
		cmd.Args = usageArgs(cmd.Args)
		setUsageArgs(cmd)
	}
}

// usageArgs makes a wrong number of arguments, and flags that exclude each other, usage errors.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if check == nil {
			check = cobra.ArbitraryArgs
		}
		if err := check(cmd, args); err != nil {
			return &usageError{fmt.Errorf("%w\nusage: %s", err, cmd.UseLine())}
		}
		return checkExclusive(cmd)
	}
}

// checkExclusive says in plain words what cobra says of flags that exclude each other, before cobra does.
func checkExclusive(cmd *cobra.Command) error {
	const groups = "cobra_annotation_mutually_exclusive" // cobra's own, see MarkFlagsMutuallyExclusive
	var err error
	cmd.Flags().Visit(func(flag *pflag.Flag) { // in the order of names
		for _, group := range flag.Annotations[groups] {
			for _, other := range strings.Fields(group) {
				if err == nil && other != flag.Name && cmd.Flags().Changed(other) {
					err = &usageError{fmt.Errorf("--%s cannot be used with --%s", flag.Name, other)}
				}
			}
		}
	})
	return err
}

// newClient reaches registries with the settings of the command line, the environment and the
// config file.
func (a *app) newClient() (*registry.Client, error) { return a.clientWith(nil) }

// clientWith returns a client with logins before those of the user, as docker configs.
func (a *app) clientWith(logins [][]byte) (*registry.Client, error) {
	if err := a.settings.loadSettings(os.Getenv); err != nil {
		return nil, err
	}
	options := a.settings.registry
	options.Logins = logins
	options.UserAgent = "krtpkg/" + programVersion()
	options.StateDir = registry.DefaultStateDir()
	return registry.New(options)
}

func outputFlag(cmd *cobra.Command, format *ui.Format) {
	cmd.Flags().VarP(format, "output", "o", "output format")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"json", "yaml", "text"}, cobra.ShellCompDirectiveNoFileComp))
}

// documentFlag is outputFlag for what is read as Markdown too.
func documentFlag(cmd *cobra.Command, format *ui.DocumentFormat) {
	cmd.Flags().VarP(format, "output", "o", "output format")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"json", "yaml", "markdown", "text"}, cobra.ShellCompDirectiveNoFileComp))
}

// outputDirFlag adds --output-dir. Its value may follow -o as well, as in older versions, which is not shown: all
// other commands take a format there.
func outputDirFlag(cmd *cobra.Command, dir *string, usage string) {
	flags := cmd.Flags()
	flags.StringVarP(dir, "output-dir", "d", "", usage)
	flags.StringVarP(dir, "output", "o", "", usage)
	_ = flags.MarkHidden("output") // which is there
	_ = cmd.MarkFlagDirname("output-dir")
}
