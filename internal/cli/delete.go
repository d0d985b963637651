package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/pkg/deploy"
)

func (a *app) deleteCommand() *cobra.Command {
	var o deleteOptions
	cmd := &cobra.Command{
		Use:   "delete NAME",
		Short: "delete a runtime from a cluster, or a bundle that was applied by itself",
		Long: `Delete removes the bundles of a runtime in reverse order, and waits until the resources of each
are gone before the next. NAME is a name that krtpkg status lists. A bundle of a runtime cannot be deleted
alone: apply a version without it.

It refuses to delete namespaces with resources of others, and CustomResourceDefinitions with
resources of others, unless you pass --delete-foreign.

Deletion hooks of Helm charts (pre-delete, post-delete) run with --run-hooks, before and after the
resources of their bundle are deleted. Without it they are listed and skipped.`,
		Example: `  krtpkg delete edge --dry-run
  krtpkg delete edge
  krtpkg delete edge --yes
  krtpkg delete edge --run-hooks`,
		GroupID: groupCluster,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runDelete(cmd.Context(), args[0], o)
		},
	}
	o.cluster.addChanging(cmd)
	o.cluster.addDiff(cmd)
	cmd.Flags().BoolVar(&o.foreign, "delete-foreign", false, "also delete resources of others in the runtime's namespaces and of its kinds")
	addRunHooks(cmd, &o.hooks, "run the deletion hooks of charts")
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "print what would be deleted, as krtpkg plan prints it, and delete nothing")
	return cmd
}

func addRunHooks(cmd *cobra.Command, run *bool, usage string) {
	cmd.Flags().BoolVar(run, "run-hooks", false, usage)
}

// deleteOptions are the flags of krtpkg delete.
type deleteOptions struct {
	cluster                clusterFlags
	foreign, hooks, dryRun bool
}

func (a *app) runDelete(ctx context.Context, name string, flags deleteOptions) error {
	f := flags.cluster
	f.yes = f.yes || flags.dryRun // which asks nobody
	if err := f.checkValues(a); err != nil {
		return err
	}
	cluster, err := f.connectCluster(a)
	if err != nil {
		return err
	}
	options, stop := f.deployOptions(a)
	defer stop()
	o := deploy.DeleteOptions{Options: options, DeleteForeign: flags.foreign, RunHooks: flags.hooks, Confirm: f.confirmPlan(a, cluster, "delete")}
	var planned *deploy.Plan
	switch {
	case flags.dryRun:
		o.Confirm = func(_ context.Context, p *deploy.Plan) (bool, error) {
			planned = p
			return false, nil
		}
	case f.yes:
		// Nobody is asked, but what others lose is said.
		o.WithoutDiffs = true
		o.Confirm = func(_ context.Context, p *deploy.Plan) (bool, error) { return true, a.sayFindings(p.Findings) }
	}
	report, err := cluster.Delete(ctx, name, o)
	if planned != nil && errors.Is(err, deploy.ErrNotConfirmed) {
		return a.printPlan(ctx, planned, f, nil)
	}
	if err != nil {
		return err
	}
	stop()
	return a.printDeployed(ctx, report, nil, f)
}
