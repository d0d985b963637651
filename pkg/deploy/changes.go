package deploy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"carvel.dev/kapp/pkg/kapp/clusterapply"
	kappconfig "carvel.dev/kapp/pkg/kapp/config"
	"carvel.dev/kapp/pkg/kapp/diff"
	kappres "carvel.dev/kapp/pkg/kapp/resources"

	"krtpkg.dev/krtpkg/pkg/resources"
)

// ResourceID says which resource of a cluster is meant.
type ResourceID = resources.ResourceID

func compareIDs(a, b ResourceID) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name),
		cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.APIVersion, b.APIVersion))
}

func idOf(r kappres.Resource) ResourceID { return resources.IDOf(r) }

// listIDs leaves out what others have made of the resources, such as pods.
func listIDs(all []kappres.Resource) []ResourceID {
	ids := make([]ResourceID, 0, len(all))
	for _, r := range all {
		if !r.Transient() {
			ids = append(ids, idOf(r))
		}
	}
	slices.SortFunc(ids, compareIDs)
	return ids
}

// Op is what is done to a resource.
type Op string

// The operations.
const (
	OpCreate Op = "create"
	OpUpdate Op = "update"
	OpDelete Op = "delete"
	OpWait   Op = "wait" // it needs no change, but it is not ready
	// OpRelease is for what is no longer wanted, but says that it is to be kept.
	OpRelease Op = "release"
)

// ResourceChange is what is to be done to one resource, or what was.
type ResourceChange struct {
	ResourceID
	Op Op `json:"op"`
	// Replace tells that an update deletes the resource and creates it again, since the API
	// server takes no other way.
	Replace bool `json:"replace,omitempty"`
	// Diff is kapp's, a line for each line of YAML: "-" and what was, "+" and what is to be,
	// and unchanged lines around them. What Secrets hold is masked. It is empty for a kind
	// that the cluster does not know yet, where nothing changes, and in what nobody looks at before it is done.
	Diff string `json:"diff,omitempty"`
}

// changeDetails are what changes come with.
type changeDetails struct {
	// diffs is set if someone is to see them: they take longer than all else that kapp computes.
	diffs bool
	masks []kappconfig.DiffMaskRule
}

// resourceChanges returns what steps change.
func resourceChanges(steps []*clusterapply.ClusterChange, details changeDetails) []ResourceChange {
	var changes []ResourceChange
	for _, s := range steps {
		c := ResourceChange{ResourceID: idOf(s.Resource()), Op: OpWait}
		switch s.ApplyOp() {
		case clusterapply.ClusterChangeApplyOpAdd:
			c.Op = OpCreate
		case clusterapply.ClusterChangeApplyOpUpdate:
			c.Op = OpUpdate
			strategy, err := s.ApplyStrategyOp()
			c.Replace = err == nil && strategy == alwaysReplace
		case clusterapply.ClusterChangeApplyOpDelete:
			c.Op = OpDelete
			if strategy, err := s.ApplyStrategyOp(); err == nil && strategy == orphan {
				c.Op = OpRelease
			}
		}
		if s.Resource().Transient() {
			continue // it goes with its owner
		}
		if c.Op != OpWait && details.diffs {
			view := diff.NewTextDiffView(s.ConfigurableTextDiff(), details.masks, diff.TextDiffViewOpts{Context: 2, Mask: true})
			c.Diff = ansiColor.ReplaceAllString(view.String(), "")
		}
		changes = append(changes, c)
	}
	slices.SortFunc(changes, func(a, b ResourceChange) int { return compareIDs(a.ResourceID, b.ResourceID) })
	return changes
}

// Changes count resources by what is done to them.
type Changes struct {
	Create, Update, Delete int
	// Wait counts those that needed no change but were not ready.
	Wait int
	// Release counts those that stay on the cluster without being the runtime's any more.
	Release int
}

// CountChanges counts changes.
func CountChanges(all []ResourceChange) Changes {
	var c Changes
	for _, one := range all {
		switch one.Op {
		case OpCreate:
			c.Create++
		case OpUpdate:
			c.Update++
		case OpDelete:
			c.Delete++
		case OpRelease:
			c.Release++
		default:
			c.Wait++
		}
	}
	return c
}

// HasAny reports whether the cluster must be changed, and not only waited for.
func (c Changes) HasAny() bool { return c.Create+c.Update+c.Delete+c.Release > 0 }

// Add returns the sum of both.
func (c Changes) Add(d Changes) Changes {
	return Changes{c.Create + d.Create, c.Update + d.Update, c.Delete + d.Delete, c.Wait + d.Wait, c.Release + d.Release}
}

// String is like "create 3, update 1"; "no changes" if there are none.
func (c Changes) String() string {
	var parts []string
	for _, p := range []struct {
		verb  string
		count int
	}{{"create", c.Create}, {"update", c.Update}, {"delete", c.Delete}, {"release", c.Release}, {"wait for", c.Wait}} {
		if p.count > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", p.verb, p.count))
		}
	}
	if parts == nil {
		return "no changes"
	}
	return strings.Join(parts, ", ")
}

// summarizeChanges returns what kapp records of a change.
func summarizeChanges(changes []ResourceChange) string { return CountChanges(changes).String() }
