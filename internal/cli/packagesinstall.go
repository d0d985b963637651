package cli

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/pkgrepo"
	"krtpkg.dev/krtpkg/pkg/render"
	"krtpkg.dev/krtpkg/pkg/site"
)

type installOptions struct {
	from  controllerFlags
	to    pkgrepo.Site
	leave bool
	// without leaves the PackageRepository out.
	without bool
	period  time.Duration
	// apply has it applied, to cluster.
	apply   bool
	cluster clusterFlags
	// ahead has the flags that go ahead where apply would stop.
	ahead siteFlags
}

func (a *app) packagesInstallCommand() *cobra.Command {
	var o installOptions
	cmd := &cobra.Command{
		Use:   "install REFERENCE --key KEY",
		Short: "write or apply the manifests that make kapp-controller install a runtime",
		Long: `Install verifies a runtime and writes the manifests that make kapp-controller install it: the
PackageRepository, by digest, and for each bundle a PackageInstall, a Secret with its values, and a
service account with the permissions for the bundle's resources and kapp's records.

With --apply it applies them layer by layer, and waits until kapp-controller has installed each, as
the runtime NAME-by-kapp-controller, which works with status, values and delete. As with apply, it
uses the values of the last apply if you give none.

Without --apply use any tool: kapp applies them in the order of the layers, and kapp-controller
retries what fails because something is missing.`,
		Example: `  krtpkg packages install --key cosign.pub registry.example/krt/edge:1.0.0 -d packages
  krtpkg packages install --key cosign.pub site.example/krt/edge:1.0.0 --values site.yaml --apply
  krtpkg packages install --key cosign.pub site.example/krt/edge:1.0.0 --constraints ">=1.0.0 <2.0.0"`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, name := range []string{"kubeconfig", "context", "retry-timeout", "parallel", "yes", "wait-timeout", "lock-timeout", "full", "values-from", "reset-values", "take-over", "delete-foreign", "skip-check"} {
				if cmd.Flags().Changed(name) && !o.apply {
					return &usageError{fmt.Errorf("--%s requires --apply", name)}
				}
			}
			return a.packagesInstall(cmd.Context(), args[0], o)
		},
	}
	o.from.addControllerFlags(cmd, "continue without verifying signatures")
	o.from.site.values.addCluster(cmd)
	flags := cmd.Flags()
	flags.StringVarP(&o.to.Namespace, "namespace", "n", "default", "namespace of the repository and the installs")
	flags.StringVar(&o.to.Constraints, "constraints", "", "allowed versions of each package, as in \">=1.0.0 <2.0.0\" (default: that of the runtime)")
	flags.BoolVar(&o.to.Downgradable, "downgradable", false, "let packages go back to older versions")
	flags.DurationVar(&o.period, "sync-period", 0, "sync period of the controller (default: its own, 10 minutes)")
	flags.StringVar(&o.to.PullSecret, "pull-secret", "", "name of a Secret in the namespace with the login of the registry")
	flags.BoolVar(&o.leave, "leave-out", false, "leave out bundles that cannot be packages, for krtpkg apply --left-out-by")
	flags.BoolVar(&o.without, "without-repository", false, "leave out the PackageRepository, if krtpkg packages repo writes one")
	flags.BoolVar(&o.apply, "apply", false, "apply them, and wait until everything is installed")
	cmd.MarkFlagsMutuallyExclusive("apply", "output-dir")
	cmd.MarkFlagsMutuallyExclusive("apply", "output")
	o.cluster.addKubeconfig(cmd)
	o.cluster.addParallel(cmd)
	o.cluster.addWait(cmd)
	o.cluster.addDiff(cmd)
	o.ahead.addOwnership(cmd)
	o.ahead.addSkip(cmd)
	return cmd
}

func (o *installOptions) checkValues(a *app) error {
	if !o.apply {
		return nil
	}
	o.cluster.Namespace = o.to.Namespace
	return cmp.Or(o.ahead.checkValues("pass --downgradable"), o.cluster.checkValues(a))
}

func (a *app) packagesInstall(ctx context.Context, reference string, o installOptions) error {
	if err := cmp.Or(syncPeriod(o.period, &o.to), o.checkValues(a)); err != nil {
		return err
	}
	p, _, err := a.prepareForController(ctx, reference, site.KappController, &o.from)
	if err != nil {
		return err
	}
	o.to.Reference = p.Repository + "@" + p.root.Digest.String()
	if o.apply {
		return a.applyInstalls(ctx, p, &o)
	}
	values, err := o.from.site.values.readValues(a, p.set)
	if err != nil {
		return err
	}
	// What a bundle's rules refuse is refused here, not on the cluster.
	rt, err := p.renderWithValues(ctx, a, render.Kept{All: values})
	if err != nil {
		return err
	}
	documents, err := a.installDocuments(ctx, p, rt, values, &o)
	if err != nil {
		return err
	}
	return a.writeDocuments(&o.from, documents)
}

// installDocuments returns the manifests that install the bundles of a runtime that are packages.
func (a *app) installDocuments(ctx context.Context, p *preparedRoot, rt deploy.Runtime, values *render.Values, o *installOptions) ([]pkgrepo.Document, error) {
	left, err := a.leaveOut(ctx, p.set, site.KappController, o.leave)
	if err != nil {
		return nil, err
	}
	return site.InstallDocuments(ctx, p.set, rt, site.InstallOptions{Site: o.to, Values: values, LeftOut: left, WithoutRepository: o.without})
}

// applyInstalls gives a cluster what makes kapp-controller install a runtime.
func (a *app) applyInstalls(ctx context.Context, p *preparedRoot, o *installOptions) error {
	cluster, err := o.cluster.connectCluster(a)
	if err != nil {
		return err
	}
	p.installedBy, p.lookForImages = site.KappController, false // the images are the controller's to find
	values, err := o.from.site.values.siteValues(ctx, a, cluster, p.deployedName(), p.set)
	if err != nil {
		return err
	}
	rt, err := p.renderWithValues(ctx, a, values)
	if err != nil {
		return err
	}
	documents, err := a.installDocuments(ctx, p, rt, values.All, o)
	if err != nil {
		return err
	}
	if rt.Units, err = site.InstallUnits(documents, rt.Units); err != nil {
		return err
	}
	rt.Name = p.deployedName()
	report, err := a.applyRuntime(ctx, cluster, p, rt, &applyOptions{
		cluster: o.cluster, pauseAfter: -1,
		site: siteFlags{takeOver: o.ahead.takeOver, deleteForeign: o.ahead.deleteForeign, skip: o.ahead.skip, allowDowngrade: o.to.Downgradable},
	})
	if err != nil {
		return err
	}
	return a.printDeployed(ctx, report, nil, o.cluster)
}
