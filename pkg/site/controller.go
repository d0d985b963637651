package site

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/pkgrepo"
)

// Controller is a controller on a cluster that consumes runtimes from a registry: [KappController], [Flux] or
// [ArgoCD].
type Controller struct {
	// Name is the name in flags and in names of runtimes; Title is the name for people.
	Name, Title string

	folder     string // of a runtime, where the controller's files are
	buildFiles func(context.Context, *bundle.Artifact, []pkgrepo.Bundle) ([]bundle.File, []pkgrepo.LeftOut, error)
}

// The controllers that consume runtimes.
var (
	KappController = &Controller{"kapp-controller", "kapp-controller", bundle.PackagesDir, buildPackages}
	Flux           = &Controller{"flux", "Flux", bundle.FluxDir, buildFlux}
	ArgoCD         = &Controller{"argocd", "Argo CD", bundle.ArgoCDDir, buildArgoCD}
)

var controllers = []*Controller{ArgoCD, Flux, KappController}

// ControllerNames returns the names of all controllers, sorted.
func ControllerNames() []string {
	names := make([]string, len(controllers))
	for i, c := range controllers {
		names[i] = c.Name
	}
	return names
}

// FindController returns the controller of a name, or nil.
func FindController(name string) *Controller {
	for _, c := range controllers {
		if c.Name == name {
			return c
		}
	}
	return nil
}

func buildPackages(ctx context.Context, root *bundle.Artifact, all []pkgrepo.Bundle) ([]bundle.File, []pkgrepo.LeftOut, error) {
	released, err := root.Created()
	if err != nil {
		return nil, nil, err
	}
	return pkgrepo.PackageFiles(ctx, root.Metadata().Name, all, released)
}

func buildFlux(_ context.Context, root *bundle.Artifact, all []pkgrepo.Bundle) ([]bundle.File, []pkgrepo.LeftOut, error) {
	return pkgrepo.FluxFiles(root.Runtime, all)
}

func buildArgoCD(_ context.Context, root *bundle.Artifact, all []pkgrepo.Bundle) ([]bundle.File, []pkgrepo.LeftOut, error) {
	return pkgrepo.ArgoCDFiles(root.Runtime, all)
}

// ErrNoRuntime is the error for a bundle where a controller needs a runtime.
var ErrNoRuntime = errors.New("controllers need a runtime")

// BuildFiles builds the controller's files of a runtime again, as a build does, and returns them with the bundles that
// the controller cannot apply. Errors: [ErrNoRuntime]; a runtime that holds no files for the controller.
func (c *Controller) BuildFiles(ctx context.Context, set *bundle.Set) ([]bundle.File, []pkgrepo.LeftOut, error) {
	if set.Root.Runtime == nil {
		return nil, nil, fmt.Errorf("%s is a bundle: %w", set.Name(), ErrNoRuntime)
	}
	if !slices.ContainsFunc(set.Root.AllFiles(), func(f bundle.File) bool { return strings.HasPrefix(f.Path, c.folder+"/") }) {
		return nil, nil, fmt.Errorf("%s %s has no manifests for %s: %s cannot apply any of its bundles, or an older krtpkg built it", set.Name(), set.Root.Metadata().Version, c.Title, c.Title)
	}
	byDigest := map[string]name.Digest{}
	for _, d := range set.Root.Images.DistinctImages() {
		byDigest[d.DigestStr()] = d
	}
	var all []pkgrepo.Bundle
	for _, b := range set.Bundles {
		all = append(all, pkgrepo.Bundle{Content: &b.Content, Image: byDigest[b.Descriptor.Digest.String()], Manifest: &b.Manifest})
	}
	return c.buildFiles(ctx, set.Root, all)
}

// ListLeftOut returns the bundles of a runtime that the controller cannot apply.
func (c *Controller) ListLeftOut(ctx context.Context, set *bundle.Set) ([]pkgrepo.LeftOut, error) {
	_, left, err := c.BuildFiles(ctx, set)
	return left, err
}

// CheckFiles compares the controller's files of a runtime with those that a build makes of its bundles. A signature
// covers both, but whoever reviews the bundles does not see the files. The error is a [*bundle.AlteredError] if they
// differ.
func (c *Controller) CheckFiles(ctx context.Context, set *bundle.Set) error {
	files, _, err := c.BuildFiles(ctx, set)
	if err != nil {
		return err
	}
	err = pkgrepo.CheckFiles(set.Root, c.folder, files)
	for _, b := range set.Bundles {
		err = cmp.Or(err, b.CheckKustomization())
	}
	return err
}

// Parts of the names by which a cluster knows what is applied for a controller. They are recorded on clusters.
const (
	leftOutSeparator   = "-beside-"
	installedSeparator = "-by-"
)

// LeftOutName returns the name by which a cluster knows the bundles of a runtime that the controller cannot apply, as
// krtpkg applies them. It differs from that of the runtime, so that it is never taken for all of it.
func (c *Controller) LeftOutName(runtime string) string { return runtime + leftOutSeparator + c.Name }

// InstalledName returns the name by which a cluster knows the manifests that make the controller install a runtime.
func (c *Controller) InstalledName(runtime string) string {
	return runtime + installedSeparator + c.Name
}

// FindLeftOutController returns the controller whose [Controller.LeftOutName] for a runtime is name, or nil.
func FindLeftOutController(runtime, name string) *Controller {
	return findByName(name, runtime+leftOutSeparator)
}

// FindInstallingController returns the controller whose [Controller.InstalledName] for a runtime is name, or nil.
func FindInstallingController(runtime, name string) *Controller {
	return findByName(name, runtime+installedSeparator)
}

func findByName(name, prefix string) *Controller {
	called, found := strings.CutPrefix(name, prefix)
	if !found {
		return nil
	}
	return FindController(called)
}

// SelectLeftOut reduces the desired state of a runtime to the bundles that the controller cannot apply, under
// [Controller.LeftOutName]. That there are none is an error.
func (c *Controller) SelectLeftOut(ctx context.Context, set *bundle.Set, rt *deploy.Runtime) error {
	left, err := c.ListLeftOut(ctx, set)
	if err != nil {
		return err
	}
	if len(left) == 0 {
		return fmt.Errorf("%s can apply all bundles of %s: nothing is left out", c.Title, set.Name())
	}
	isApplied := func(name string) bool {
		return !slices.ContainsFunc(left, func(l pkgrepo.LeftOut) bool { return l.Bundle == name })
	}
	rt.Name = c.LeftOutName(set.Name())
	rt.Units = slices.DeleteFunc(rt.Units, func(u deploy.Unit) bool { return isApplied(u.Bundle) })
	for i := range rt.Units {
		rt.Units[i].Needs = slices.DeleteFunc(rt.Units[i].Needs, isApplied)
	}
	return nil
}
