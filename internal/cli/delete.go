package cli

import (
	"context"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/pkg/deploy"
)

func (a *app) deleteCommand() *cobra.Command {
	var f clusterFlags
	var foreign, hooks bool
	cmd := &cobra.Command{
		Use:   "delete NAME",
		Short: "delete a runtime, or a lone bundle, from a cluster",
		Long: `Delete removes every bundle of a runtime in reverse order, and waits until the resources
of each are gone before it goes on.

It refuses to delete a namespace that holds what is not of the runtime, and the definition of
a kind that others have made resources of, unless --delete-foreign says that they go, too.

Hooks of Helm charts that are for a deletion (pre-delete, post-delete) run with --run-hooks, before
and after the resources of their bundle are deleted. Without it they are named and left out.`,
		Example: `  krtpkg delete edge
  krtpkg delete edge --yes
  krtpkg delete edge --run-hooks`,
		GroupID: groupCluster,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runDelete(cmd.Context(), args[0], deploy.DeleteOptions{DeleteForeign: foreign, RunHooks: hooks}, f)
		},
	}
	f.addChanging(cmd)
	f.addDiff(cmd)
	cmd.Flags().BoolVar(&foreign, "delete-foreign", false, "delete also what is not of the runtime, in its namespaces and of its kinds")
	addRunHooks(cmd, &hooks, "run the hooks of charts that are for a deletion")
	return cmd
}

func addRunHooks(cmd *cobra.Command, run *bool, usage string) {
	cmd.Flags().BoolVar(run, "run-hooks", false, usage)
}

func (a *app) runDelete(ctx context.Context, name string, o deploy.DeleteOptions, f clusterFlags) error {
	if err := f.checkValues(a); err != nil {
		return err
	}
	cluster, err := f.connectCluster(a)
	if err != nil {
		return err
	}
	options, stop := f.deployOptions(a)
	defer stop()
	o.Options, o.Confirm = options, f.confirmPlan(a, cluster, "delete")
	report, err := cluster.Delete(ctx, name, o)
	if err != nil {
		return err
	}
	stop()
	return a.printDeployed(report, f)
}
