package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/pkgrepo"
)

// controllerKind is one that consumes runtimes.
type controllerKind struct {
	// title is what messages call it, folder where a runtime has what it reads.
	title, folder string
	// files are what a build puts there, and the bundles that it cannot apply.
	files func(context.Context, *bundle.Artifact, []pkgrepo.Bundle) ([]bundle.File, []pkgrepo.LeftOut, error)
}

// kappController is the controller that has packages.
const kappController = "kapp-controller"

var controllers = map[string]controllerKind{
	kappController: {"kapp-controller", bundle.PackagesDir, func(ctx context.Context, root *bundle.Artifact, all []pkgrepo.Bundle) ([]bundle.File, []pkgrepo.LeftOut, error) {
		released, err := root.Created()
		if err != nil {
			return nil, nil, err
		}
		return pkgrepo.PackageFiles(ctx, root.Metadata().Name, all, released)
	}},
	"flux": {"Flux", bundle.FluxDir, func(_ context.Context, root *bundle.Artifact, all []pkgrepo.Bundle) ([]bundle.File, []pkgrepo.LeftOut, error) {
		return pkgrepo.FluxFiles(root.Runtime, all)
	}},
	"argocd": {"Argo CD", bundle.ArgoCDDir, func(_ context.Context, root *bundle.Artifact, all []pkgrepo.Bundle) ([]bundle.File, []pkgrepo.LeftOut, error) {
		return pkgrepo.ArgoCDFiles(root.Runtime, all)
	}},
}

func controllerNames() []string { return slices.Sorted(maps.Keys(controllers)) }

// filesFor returns what a build puts into a runtime for a controller, and the bundles that it cannot apply.
func filesFor(ctx context.Context, set *bundle.Set, called string) ([]bundle.File, []pkgrepo.LeftOut, error) {
	c := controllers[called]
	if set.Root.Runtime == nil {
		return nil, nil, &usageError{fmt.Errorf("%s is a bundle: controllers need a runtime", set.Name())}
	}
	if !slices.ContainsFunc(set.Root.AllFiles(), func(f bundle.File) bool { return strings.HasPrefix(f.Path, c.folder+"/") }) {
		return nil, nil, fmt.Errorf("%s %s has no manifests for %s: %s cannot apply any of its bundles, or an older krtpkg built it", set.Name(), set.Root.Metadata().Version, c.title, c.title)
	}
	byDigest := map[string]name.Digest{}
	for _, d := range set.Root.Images.DistinctImages() {
		byDigest[d.DigestStr()] = d
	}
	var all []pkgrepo.Bundle
	for _, b := range set.Bundles {
		all = append(all, pkgrepo.Bundle{Content: &b.Content, Image: byDigest[b.Descriptor.Digest.String()], Manifest: &b.Manifest})
	}
	return c.files(ctx, set.Root, all)
}

// leftBy returns the bundles of a runtime that a controller cannot apply.
func leftBy(ctx context.Context, set *bundle.Set, called string) ([]pkgrepo.LeftOut, error) {
	_, left, err := filesFor(ctx, set, called)
	return left, err
}

// checkFor refuses a runtime that has something else for a controller than a build makes of its
// bundles: a signature is over both, and whoever reviews bundles sees one alone.
func (a *app) checkFor(ctx context.Context, set *bundle.Set, called string, allowAltered bool) error {
	files, _, err := filesFor(ctx, set, called)
	if err != nil {
		return err
	}
	err = pkgrepo.CheckFiles(set.Root, controllers[called].folder, files)
	for _, b := range set.Bundles {
		err = cmp.Or(err, b.CheckKustomization())
	}
	if altered := (*bundle.AlteredError)(nil); allowAltered && errors.As(err, &altered) {
		a.ui.Note("note: %v: %s applies it as it is", err, controllers[called].title)
		return nil
	}
	return err
}

// leaveOut returns which bundles a controller does not get, or stops at them.
func (a *app) leaveOut(ctx context.Context, set *bundle.Set, called string, leave bool) ([]pkgrepo.LeftOut, error) {
	left, err := leftBy(ctx, set, called)
	if err != nil {
		return nil, err
	}
	for _, l := range left {
		if !leave {
			return nil, fmt.Errorf("%s is not for %s: %s; pass --leave-out to continue without it, and apply it with krtpkg apply --beside %s",
				l.Bundle, controllers[called].title, l.Reason, called)
		}
		a.ui.Note("note: left out %s: %s", l.Bundle, l.Reason)
	}
	return left, nil
}

const (
	besideSeparator = "-beside-"
	bySeparator     = "-by-"
)

// deployedName returns what the cluster knows the runtime by: under one of its own, what is applied next to a
// controller, or for it, is never taken for the whole.
func (p *preparedRoot) deployedName() string {
	switch {
	case p.besideController != "":
		return p.set.Name() + besideSeparator + p.besideController
	case p.byController != "":
		return p.set.Name() + bySeparator + p.byController
	}
	return p.set.Name()
}

// deployAs takes a prepared root for what the cluster knows by a name.
func (p *preparedRoot) deployAs(name string) error {
	part, _ := strings.CutPrefix(name, p.set.Name())
	if by, is := strings.CutPrefix(part, bySeparator); is && controllers[by].title != "" {
		return &usageError{fmt.Errorf("%s is applied by %s: to go back to an earlier version, use krtpkg packages install --apply --downgradable", name, controllers[by].title)}
	}
	if beside, is := strings.CutPrefix(part, besideSeparator); is && controllers[beside].title != "" {
		p.besideController = beside
	}
	return nil
}

// onlyLeft leaves of a runtime what the controller next to cannot apply.
func (p *preparedRoot) onlyLeft(ctx context.Context, rt *deploy.Runtime) error {
	left, err := leftBy(ctx, p.set, p.besideController)
	if err != nil {
		return err
	}
	if len(left) == 0 {
		return fmt.Errorf("%s can apply all bundles of %s: nothing is left out", controllers[p.besideController].title, p.set.Name())
	}
	isLeft := func(name string) bool {
		return slices.ContainsFunc(left, func(l pkgrepo.LeftOut) bool { return l.Bundle == name })
	}
	rt.Name = p.deployedName()
	rt.Units = slices.DeleteFunc(rt.Units, func(u deploy.Unit) bool { return !isLeft(u.Bundle) })
	for i := range rt.Units {
		rt.Units[i].Needs = slices.DeleteFunc(rt.Units[i].Needs, func(name string) bool { return !isLeft(name) })
	}
	return nil
}
