package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/render"
)

func (a *app) rollbackCommand() *cobra.Command {
	var o applyOptions
	var to string
	var from string
	cmd := &cobra.Command{
		Use:   "rollback NAME --key KEY",
		Short: "go back to an earlier revision of a runtime, with the values of that revision",
		Long: `Rollback applies an earlier revision again, by its recorded digest, from its recorded place and
with its values. It verifies the signatures again, since trust may have been revoked. Without --to
it takes the last complete revision before the current one. The rollback is a new revision.

Rollback hooks of Helm charts (pre-rollback, post-rollback) of the target version run with
--run-hooks. Install and upgrade hooks do not run.`,
		Example: `  krtpkg rollback edge --key cosign.pub
  krtpkg rollback edge --key cosign.pub --to 1.0.0 --yes`,
		GroupID: groupCluster,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runRollback(cmd.Context(), args[0], to, from, &o)
		},
	}
	o.pauseAfter, o.isRollback = -1, true
	o.site.trust.addTrustFlags(cmd)
	o.site.trust.addUnsigned(cmd, "continue without verifying signatures")
	flags := cmd.Flags()
	flags.StringVar(&to, "to", "", "the version or revision number to go back to")
	flags.StringVar(&from, "from", "", "repository that has the revision, REGISTRY/REPOSITORY, if it is no longer at its recorded place")
	flags.StringSliceVar(&o.site.skip, "skip-check", nil, "skip a check before the apply, as with krtpkg apply")
	o.site.addOwnership(cmd)
	addRunHooks(cmd, &o.runHooks, "run rollback hooks of charts, and deletion hooks of removed bundles")
	o.metrics.addMetricsFlags(cmd, "write the outcome to this file as Prometheus metrics, for the textfile collector of the node exporter")
	o.receipt.addReceiptFlags(cmd, "write a signed receipt of what was applied to this file")
	o.cluster.addChanging(cmd)
	o.cluster.addDiff(cmd)
	return cmd
}

func (a *app) runRollback(ctx context.Context, name, to, from string, o *applyOptions) error {
	policy, err := a.requirePolicy(ctx, &o.site)
	if err := cmp.Or(err, o.cluster.checkValues(a)); err != nil {
		return err
	}
	if err := cmp.Or(o.receipt.prepare(ctx, a, nil), o.metrics.prepare(nil)); err != nil {
		return err
	}
	cluster, err := o.cluster.connectCluster(a)
	if err != nil {
		return err
	}
	history, err := cluster.History(ctx, name)
	if err != nil {
		return err
	}
	target, err := findEarlier(name, history, to)
	if err != nil {
		return err
	}
	reference := target.Reference
	if from != "" {
		reference = from + "@" + target.Digest
	}
	if reference == "" {
		return fmt.Errorf("revision %d of %s has no recorded place: pass --from", target.Number, name)
	}
	p, err := a.prepareRoot(ctx, reference, policy, &o.site)
	if err != nil {
		return err
	}
	p.ranBefore = true
	if got := p.root.Digest.String(); got != target.Digest {
		return fmt.Errorf("%s is %s, but revision %d of %s was %s: pass --from with a repository that has %s", reference, got, target.Number, name, target.Digest, target.Digest)
	}
	if err := p.deployAs(name); err != nil {
		return err
	}
	kept, err := cluster.Values(ctx, name, target.Number)
	if err != nil {
		return err
	}
	values, err := render.DecodeKept(fmt.Sprintf("the values of revision %d", target.Number), kept)
	if err != nil {
		return err
	}
	a.ui.HideTexts(values.Secret.ListTexts()...)
	a.ui.HideInErrors(values.All.ConfidentialTexts()...)
	a.ui.Say("going back to revision %d: %s %s", target.Number, name, target.Version)
	var rt deploy.Runtime
	began := time.Now()
	report, written, err := o.receipt.record(ctx, a, cluster, p, func() (_ deploy.Runtime, report *deploy.Report, err error) {
		if rt, err = p.renderWithValues(ctx, a, values); err == nil {
			report, err = a.applyRuntime(ctx, cluster, p, rt, o)
		}
		return rt, report, err
	})
	a.writeMetrics(&o.metrics, p, rt, report, err, began)
	if err != nil {
		return err
	}
	return a.printDeployed(ctx, report, written, o.cluster)
}

// findEarlier finds the revision to go back to.
func findEarlier(name string, history []deploy.Revision, to string) (deploy.Revision, error) {
	number, err := strconv.Atoi(to)
	for i, r := range history {
		switch {
		case to == "" && (i == 0 || r.State != deploy.Complete || r.Digest == history[0].Digest && r.Values == history[0].Values):
		case to == "", r.Version == to, err == nil && r.Number == number:
			return r, nil
		}
	}
	if to == "" {
		return deploy.Revision{}, fmt.Errorf("%s has no complete revision before this one: see krtpkg history %s", name, name)
	}
	return deploy.Revision{}, &usageError{errors.New(name + " has no revision " + to + ": see krtpkg history " + name)}
}
