package deploy

import (
	"carvel.dev/kapp/pkg/kapp/diff"
	kappres "carvel.dev/kapp/pkg/kapp/resources"

	"krtpkg.dev/krtpkg/pkg/deploy/preflight"
	"krtpkg.dev/krtpkg/pkg/resources"
)

// findDefinitionChanges finds what changes of CustomResourceDefinitions do to resources that exist.
func findDefinitionChanges(changes []diff.Change) (findings []preflight.Finding) {
	for _, c := range changes {
		was, now := c.ClusterOriginalResource(), c.NewResource()
		if c.Op() != diff.ChangeOpUpdate || was == nil || now == nil || !resources.IsDefinition(now) {
			continue
		}
		findings = append(findings, preflight.FindDefinitionChanges(was, now)...)
	}
	return findings
}

// shortenDefinitions has kapp order changes without the schemas of definitions, which is a third of the time that a
// delete computes (see [resources.ShortenDefinition]). What kapp writes and compares is whole.
func shortenDefinitions(changes []diff.Change) []diff.Change {
	all := make([]diff.Change, len(changes))
	for i, c := range changes {
		all[i] = c
		if r := c.NewOrExistingResource(); resources.IsDefinition(r) {
			all[i] = definitionChange{Change: c, ordered: resources.ShortenDefinition(r)}
		}
	}
	return all
}

// definitionChange is the change of a definition.
type definitionChange struct {
	diff.Change
	ordered kappres.Resource
}

// NewOrExistingResource implements [diff.Change]: kapp orders changes by this resource.
func (c definitionChange) NewOrExistingResource() kappres.Resource { return c.ordered }

// shortenAll takes the schemas out of the definitions in a list. kapp looks into all of them for which kinds are in
// namespaces, which would be an eighth of what an apply computes.
func shortenAll(list []kappres.Resource) []kappres.Resource {
	for i, r := range list {
		list[i] = resources.ShortenDefinition(r)
	}
	return list
}

// restoreAll undoes [shortenAll].
func restoreAll(list []kappres.Resource) []kappres.Resource {
	for i, r := range list {
		list[i] = resources.RestoreDefinition(r)
	}
	return list
}
