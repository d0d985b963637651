package cli

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"testing/fstest"
	"time"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/pkgrepo"
	"krtpkg.dev/krtpkg/pkg/render"
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
	flags.BoolVar(&o.leave, "leave-out", false, "leave out bundles that cannot be packages, for krtpkg apply --beside")
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
	return cmp.Or(o.ahead.checkValues(), o.cluster.checkValues(a))
}

func (a *app) packagesInstall(ctx context.Context, reference string, o installOptions) error {
	if err := cmp.Or(syncPeriod(o.period, &o.to), o.checkValues(a)); err != nil {
		return err
	}
	p, _, err := a.prepareForController(ctx, reference, kappController, &o.from)
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
	documents, err := a.installDocuments(ctx, p, rt, render.Kept{All: values}, &o)
	if err != nil {
		return err
	}
	return a.writeDocuments(&o.from, documents)
}

// installDocuments returns the manifests for the bundles of a runtime that are packages.
func (a *app) installDocuments(ctx context.Context, p *preparedRoot, rt deploy.Runtime, values render.Kept, o *installOptions) ([]pkgrepo.Document, error) {
	root := p.set.Root
	left, err := a.leaveOut(ctx, p.set, kappController, o.leave)
	if err != nil {
		return nil, err
	}
	made, err := namespacesOf(rt)
	if err != nil {
		return nil, err
	}
	defined := render.Scopes{}
	for _, b := range p.set.Bundles {
		maps.Copy(defined, render.ScopesOf(b.Content.Files))
	}
	var installs []pkgrepo.Install
	for i, b := range p.set.Bundles {
		bundleName := b.Metadata().Name
		if slices.ContainsFunc(left, func(l pkgrepo.LeftOut) bool { return l.Bundle == bundleName }) {
			continue
		}
		one := pkgrepo.Install{Bundle: b.Bundle, Account: root.Metadata().Name + "-" + bundleName}
		if node := values.All.Node(); node != nil {
			one.Values = manifest.GetValue(node, bundleName)
		}
		if one.DefaultNamespace, _, err = pkgrepo.DefaultNamespace(ctx, &b.Content, defined); err != nil {
			return nil, err
		}
		unit := rt.Units[i]
		unit.Bundle, unit.Needs = "", nil
		access, err := deploy.LeastAccess(deploy.Runtime{Name: one.Account, Units: []deploy.Unit{unit}}, o.to.Namespace, one.Account)
		if err != nil {
			return nil, err
		}
		access.GrantEverywhere(made)
		access.Namespaces = nil // they are there, or not ours: who deleted the manifests would delete them
		if one.Access, err = toNodes(access.ListObjects()); err != nil {
			return nil, err
		}
		installs = append(installs, one)
	}
	documents, err := pkgrepo.InstallDocuments(root.Runtime, installs, o.to)
	if err == nil && o.without {
		documents = documents[1:]
	}
	return documents, err
}

// namespacesOf returns the namespaces that a runtime's own bundles make.
func namespacesOf(rt deploy.Runtime) (names []string, err error) {
	for _, unit := range rt.Units {
		made, err := deploy.DefinedNamespaces(unit)
		if err != nil {
			return nil, err
		}
		names = append(names, made...)
	}
	return names, nil
}

// repositoryUnit is what the PackageRepository is applied as, before all bundles.
const repositoryUnit = "package-repository"

// applyInstalls gives a cluster what makes kapp-controller install a runtime.
func (a *app) applyInstalls(ctx context.Context, p *preparedRoot, o *installOptions) error {
	cluster, err := o.cluster.connectCluster(a)
	if err != nil {
		return err
	}
	p.byController, p.lookForImages = kappController, false // the images are the controller's to find
	values, err := o.from.site.values.siteValues(ctx, a, cluster, p.deployedName(), p.set)
	if err != nil {
		return err
	}
	rt, err := p.renderWithValues(ctx, a, values)
	if err != nil {
		return err
	}
	documents, err := a.installDocuments(ctx, p, rt, values, o)
	if err != nil {
		return err
	}
	if rt.Units, err = unitsOf(documents, rt.Units); err != nil {
		return err
	}
	rt.Name = p.deployedName()
	report, err := a.applyRuntime(ctx, cluster, p, rt, &applyOptions{
		cluster: o.cluster, pauseAfter: -1, allowDowngrade: o.to.Downgradable,
		site: siteFlags{takeOver: o.ahead.takeOver, deleteForeign: o.ahead.deleteForeign, skip: o.ahead.skip},
	})
	if err != nil {
		return err
	}
	return a.printDeployed(ctx, report, o.cluster)
}

// unitsOf has a controller's manifests for bundles instead of the bundles' own, in the same order.
func unitsOf(documents []pkgrepo.Document, bundles []deploy.Unit) ([]deploy.Unit, error) {
	var units []deploy.Unit
	for _, d := range documents {
		data, err := documentText(d)
		if err != nil {
			return nil, err
		}
		unit := deploy.Unit{Bundle: repositoryUnit, Layer: bundles[0].Layer}
		if i := slices.IndexFunc(bundles, func(u deploy.Unit) bool { return u.Bundle == d.Bundle }); i >= 0 {
			unit = bundles[i]
		}
		unit.Manifests, unit.Namespaces = fstest.MapFS{d.Name: {Data: data, Mode: 0o444}}, nil
		units = append(units, unit)
	}
	for i := range units {
		units[i].Needs = slices.DeleteFunc(units[i].Needs, func(name string) bool {
			return !slices.ContainsFunc(units, func(u deploy.Unit) bool { return u.Bundle == name })
		})
		if first := &units[0]; first.Bundle == repositoryUnit && i > 0 && units[i].Layer == first.Layer {
			units[i].Needs = append(units[i].Needs, repositoryUnit)
		}
	}
	return units, nil
}
