package deploy

import (
	"reflect"
	"slices"
	"strings"

	kappconfig "carvel.dev/kapp/pkg/kapp/config"
	"carvel.dev/kapp/pkg/kapp/diff"
	kappres "carvel.dev/kapp/pkg/kapp/resources"
	"carvel.dev/kapp/pkg/kapp/yttresmod"
	"k8s.io/apimachinery/pkg/util/sets"

	"krtpkg.dev/krtpkg/pkg/deploy/marks"
)

// comparison is how what is wanted is held against what is on the cluster.
type comparison struct {
	diff.ChangeFactory
	rebase []kappres.ResourceModWithMultiple
	// excludeApplied takes from an object what a record of what was applied leaves out, exclude what is never compared.
	excludeApplied, exclude []kappres.FieldRemoveMod
	// isUsual tells that a bundle has added no rules of its own.
	isUsual bool
}

// calculateChanges returns what kapp's comparison returns, in its order. One merge shows what is on the cluster as it
// is wanted, where kapp makes three, and twenty copies.
func (c *comparison) calculateChanges(existing, wanted []kappres.Resource, conf kappconfig.Conf, options diff.ChangeSetOpts) ([]diff.Change, error) {
	kept, err := c.findUnchanged(existing, wanted, options)
	if err != nil {
		return nil, err
	}
	isKept := func(r kappres.Resource) bool { return kept[kappres.NewUniqueResourceKey(r).String()] != nil }
	rest, err := diff.NewChangeSetWithVersionedRs(
		slices.DeleteFunc(slices.Clone(existing), isKept), slices.DeleteFunc(slices.Clone(wanted), isKept),
		conf.TemplateRules(), options, c.ChangeFactory).Calculate()
	if err != nil || len(kept) == 0 {
		return compareChanges(rest), err
	}
	changes := make([]diff.Change, 0, len(kept)+len(rest))
	for _, r := range wanted {
		if change := kept[kappres.NewUniqueResourceKey(r).String()]; change != nil {
			changes = append(changes, change)
		} else {
			changes, rest = append(changes, compareChange(rest[0])), rest[1:]
		}
	}
	return append(changes, compareChanges(rest)...), nil
}

// findUnchanged returns changes of nothing, by kapp's key of each resource; none where kapp may compare otherwise: by
// rules of the bundle, with versions of a resource, or with one resource under two keys.
func (c *comparison) findUnchanged(existing, wanted []kappres.Resource, options diff.ChangeSetOpts) (map[string]diff.Change, error) {
	if !c.isUsual || !options.AgainstLastApplied || slices.ContainsFunc(wanted, isVersioned) || slices.ContainsFunc(existing, isVersioned) {
		return nil, nil
	}
	live, uids := make(map[string]kappres.Resource, len(existing)), sets.New[string]()
	for _, r := range existing {
		live[kappres.NewUniqueResourceKey(r).String()] = r
		uids.Insert(r.UID())
	}
	if len(live) < len(existing) || uids.Len() < len(existing) {
		return nil, nil
	}
	kept, seen := map[string]diff.Change{}, make(sets.Set[string], len(wanted))
	for _, r := range wanted {
		key := kappres.NewUniqueResourceKey(r).String()
		if seen.Has(key) {
			return nil, nil
		}
		seen.Insert(key)
		was := live[key]
		if was == nil || !hasPlainRecord(was) {
			continue
		}
		change, err := c.compareUnchanged(was, r)
		if err != nil {
			return nil, err
		}
		if change != nil {
			kept[key] = change
		}
	}
	return kept, nil
}

// isVersioned reports whether a resource gets another name with each change, or may.
func isVersioned(r kappres.Resource) bool {
	return slices.ContainsFunc([]string{"kapp.k14s.io/versioned", "kapp.k14s.io/versioned-keep-original"}, func(key string) bool {
		_, is := r.Annotations()[key]
		return is
	})
}

// hasPlainRecord reports whether kapp compares with the resource itself: it has no record of what was applied, or one
// that counts only as long as both are the same.
func hasPlainRecord(r kappres.Resource) bool {
	annotations := r.Annotations()
	sum := annotations[marks.OriginalMD5]
	return sum == "" || annotations[marks.Original] == "" || sum == noDifference
}

// compareUnchanged returns the change of nothing, or nil if a resource may differ from what is wanted, or is told to be
// left alone.
func (c *comparison) compareUnchanged(existing, wanted kappres.Resource) (diff.Change, error) {
	change := keptChange{original: existing}
	var err error
	if change.existing, err = c.withoutHistory(existing); err != nil {
		return nil, err
	}
	if change.applied, err = c.withoutHistory(wanted); err != nil {
		return nil, err
	}
	if change.merged, err = diff.NewRebasedResource(existing, change.applied, c.rebase).Resource(); err != nil {
		return nil, err
	}
	if !haveSameFields(change.existing, change.merged) {
		return nil, nil
	}
	annotations := change.merged.Annotations() // also those that only the object on the cluster has
	for _, key := range []string{kappres.NoopAnnKey, kappres.ExistsAnnKey} {
		if _, is := annotations[key]; is {
			return nil, nil
		}
	}
	return &change, nil
}

// isAsApplied reports whether kapp's checksum of how an answer of the API server and its manifest differ is that of no
// difference. It is if the answer is the manifest merged with it, both without the fields that kapp leaves out: what
// controllers change after the answer must not be part of the checksum.
func (c *comparison) isAsApplied(answer, manifest kappres.Resource) bool {
	was, err := diff.NewResourceWithRemovedFields(answer, c.excludeApplied).Resource()
	if err != nil {
		return false
	}
	if was, err = c.withoutHistory(was); err != nil {
		return false
	}
	applied, err := c.withoutHistory(manifest)
	if err != nil {
		return false
	}
	merged, err := diff.NewRebasedResource(was, applied, c.rebase).Resource()
	if err == nil && haveSameFields(was, merged) {
		return true
	}
	change, err := c.NewResourceWithHistory(answer).CalculateChange(manifest)
	return err == nil && change.OpsDiff().MinimalMD5() == noDifference
}

// withoutHistory returns a copy of a resource without kapp's record of what was applied, and without what is never compared.
func (c *comparison) withoutHistory(r kappres.Resource) (kappres.Resource, error) {
	return diff.NewResourceWithoutHistory(r, c.exclude).Resource()
}

func haveSameFields(a, b kappres.Resource) bool {
	return reflect.DeepEqual(a.UnstructuredObject(), b.UnstructuredObject())
}

// keptChange is the change of a resource that stays as it is.
type keptChange struct{ existing, merged, applied, original kappres.Resource }

var _ diff.Change = (*keptChange)(nil)

// NewOrExistingResource implements [diff.Change].
func (c *keptChange) NewOrExistingResource() kappres.Resource { return c.merged }

// NewResource implements [diff.Change].
func (c *keptChange) NewResource() kappres.Resource { return c.merged }

// ExistingResource implements [diff.Change].
func (c *keptChange) ExistingResource() kappres.Resource { return c.existing }

// AppliedResource implements [diff.Change].
func (c *keptChange) AppliedResource() kappres.Resource { return c.applied }

// ClusterOriginalResource implements [diff.Change].
func (c *keptChange) ClusterOriginalResource() kappres.Resource { return c.original }

// Op implements [diff.Change].
func (c *keptChange) Op() diff.ChangeOp { return diff.ChangeOpKeep }

// OpsDiff implements [diff.Change].
func (c *keptChange) OpsDiff() diff.OpsDiff { return nil }

// IsIgnored implements [diff.Change].
func (c *keptChange) IsIgnored() bool { return false }

// ConfigurableTextDiff implements [diff.Change].
func (c *keptChange) ConfigurableTextDiff() *diff.ConfigurableTextDiff {
	return diff.NewConfigurableTextDiff(c.existing, c.merged, false, diff.ChangeOpts{})
}

// serviceAccountRule is kapp's rebase rule for what controllers add to service accounts: the Secret of a token, and what
// OpenShift pulls images with. It is a template of ytt, and takes longer than all else of a comparison: where nothing
// was added it changes nothing, and is left out.
type serviceAccountRule struct {
	kappres.ResourceModWithMultiple
}

// ApplyFromMultiple implements [kappres.ResourceModWithMultiple].
func (s serviceAccountRule) ApplyFromMultiple(result kappres.Resource, sources map[kappres.FieldCopyModSource]kappres.Resource) error {
	if existing := sources[kappres.FieldCopyModSourceExisting]; existing != nil && !hasAddedSecrets(existing) {
		return nil
	}
	return s.ResourceModWithMultiple.ApplyFromMultiple(result, sources)
}

// hasAddedSecrets reports whether a service account names Secrets as controllers name those that they add, or names
// some in another way than it should.
func hasAddedSecrets(account kappres.Resource) bool {
	for _, key := range []string{"secrets", "imagePullSecrets"} {
		list, isList := account.UnstructuredObject()[key].([]any)
		if !isList && account.UnstructuredObject()[key] != nil {
			return true
		}
		for _, item := range list {
			fields, _ := item.(map[string]any)
			name, isName := fields["name"].(string)
			if !isName || strings.HasPrefix(name, account.Name()+"-token-") || strings.HasPrefix(name, account.Name()+"-dockercfg-") {
				return true
			}
		}
	}
	return false
}

// quickRules returns rebase rules with kapp's one for service accounts as [serviceAccountRule]. It is the only one of
// its own rules that is a template.
func quickRules(rules, usual []kappres.ResourceModWithMultiple) []kappres.ResourceModWithMultiple {
	own := sets.New[string]()
	for _, rule := range usual {
		if template, is := rule.(yttresmod.OverlayContractV1Mod); is {
			own.Insert(template.OverlayYAML)
		}
	}
	quick := slices.Clone(rules)
	for i, rule := range rules {
		if template, is := rule.(yttresmod.OverlayContractV1Mod); is && own.Has(template.OverlayYAML) {
			quick[i] = serviceAccountRule{rule}
		}
	}
	return quick
}
