package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/pkg/deploy"
)

func (a *app) statusCommand() *cobra.Command {
	var f clusterFlags
	cmd := &cobra.Command{
		Use:   "status [NAME]",
		Short: "show what is applied on a cluster",
		Example: `  krtpkg status
  krtpkg status edge -o json`,
		GroupID: groupCluster,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := ""
			if len(args) == 1 {
				name = args[0]
			}
			return a.status(cmd.Context(), name, f)
		},
	}
	f.add(cmd)
	return cmd
}

type installedView struct {
	Runtime        string `json:"runtime"`
	RuntimeVersion string `json:"runtimeVersion"`
	RuntimeDigest  string `json:"runtimeDigest"`
	Bundle         string `json:"bundle"`
	Version        string `json:"version"`
	Digest         string `json:"digest"`
	Layer          int    `json:"layer"`
	App            string `json:"app"`
	Complete       bool   `json:"complete"`
	Changed        string `json:"changed"`
}

func (a *app) status(ctx context.Context, name string, f clusterFlags) error {
	cluster, err := deploy.Connect(f.Config)
	if err != nil {
		return err
	}
	installed, err := cluster.List(ctx, name)
	if err != nil {
		return err
	}
	if name != "" && len(installed) == 0 {
		return fmt.Errorf("%s, namespace %s: %w", name, cluster.Namespace(), deploy.ErrNotInstalled)
	}
	views := make([]installedView, len(installed))
	for i, b := range installed {
		views[i] = installedView{
			b.Runtime, b.RuntimeVersion, b.RuntimeDigest, b.Bundle, b.Version, b.Digest,
			b.Layer, b.App, b.Complete, b.Changed.UTC().Format(time.RFC3339),
		}
	}
	return a.ui.Result(f.format, views, func(w io.Writer) {
		fmt.Fprintf(w, "RUNTIME\tVERSION\tLAYER\tBUNDLE\tVERSION\tDIGEST\tCOMPLETE\tCHANGED\n")
		for _, v := range views {
			fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\t%t\t%s\n",
				v.Runtime, v.RuntimeVersion, v.Layer, v.Bundle, v.Version, short(v.Digest), v.Complete, v.Changed)
		}
	})
}
