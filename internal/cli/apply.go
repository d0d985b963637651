package cli

import (
	"context"
	"fmt"
	"io"
	"path"
	"testing/fstest"
	"time"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/layers"
	"krtpkg.dev/krtpkg/pkg/trust"
)

// clusterFlags are the flags of commands that go to a cluster.
type clusterFlags struct {
	deploy.Config
	yes         bool
	waitTimeout time.Duration
	format      ui.Format
}

func (f *clusterFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.Kubeconfig, "kubeconfig", "", "kubeconfig file (default: $KUBECONFIG, then ~/.kube/config)")
	flags.StringVar(&f.Context, "context", "", "context of the kubeconfig (default: the current one)")
	flags.StringVarP(&f.Namespace, "namespace", "n", "", "namespace for kapp's records and for resources that name none (default: the context's)")
	outputFlag(cmd, &f.format)
}

func (f *clusterFlags) addChanging(cmd *cobra.Command) {
	f.add(cmd)
	cmd.Flags().BoolVarP(&f.yes, "yes", "y", false, "do not ask before the cluster is changed")
	cmd.Flags().DurationVar(&f.waitTimeout, "wait-timeout", 15*time.Minute, "how long to wait while nothing becomes ready")
}

// options are kapp's words on standard error, and its questions on the terminal.
func (f *clusterFlags) options(a *app) (deploy.Options, error) {
	o := deploy.Options{
		Out: a.ui, Color: a.ui.Color(a.ui.Err), WaitTimeout: f.waitTimeout,
		OnEvent: func(e deploy.Event) { a.say(e) },
	}
	if a.ui.Quiet {
		o.Out = nil
	}
	if f.yes {
		return o, nil
	}
	if !a.ui.IsTerminal() {
		return o, &usageError{fmt.Errorf("there is no terminal to ask on before the cluster is changed: say --yes")}
	}
	o.Out = a.ui // what is asked about has to be seen
	o.Confirm = a.confirm()
	return o, nil
}

// confirm asks each question until one is answered with all.
func (a *app) confirm() func(context.Context, string) (bool, error) {
	all := false
	return func(ctx context.Context, question string) (bool, error) {
		if all {
			return true, nil
		}
		answer, err := a.ui.Ask(ctx, question+" [y/N/all]")
		all = answer == "a" || answer == "all"
		return all || answer == "y" || answer == "yes", err
	}
}

func (a *app) say(e deploy.Event) {
	at := fmt.Sprintf("layer %d %s: %s %s", e.Layer, layers.Name(e.Layer), e.Bundle, e.Version)
	switch e.Phase {
	case deploy.Applied, deploy.Deleted:
		a.ui.Say("%s %s: %s, %s", at, e.Phase, e.Changes, e.Elapsed.Round(time.Millisecond*100))
	case deploy.Failed:
	default:
		a.ui.Say("%s %s", at, e.Phase)
	}
}

func (a *app) applyCommand() *cobra.Command {
	var o applyOptions
	cmd := &cobra.Command{
		Use:   "apply REFERENCE --key KEY",
		Short: "verify a runtime and apply it to a cluster, layer by layer",
		Long: `Apply verifies the signature, renders every bundle with the site's values, relocates the
images to where they are, and deploys with kapp, one kapp app a bundle, in layer order, each
waited for until it is ready. kapp's diff is shown and asked about first; --yes asks nothing.

Bundles that the runtime had before and has no more are deleted at the end. Nothing is
written if nothing differs. An apply that was interrupted is completed by the next one.`,
		Example: `  krtpkg apply --key cosign.pub registry.example/krt/edge:1.0.0
  krtpkg apply --key cosign.pub registry.example/krt/edge:1.0.0 --values site.yaml --yes`,
		GroupID: groupCluster,
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.apply(cmd.Context(), args[0], o) },
	}
	o.trust.add(cmd)
	o.trust.addUnsigned(cmd, "apply without verifying any signature")
	cmd.Flags().BoolVar(&o.images, "images", false, "verify what upstream signed of the workload images, too, as far as the policy has rules for them")
	o.values.add(cmd)
	o.cluster.addChanging(cmd)
	return cmd
}

type applyOptions struct {
	trust   trustFlags
	images  bool
	values  valuesFlags
	cluster clusterFlags
}

func (a *app) apply(ctx context.Context, reference string, o applyOptions) error {
	policy, err := a.trust(ctx, &o.trust)
	if err != nil {
		return err
	}
	if policy == nil && !o.trust.allowUnsigned {
		return &usageError{fmt.Errorf("%w, or apply it as it is with --allow-unsigned", errNobody)}
	}
	options, err := o.cluster.options(a)
	if err != nil {
		return err
	}
	at, err := a.open(ctx, reference)
	if err != nil {
		return err
	}
	if err := a.checkBeforeApply(ctx, at, policy, o.images); err != nil {
		return err
	}
	rendered, err := a.renderSet(ctx, at, o.values)
	if err != nil {
		return err
	}
	cluster, err := deploy.Connect(o.cluster.Config)
	if err != nil {
		return err
	}
	report, err := cluster.Apply(ctx, rendered.runtime(), deploy.ApplyOptions{Options: options})
	if err != nil {
		return err
	}
	return a.ui.Result(o.cluster.format, newDeployView(report), func(w io.Writer) {
		fmt.Fprintf(w, "LAYER\tBUNDLE\tVERSION\tCHANGES\tTIME\n")
		for _, b := range report.Applied {
			fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\n", b.Layer, b.Bundle, b.Version, b.Changes, b.Elapsed.Round(time.Millisecond*100))
		}
		for _, b := range report.Deleted {
			fmt.Fprintf(w, "%d\t%s\t%s\tdeleted (no longer in %s)\t%s\n", b.Layer, b.Bundle, b.Version, report.Runtime, b.Elapsed.Round(time.Millisecond*100))
		}
	})
}

// checkBeforeApply verifies the root, or says loudly that nobody did.
func (a *app) checkBeforeApply(ctx context.Context, at *opened, policy *trust.Policy, images bool) error {
	if policy == nil {
		a.ui.Note("WARNING: %s is applied without verifying who signed it (--allow-unsigned)", at.pinned())
		return nil
	}
	result, err := a.verified(ctx, at, policy)
	if err != nil {
		return err
	}
	a.ui.Say("verified %s, signed by %s", at.pinned(), signers(result))
	if !images {
		return nil
	}
	set, err := bundle.OpenSet(ctx, at.store, at.root)
	if err != nil {
		return err
	}
	_, err = a.verifyImages(ctx, at.store, set, policy)
	return err
}

// runtime is what the cluster gets: each bundle's manifests as a file system in memory.
func (r *rendering) runtime() deploy.Runtime {
	m := r.root.Metadata()
	runtime := deploy.Runtime{Name: m.Name, Version: m.Version, Digest: r.root.Descriptor.Digest.String()}
	for _, b := range r.bundles {
		manifests := fstest.MapFS{}
		for _, f := range b.files {
			manifests[path.Clean(f.Path)] = &fstest.MapFile{Data: f.Data, Mode: 0o444}
		}
		unit := deploy.Unit{
			Version: b.Metadata().Version, Digest: b.Descriptor.Digest.String(),
			Layer: b.Bundle.Spec.Layer, Manifests: manifests,
		}
		if r.root.Runtime != nil {
			unit.Bundle = b.Metadata().Name
		}
		runtime.Units = append(runtime.Units, unit)
	}
	return runtime
}

// deployView is the result of apply and delete for programs.
type deployView struct {
	Runtime string        `json:"runtime"`
	Applied []outcomeView `json:"applied"`
	Deleted []outcomeView `json:"deleted"`
}

type outcomeView struct {
	Bundle  string  `json:"bundle"`
	App     string  `json:"app"`
	Version string  `json:"version,omitempty"`
	Layer   int     `json:"layer"`
	Create  int     `json:"create"`
	Update  int     `json:"update"`
	Delete  int     `json:"delete"`
	Wait    int     `json:"wait"`
	Seconds float64 `json:"seconds"`
}

func newDeployView(r *deploy.Report) deployView {
	return deployView{Runtime: r.Runtime, Applied: outcomes(r.Applied), Deleted: outcomes(r.Deleted)}
}

func outcomes(list []deploy.Outcome) []outcomeView {
	views := make([]outcomeView, len(list))
	for i, o := range list {
		c := o.Changes
		views[i] = outcomeView{o.Bundle, o.App, o.Version, o.Layer, c.Create, c.Update, c.Delete, c.Wait, o.Elapsed.Round(time.Millisecond).Seconds()}
	}
	return views
}
