package cli

import (
	"context"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/pkg/deploy"
)

func (a *app) deleteCommand() *cobra.Command {
	var f clusterFlags
	var foreign bool
	cmd := &cobra.Command{
		Use:   "delete NAME",
		Short: "delete a runtime, or a lone bundle, from a cluster",
		Long: `Delete removes every bundle of a runtime in reverse order, and waits until the resources
of each are gone before it goes on.

It refuses to delete a namespace that holds what is not of the runtime, and the definition of
a kind that others have made resources of, unless --delete-foreign says that they go, too.`,
		Example: `  krtpkg delete edge
  krtpkg delete edge --yes`,
		GroupID: groupCluster,
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.delete(cmd.Context(), args[0], foreign, f) },
	}
	f.addChanging(cmd)
	f.addDiff(cmd)
	cmd.Flags().BoolVar(&foreign, "delete-foreign", false, "delete also what is not of the runtime, in its namespaces and of its kinds")
	return cmd
}

func (a *app) delete(ctx context.Context, name string, foreign bool, f clusterFlags) error {
	if err := f.check(a); err != nil {
		return err
	}
	cluster, err := f.connect(a)
	if err != nil {
		return err
	}
	options, stop := f.options(a)
	defer stop()
	report, err := cluster.Delete(ctx, name, deploy.DeleteOptions{
		Options: options, DeleteForeign: foreign, Confirm: f.confirm(a, cluster, "delete"),
	})
	if err != nil {
		return err
	}
	stop()
	return a.deployed(report, f)
}
