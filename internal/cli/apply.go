package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/deploy/preflight"
	"krtpkg.dev/krtpkg/pkg/render"
	"krtpkg.dev/krtpkg/pkg/result"
	"krtpkg.dev/krtpkg/pkg/site"
	"krtpkg.dev/krtpkg/pkg/trust"
)

func (a *app) applyCommand() *cobra.Command {
	var o applyOptions
	cmd := &cobra.Command{
		Use:   "apply REFERENCE --key KEY",
		Short: "verify a runtime and apply it to a cluster, layer by layer",
		Long: `Apply verifies the signature, renders every bundle with the site's values, relocates images to
the site's registry, checks that the cluster is ready, shows the changes and asks for
confirmation. Then it deploys with kapp, one kapp app for each bundle: layer by layer; within a layer,
dependencies first, with up to --parallel independent bundles at a time. It waits until each is
ready. --yes skips the confirmation.

Bundles that are no longer part of the runtime are deleted at the end. Resources that moved to
another bundle are handed over. Namespaces and kinds with resources of others are deleted only
with --delete-foreign. Nothing is written if nothing differs. If a bundle fails, bundles that
need it and the layers above are not started, and the others are finished; the next apply continues
from there, even after an interruption.

Values files replace all values of the last apply; each is merged over those before it. Without --values and
--values-from, apply uses the values of the last apply, which are stored in Secrets on the cluster.`,
		Example: `  krtpkg apply --key cosign.pub registry.example/krt/edge:1.0.0
  krtpkg apply --key cosign.pub registry.example/krt/edge:1.0.0 --values site.yaml --yes
  krtpkg apply --key cosign.pub edge-1.0.0.tar --registry site.example/krt
  krtpkg apply --key cosign.pub registry.example/krt/edge:1.0.0 --contexts north,south --yes`,
		GroupID: groupCluster,
		Args:    oneReference,
		RunE:    func(cmd *cobra.Command, args []string) error { return a.runApply(cmd.Context(), args[0], o) },
	}
	o.site.addSiteFlags(cmd)
	o.cluster.addChanging(cmd)
	o.cluster.addDiff(cmd)
	flags := cmd.Flags()
	flags.StringVar(&o.registry, "registry", "", "first import an archive into this registry, REGISTRY/FOLDER, and apply it from there")
	flags.IntVar(&o.pauseAfter, "pause-after", -1, "stop when this layer is ready; the next apply continues")
	addRunHooks(cmd, &o.runHooks, "run the deletion hooks of charts whose bundles are removed")
	o.metrics.addMetricsFlags(cmd, "write the outcome to this file as Prometheus metrics, for the textfile collector of the node exporter; with --contexts to this folder")
	o.receipt.addReceiptFlags(cmd, "write a signed receipt of what was applied to this file; with --contexts to this folder, one file per cluster")
	o.fleet.addFleetFlags(cmd)
	cmd.MarkFlagsMutuallyExclusive("context", "contexts")
	return cmd
}

type applyOptions struct {
	site       siteFlags
	cluster    clusterFlags
	registry   string
	pauseAfter int
	runHooks   bool
	isRollback bool
	receipt    receiptFlags
	metrics    metricsFlags
	fleet      fleetFlags
}

// siteFlags are what plan and apply need to know to come to the same manifests.
type siteFlags struct {
	trust    trustFlags
	images   bool
	values   valuesFlags
	skip     []string
	takeOver bool
	// deleteForeign deletes what others have put into what the new version drops.
	deleteForeign bool
	// leftOutBy is the name of a controller, to apply what it cannot apply.
	leftOutBy string
	// allowDowngrade goes on with an older version than the cluster has, or with another build of its version.
	allowDowngrade bool
}

func (f *siteFlags) addSiteFlags(cmd *cobra.Command) {
	f.trust.addTrustFlags(cmd)
	f.trust.addUnsigned(cmd, "continue without verifying signatures")
	flags := cmd.Flags()
	flags.BoolVar(&f.images, "images", false, "also verify upstream's signatures of workload images for which the policy has rules")
	f.values.addCluster(cmd)
	f.addSkip(cmd)
	flags.BoolVar(&f.allowDowngrade, "allow-downgrade", false, "accept a version older than the one on the cluster, or another build of it")
	flags.StringVar(&f.leftOutBy, "left-out-by", "", "apply only the bundles that this controller cannot apply, under the name NAME-beside-CONTROLLER: "+strings.Join(site.ControllerNames(), ", "))
	_ = cmd.RegisterFlagCompletionFunc("left-out-by", cobra.FixedCompletions(site.ControllerNames(), cobra.ShellCompDirectiveNoFileComp))
	flags.StringVar(&f.leftOutBy, "beside", "", "the old name of --left-out-by")
	_ = flags.MarkHidden("beside")
	cmd.MarkFlagsMutuallyExclusive("left-out-by", "beside")
	f.addOwnership(cmd)
}

// addSkip adds what leaves checks out.
func (f *siteFlags) addSkip(cmd *cobra.Command) {
	cmd.Flags().StringSliceVar(&f.skip, "skip-check", nil, "skip a check before the apply: "+strings.Join(preflight.Checks, ", "))
	_ = cmd.RegisterFlagCompletionFunc("skip-check", cobra.FixedCompletions(preflight.Checks, cobra.ShellCompDirectiveNoFileComp))
}

// addOwnership adds what goes ahead where resources are not the runtime's.
func (f *siteFlags) addOwnership(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&f.takeOver, "take-over", false, "take over resources that belong to Helm, Flux, Argo CD or another controller")
	flags.BoolVar(&f.deleteForeign, "delete-foreign", false, "also delete resources of others in namespaces and of kinds that the new version no longer has")
}

// checkValues returns a usage error for values that mean nothing. downgradeHint says what accepts an older version.
func (f *siteFlags) checkValues(downgradeHint string) error {
	for _, name := range f.skip {
		switch name {
		case preflight.CheckNamespaces, preflight.CheckForeign:
			return &usageError{fmt.Errorf("--skip-check %s: this check cannot be skipped", name)}
		case preflight.CheckDowngrade:
			return &usageError{fmt.Errorf("--skip-check %s: this check cannot be skipped: %s", name, downgradeHint)}
		}
		if !slices.Contains(preflight.Checks, name) {
			return &usageError{fmt.Errorf("--skip-check %q: want %s", name, strings.Join(preflight.Checks, ", "))}
		}
	}
	if f.leftOutBy != "" && site.FindController(f.leftOutBy) == nil {
		return &usageError{fmt.Errorf("--left-out-by %q: want %s", f.leftOutBy, strings.Join(site.ControllerNames(), ", "))}
	}
	return nil
}

// preparedRoot is a root that has been verified and opened, for any number of clusters.
type preparedRoot struct {
	*openedReference
	set      *bundle.Set
	verified string
	policy   *trust.Policy
	images   *site.Images
	// ranBefore is set if the cluster has run the images before.
	ranBefore bool
	// lookForImages says to look whether the images are there.
	lookForImages bool
	// leftOutBy is set to apply only the bundles that this controller cannot apply.
	leftOutBy *site.Controller
	// installedBy is set to apply manifests that make this controller install the bundles.
	installedBy *site.Controller
}

// requirePolicy returns the policy that a command must have; nil if it may go on unverified.
func (a *app) requirePolicy(ctx context.Context, f *siteFlags) (*trust.Policy, error) {
	if err := f.checkValues("pass --allow-downgrade to krtpkg apply or krtpkg plan"); err != nil {
		return nil, err
	}
	policy, err := a.loadTrust(ctx, &f.trust)
	if err == nil && policy == nil && !f.trust.allowUnsigned {
		err = &usageError{fmt.Errorf("%w (or --allow-unsigned)", errVerificationRequired)}
	}
	return policy, err
}

// prepareRoot verifies and opens, and finds the images.
func (a *app) prepareRoot(ctx context.Context, reference string, policy *trust.Policy, f *siteFlags) (*preparedRoot, error) {
	p, err := a.openRoot(ctx, reference, policy, f)
	if err == nil {
		p.images, err = a.locateImages(ctx, p.openedReference, p.set)
	}
	return p, err
}

// openRoot verifies and opens.
func (a *app) openRoot(ctx context.Context, reference string, policy *trust.Policy, f *siteFlags) (*preparedRoot, error) {
	at, err := a.openReference(ctx, reference)
	if err != nil {
		return nil, err
	}
	root, err := a.openBeforeApply(ctx, at, policy, f.images)
	if err != nil {
		return nil, err
	}
	p := &preparedRoot{
		openedReference: at, set: root.Set, verified: "nobody (--allow-unsigned)", policy: policy,
		leftOutBy: site.FindController(f.leftOutBy), lookForImages: !slices.Contains(f.skip, preflight.CheckImages),
	}
	if root.Verified != nil {
		p.verified = signerNames(root.Verified)
	}
	return p, nil
}

// lookAtRunning returns what a look at the images found, with the logins of a cluster.
func (p *preparedRoot) lookAtRunning(ctx context.Context, a *app, cluster *deploy.Cluster, rt deploy.Runtime) ([]preflight.Image, []preflight.Finding, error) {
	a.ui.ShowInErrors(namesOf(rt)...)
	if !p.lookForImages {
		return nil, nil, nil
	}
	secrets, err := cluster.PullSecrets(ctx, rt)
	if err != nil {
		return nil, nil, err
	}
	return a.probeImages(ctx, p, secrets)
}

// namesOf returns the names that a runtime's resources have and refer to by, which are no secret.
func namesOf(rt deploy.Runtime) []string {
	var names []string
	for _, unit := range rt.Units {
		names = append(names, unit.Bundle)
		_ = fs.WalkDir(unit.Manifests, ".", func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			data, err := fs.ReadFile(unit.Manifests, path)
			for _, match := range nameLine.FindAllSubmatch(data, -1) {
				names = append(names, string(match[1]))
			}
			return err
		})
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// nameLine is a line of YAML with the name of something, as names of resources are.
var nameLine = regexp.MustCompile(`(?m)^[ -]*(?:name|namespace|[a-z]+Name): *["']?([a-z0-9]([a-z0-9.-]*[a-z0-9])?)["']? *$`)

// openBeforeApply verifies and opens the root, and says who signed it, or loudly that nobody looked.
func (a *app) openBeforeApply(ctx context.Context, at *openedReference, policy *trust.Policy, images bool) (*site.Root, error) {
	if policy == nil {
		a.ui.Note("WARNING: applying %s without verifying signatures (--allow-unsigned)", at.pinnedReference())
	}
	root, err := a.openVerified(ctx, at, policy)
	if err != nil || policy == nil {
		return root, err
	}
	m := root.Set.Root.Metadata()
	a.ui.Say("verified %s, %s %s, signed by %s", at.pinnedReference(), m.Name, m.Version, signerNames(root.Verified))
	if images {
		_, err = a.verifyImages(ctx, at.store, root.Set, policy)
	}
	return root, err
}

// renderRuntime returns what one cluster is to have, rendered with its values.
func (p *preparedRoot) renderRuntime(ctx context.Context, a *app, cluster *deploy.Cluster, values *valuesFlags) (deploy.Runtime, error) {
	v, err := values.siteValues(ctx, a, cluster, p.deployedName(), p.set)
	if err != nil {
		return deploy.Runtime{}, err
	}
	return p.renderWithValues(ctx, a, v)
}

func (p *preparedRoot) renderWithValues(ctx context.Context, a *app, v render.Kept) (deploy.Runtime, error) {
	rendered, err := a.renderSet(ctx, p.set, v.All, p.images)
	if err != nil {
		return deploy.Runtime{}, err
	}
	rt, err := rendered.Runtime()
	if err != nil {
		return rt, err
	}
	if p.leftOutBy != nil {
		if err := p.leftOutBy.SelectLeftOut(ctx, p.set, &rt); errors.Is(err, site.ErrNoRuntime) {
			return rt, &usageError{err}
		} else if err != nil {
			return rt, err
		}
	}
	rt.Origin = deploy.Origin{Reference: p.pinnedReference(), Verified: p.verified}
	if p.Tag != "" { // what was asked for is not part of what it means
		rt.Origin.Reference = strings.Replace(rt.Origin.Reference, ":"+p.Tag+"@", "@", 1)
	}
	rt.Values, err = v.Encode()
	return rt, err
}

func (a *app) runApply(ctx context.Context, reference string, o applyOptions) error {
	policy, err := a.requirePolicy(ctx, &o.site)
	if err := cmp.Or(err, o.cluster.checkValues(a), o.fleet.checkValues(&o)); err != nil {
		return err
	}
	if err := cmp.Or(o.receipt.prepare(ctx, a, o.fleet.contexts), o.metrics.prepare(o.fleet.contexts)); err != nil {
		return err
	}
	p, err := a.openRoot(ctx, reference, policy, &o.site)
	if err != nil {
		return err
	}
	if o.registry != "" && p.File == "" {
		return &usageError{fmt.Errorf("--registry is for archives only: copy %s there with krtpkg copy", p.Place)}
	}
	clusters, err := a.connectClusters(&o)
	if err != nil {
		return err
	}
	if o.registry != "" {
		if err := a.importFirst(ctx, p, clusters, &o); err != nil {
			return err
		}
	}
	if p.images, err = a.locateImages(ctx, p.openedReference, p.set); err != nil {
		return err
	}
	if len(o.fleet.contexts) > 0 {
		return a.applyFleet(ctx, p, clusters, &o)
	}
	report, written, err := a.applyTo(ctx, clusters[0], p, &o)
	if err != nil {
		return err
	}
	return a.printDeployed(ctx, report, written, o.cluster)
}

// connectClusters connects to the clusters to apply to, in the order of the contexts.
func (a *app) connectClusters(o *applyOptions) ([]*deploy.Cluster, error) {
	if len(o.fleet.contexts) == 0 {
		cluster, err := o.cluster.connectCluster(a)
		return []*deploy.Cluster{cluster}, err
	}
	var clusters []*deploy.Cluster
	for _, name := range o.fleet.contexts {
		at := o.cluster
		at.Context, at.label = name, name+": "
		cluster, err := at.connectCluster(a)
		if err != nil {
			return nil, err
		}
		clusters = append(clusters, cluster)
	}
	return clusters, nil
}

// applyTo applies to one cluster, and writes the receipt.
func (a *app) applyTo(ctx context.Context, cluster *deploy.Cluster, p *preparedRoot, o *applyOptions) (*deploy.Report, *result.ReceiptFile, error) {
	var rt deploy.Runtime
	began := time.Now()
	report, written, err := o.receipt.record(ctx, a, cluster, p, func() (_ deploy.Runtime, report *deploy.Report, err error) {
		if rt, err = p.renderRuntime(ctx, a, cluster, &o.site.values); err == nil {
			report, err = a.applyRuntime(ctx, cluster, p, rt, o)
		}
		return rt, report, err
	})
	a.writeMetrics(&o.metrics, p, rt, report, err, began)
	return report, written, err
}

func (a *app) applyRuntime(ctx context.Context, cluster *deploy.Cluster, p *preparedRoot, rt deploy.Runtime, o *applyOptions) (*deploy.Report, error) {
	options, stop := o.cluster.deployOptions(a)
	defer stop()
	if err := a.checkRecord(ctx, cluster, p, rt, o.site.trust.expectName); err != nil {
		return nil, err
	}
	images, found, err := p.lookAtRunning(ctx, a, cluster, rt)
	if err != nil {
		return nil, err
	}
	skip := slices.Clone(o.site.skip)
	if o.isRollback {
		skip = append(skip, preflight.CheckDowngrade) // it is what was asked for
	}
	findings, err := cluster.Check(ctx, rt, deploy.CheckOptions{Options: options, Skip: skip, Images: images})
	if err != nil {
		return nil, err
	}
	if err := a.sayFindings(slices.Concat(found, findings)); err != nil {
		return nil, err
	}
	if !o.isRollback && !o.site.allowDowngrade {
		if err := refuseDowngrade(findings); err != nil {
			return nil, err
		}
	}
	verb := "apply "
	if o.isRollback {
		verb = "go back to "
	}
	apply := deploy.ApplyOptions{
		Options: options, Skip: o.site.skip, TakeOver: o.site.takeOver, DeleteForeign: o.site.deleteForeign, Censor: a.ui.ErrorText,
		RunHooks: o.runHooks, Rollback: o.isRollback,
		Confirm: o.cluster.confirmPlan(a, cluster, verb+rt.Version+" of"),
	}
	if o.pauseAfter >= 0 {
		apply.PauseAfter = &o.pauseAfter
	}
	return cluster.Apply(ctx, rt, apply)
}

// errDowngrade is the error of a version that is older than the one on the cluster, or another build of it.
var errDowngrade = errors.New("the cluster has a newer version or another build")

// refuseDowngrade returns an error if a runtime is older than the one on the cluster, or another build of its version.
// Single bundles of a newer runtime may be older.
func refuseDowngrade(findings []preflight.Finding) error {
	for _, f := range findings {
		if f.Check == preflight.CheckDowngrade && f.Bundle == "" {
			return fmt.Errorf("%w: %s", errDowngrade, f.Message)
		}
	}
	return nil
}

// printDeployed prints what was done.
func (a *app) printDeployed(ctx context.Context, report *deploy.Report, written *result.ReceiptFile, f clusterFlags) error {
	a.noteSkipped("", report)
	r := &result.Apply{Applied: describeDeployed(report)}
	r.Receipt = written
	return a.printResult(ctx, f.format, r, nil, func(w io.Writer) {
		ui.Fprintf(w, "LAYER\tBUNDLE\tVERSION\tCHANGES\tTIME\n")
		for _, b := range report.Applied {
			ui.Fprintf(w, "%d\t%s\t%s\t%s\t%s\n", b.Layer, b.Bundle, b.Version, b.Changes, b.Elapsed.Round(time.Millisecond*100))
		}
		for _, b := range report.Deleted {
			ui.Fprintf(w, "%d\t%s\t%s\tdeleted: %s\t%s\n", b.Layer, b.Bundle, b.Version, b.Changes, b.Elapsed.Round(time.Millisecond*100))
		}
	})
}

// noteSkipped names the hooks that were not run; label is that of one of several clusters.
func (a *app) noteSkipped(label string, report *deploy.Report) {
	all := make([]string, len(report.Skipped))
	for i, h := range report.Skipped {
		all[i] = fmt.Sprintf("%s of %s (%s)", h.Resource, h.Bundle, h.Event)
	}
	if len(all) > 0 {
		a.ui.Note("note: %shooks not run without --run-hooks: %s", label, strings.Join(all, ", "))
	}
}

// describeDeployed returns what results say of what was done to a cluster.
func describeDeployed(r *deploy.Report) result.Applied {
	return result.Applied{Name: r.Runtime, Applied: describeOutcomes(r.Applied), Deleted: describeOutcomes(r.Deleted), SkippedHooks: r.Skipped}
}

func describeOutcomes(list []deploy.Outcome) []result.BundleOutcome {
	all := make([]result.BundleOutcome, len(list))
	for i, o := range list {
		all[i] = result.BundleOutcome{
			Name: o.Bundle, App: o.App, Version: o.Version, Layer: o.Layer, ChangeCounts: result.ChangeCounts(o.Changes),
			Seconds: o.Elapsed.Round(time.Millisecond).Seconds(),
		}
	}
	return all
}
