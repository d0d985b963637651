package deploy

import (
	"slices"

	"carvel.dev/kapp/pkg/kapp/diffgraph"
)

// waitForExistingDependencies makes changes wait for resources that their rules put before them, also if these exist
// already and are not yet ready, as after an interrupted apply: a hook may still run. kapp orders only what it
// writes (github.com/carvel-dev/kapp issue 729). Rules that give way to others do so here too.
func waitForExistingDependencies(graph *diffgraph.ChangeGraph) error {
	all := graph.All()
	for _, unready := range all {
		if unready.Change.Op() != diffgraph.ActualChangeOpNoop {
			continue // the graph holds of these only what is waited for
		}
		for _, change := range all {
			if change.Change.Op() != diffgraph.ActualChangeOpUpsert || change.IsDirectlyWaitingFor(unready) {
				continue
			}
			after, err := hasRule(change, diffgraph.ChangeRuleOrderAfter, unready)
			if err != nil {
				return err
			}
			before, err := hasRule(unready, diffgraph.ChangeRuleOrderBefore, change)
			if err != nil {
				return err
			}
			if after || before {
				change.WaitingFor = append(change.WaitingFor, unready)
			}
		}
	}
	return nil
}

// hasRule reports whether a change has a rule that it is made before or after another one.
func hasRule(change *diffgraph.Change, order diffgraph.ChangeRuleOrder, other *diffgraph.Change) (bool, error) {
	rules, err := change.AllRules()
	if err != nil {
		return false, err
	}
	groups, err := other.Groups()
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(rules, func(r diffgraph.ChangeRule) bool {
		return r.Order == order && !r.IgnoreIfCyclical && r.Action == diffgraph.ChangeRuleActionUpsert &&
			r.TargetAction == diffgraph.ChangeRuleTargetActionUpserting && slices.ContainsFunc(groups, r.TargetGroup.IsEqual)
	}), nil
}
