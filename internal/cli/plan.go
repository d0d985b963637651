package cli

import (
	"cmp"
	"context"
	"io"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/deploy/preflight"
)

func (a *app) planCommand() *cobra.Command {
	var o planOptions
	cmd := &cobra.Command{
		Use:   "plan REFERENCE --key KEY",
		Short: "show what an apply would change on a cluster, and what would block it",
		Long: `Plan does everything that apply does except the changes: it verifies, renders, checks that the
cluster is ready, and prints kapp's diff by layer and bundle. It writes nothing.

It checks the cluster's version, kinds that are not served, removed or deprecated, upgrades of
CustomResourceDefinitions that would lose data, resources that have another owner, resources of
others that would be deleted, permissions, and images: that they exist, and for the platforms of
the nodes. It sends each change to the API server as a dry run, which finds immutable fields and
changes that admission would refuse. All problems are reported as one error at the end.`,
		Example: `  krtpkg plan --key cosign.pub registry.example/krt/edge:1.1.0
  krtpkg plan --key cosign.pub registry.example/krt/edge:1.1.0 --exit-code -o json`,
		GroupID: groupCluster,
		Args:    oneReference,
		RunE:    func(cmd *cobra.Command, args []string) error { return a.runPlan(cmd.Context(), args[0], o) },
	}
	o.site.addSiteFlags(cmd)
	o.cluster.addClusterFlags(cmd)
	o.cluster.addDiff(cmd)
	cmd.Flags().BoolVar(&o.exitCode, "exit-code", false, "end with exit code 5 if anything would change")
	return cmd
}

type planOptions struct {
	site     siteFlags
	cluster  clusterFlags
	exitCode bool
}

func (a *app) runPlan(ctx context.Context, reference string, o planOptions) error {
	policy, err := a.requirePolicy(ctx, &o.site)
	if err := cmp.Or(err, o.cluster.checkValues(a)); err != nil {
		return err
	}
	p, err := a.prepareRoot(ctx, reference, policy, &o.site)
	if err != nil {
		return err
	}
	cluster, err := o.cluster.connectCluster(a)
	if err != nil {
		return err
	}
	rt, err := p.renderRuntime(ctx, a, cluster, &o.site.values)
	if err != nil {
		return err
	}
	if err := a.checkRecord(ctx, cluster, p, rt, o.site.trust.expectName); err != nil {
		return err
	}
	images, found, err := p.lookAtRunning(ctx, a, cluster, rt)
	if err != nil {
		return err
	}
	plan, err := cluster.Plan(ctx, rt, deploy.CheckOptions{
		Options: deploy.Options{Parallel: o.cluster.parallel}, Skip: o.site.skip, Images: images, TakeOver: o.site.takeOver,
		DeleteForeign: o.site.deleteForeign,
	})
	if err != nil {
		return err
	}
	plan.Findings = append(found, plan.Findings...)
	a.hideConfidential(plan.Findings)
	failed := preflight.RefuseFindings(plan.Findings)
	if failed == nil && !o.site.allowDowngrade {
		failed = refuseDowngrade(plan.Findings)
	}
	if failed == nil && o.exitCode && plan.HasChanges() {
		failed = errChanges
	}
	return a.printPlan(ctx, plan, o.cluster, failed)
}

// printPlan prints a plan, and returns why it cannot be carried out, if so.
func (a *app) printPlan(ctx context.Context, plan *deploy.Plan, f clusterFlags, failed error) error {
	return a.printResult(ctx, f.format, describePlan(plan), failed, func(w io.Writer) {
		planWriter{w, f.full}.writePlan(plan)
		io.WriteString(w, summarizePlan(plan)+"\n")
	})
}
