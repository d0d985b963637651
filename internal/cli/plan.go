package cli

import (
	"cmp"
	"context"
	"io"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/pkg/deploy"
)

func (a *app) planCommand() *cobra.Command {
	var o planOptions
	cmd := &cobra.Command{
		Use:   "plan REFERENCE --key KEY",
		Short: "show what an apply would change on a cluster, and what would keep it from that",
		Long: `Plan does all that apply does but the change: it verifies, renders, looks whether the cluster
is ready, and prints kapp's differences by layer and bundle. It writes nothing.

It looks at the cluster's version, at kinds that are not served, removed or deprecated, at
upgrades of CustomResourceDefinitions that would lose data, at resources that have another
owner, at what others would lose with what is deleted, at permissions, and at images: whether
they are there, and for the platforms of the nodes. Each change is sent to the API server as a
dry run, which finds immutable fields and what admission refuses. What is wrong is an error at
the end.`,
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
	p, err := a.prepareRoot(ctx, reference, policy, &o.site, "")
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
	failed := deploy.RefuseFindings(plan.Findings)
	if failed == nil && o.exitCode && plan.HasChanges() {
		failed = errChanges
	}
	return a.printResult(ctx, o.cluster.format, describePlan(plan), failed, func(w io.Writer) {
		writePlan(w, plan, o.cluster.full)
		io.WriteString(w, plan.CountChanges().String()+"\n")
	})
}
