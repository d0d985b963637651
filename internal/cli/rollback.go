package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"

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
		Long: `Rollback applies what an earlier revision was, by the digest that is recorded, from where it
came from, and with the values of that time. It is verified again: that it was once trusted
does not say that it still is. Without --to it is the last revision before this one that
was complete. The rollback is a new revision.

Hooks of Helm charts that are for a rollback (pre-rollback, post-rollback) run with --run-hooks, those
of the version that it goes back to. Hooks of an install or an upgrade do not run.`,
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
	o.site.trust.addUnsigned(cmd, "go on without verifying any signature")
	flags := cmd.Flags()
	flags.StringVar(&to, "to", "", "the version, or the number of the revision, to go back to")
	flags.StringVar(&from, "from", "", "a place that has it, REGISTRY/REPOSITORY, if it is no longer where it came from")
	flags.StringSliceVar(&o.site.skip, "skip-check", nil, "leave out a look before the apply, as with krtpkg apply")
	o.site.addOwnership(cmd)
	addRunHooks(cmd, &o.runHooks, "run the hooks of charts that are for a rollback, or for a deletion where a bundle leaves")
	o.cluster.addChanging(cmd)
	o.cluster.addDiff(cmd)
	return cmd
}

func (a *app) runRollback(ctx context.Context, name, to, from string, o *applyOptions) error {
	policy, err := a.requirePolicy(ctx, &o.site)
	if err := cmp.Or(err, o.cluster.checkValues(a)); err != nil {
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
		return fmt.Errorf("revision %d of %s has no place recorded where it came from: name one with --from", target.Number, name)
	}
	p, err := a.prepareRoot(ctx, reference, policy, &o.site, "")
	if err != nil {
		return err
	}
	p.images.ranBefore = true
	if got := p.root.Digest.String(); got != target.Digest {
		return fmt.Errorf("%s is %s, and revision %d of %s was %s", reference, got, target.Number, name, target.Digest)
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
	rt, err := p.renderWithValues(ctx, a, values)
	if err != nil {
		return err
	}
	a.ui.Say("going back to revision %d: %s %s", target.Number, name, target.Version)
	report, err := a.applyRuntime(ctx, cluster, p, rt, o)
	if err != nil {
		return err
	}
	return a.printDeployed(report, o.cluster)
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
