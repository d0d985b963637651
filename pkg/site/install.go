package site

import (
	"context"
	"maps"
	"slices"
	"testing/fstest"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/pkgrepo"
	"krtpkg.dev/krtpkg/pkg/render"
)

// InstallOptions are for [InstallDocuments].
type InstallOptions struct {
	// Site is how the cluster consumes the runtime.
	Site pkgrepo.Site
	// Values are the values of the site; nil for none.
	Values *render.Values
	// LeftOut are bundles without a package ([Controller.ListLeftOut]).
	LeftOut []pkgrepo.LeftOut
	// WithoutRepository leaves the PackageRepository out.
	WithoutRepository bool
}

// InstallDocuments returns the manifests that make kapp-controller install a runtime: those of
// [pkgrepo.InstallDocuments], with a service account for each bundle that has the permissions for the bundle's
// resources and no more. rt is the rendered runtime.
func InstallDocuments(ctx context.Context, set *bundle.Set, rt deploy.Runtime, opts InstallOptions) ([]pkgrepo.Document, error) {
	namespaces, err := listDefinedNamespaces(rt)
	if err != nil {
		return nil, err
	}
	scopes := render.Scopes{}
	for _, b := range set.Bundles {
		maps.Copy(scopes, render.ScopesOf(b.Content.Files))
	}
	var installs []pkgrepo.Install
	for _, b := range set.Bundles {
		i := slices.IndexFunc(rt.Units, func(u deploy.Unit) bool { return u.Bundle == b.Metadata().Name })
		if i < 0 {
			continue // it has no manifests
		}
		if slices.ContainsFunc(opts.LeftOut, func(l pkgrepo.LeftOut) bool { return l.Bundle == b.Metadata().Name }) {
			continue
		}
		one := pkgrepo.Install{Bundle: b.Bundle, Account: set.Name() + "-" + b.Metadata().Name}
		if node := opts.Values.Node(); node != nil {
			one.Values = manifest.GetValue(node, b.Metadata().Name)
		}
		if one.DefaultNamespace, _, err = pkgrepo.DefaultNamespace(ctx, &b.Content, scopes); err != nil {
			return nil, err
		}
		unit := rt.Units[i]
		unit.Bundle, unit.Needs = "", nil
		access, err := deploy.LeastAccess(deploy.Runtime{Name: one.Account, Units: []deploy.Unit{unit}}, opts.Site.Namespace, one.Account)
		if err != nil {
			return nil, err
		}
		access.GrantEverywhere(namespaces)
		access.Namespaces = nil // they exist, or are not ours: deleting the manifests would delete them
		if one.Access, err = access.ListNodes(); err != nil {
			return nil, err
		}
		installs = append(installs, one)
	}
	documents, err := pkgrepo.InstallDocuments(set.Root.Runtime, installs, opts.Site)
	if err == nil && opts.WithoutRepository {
		documents = documents[1:]
	}
	return documents, err
}

// listDefinedNamespaces returns the namespaces that the bundles of a runtime define.
func listDefinedNamespaces(rt deploy.Runtime) (names []string, err error) {
	for _, unit := range rt.Units {
		defined, err := deploy.DefinedNamespaces(unit)
		if err != nil {
			return nil, err
		}
		names = append(names, defined...)
	}
	return names, nil
}

// repositoryUnit is the name of the unit that is applied before all bundles: the PackageRepository.
const repositoryUnit = "package-repository"

// InstallUnits returns the units that apply the documents of [InstallDocuments] in place of a runtime's own units, in
// the same order.
func InstallUnits(documents []pkgrepo.Document, bundles []deploy.Unit) ([]deploy.Unit, error) {
	var units []deploy.Unit
	for _, d := range documents {
		data, err := d.Encode()
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
