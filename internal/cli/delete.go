package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/pkg/deploy"
)

func (a *app) deleteCommand() *cobra.Command {
	var f clusterFlags
	cmd := &cobra.Command{
		Use:   "delete NAME",
		Short: "delete a runtime, or a lone bundle, from a cluster",
		Long: `Delete removes every bundle of a runtime in reverse order, and waits until the resources
of each are gone before it goes on.`,
		Example: `  krtpkg delete edge
  krtpkg delete edge --yes`,
		GroupID: groupCluster,
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.delete(cmd.Context(), args[0], f) },
	}
	f.addChanging(cmd)
	return cmd
}

func (a *app) delete(ctx context.Context, name string, f clusterFlags) error {
	options, err := f.options(a)
	if err != nil {
		return err
	}
	cluster, err := deploy.Connect(f.Config)
	if err != nil {
		return err
	}
	report, err := cluster.Delete(ctx, name, deploy.DeleteOptions{Options: options})
	if err != nil {
		return err
	}
	return a.ui.Result(f.format, newDeployView(report), func(w io.Writer) {
		fmt.Fprintf(w, "LAYER\tBUNDLE\tVERSION\tCHANGES\tTIME\n")
		for _, b := range report.Deleted {
			fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\n", b.Layer, b.Bundle, b.Version, b.Changes, b.Elapsed.Round(time.Millisecond*100))
		}
	})
}
