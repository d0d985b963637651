package deploy

import (
	"bytes"
	"reflect"

	"carvel.dev/kapp/pkg/kapp/diff"
	kappres "carvel.dev/kapp/pkg/kapp/resources"
)

// comparedChange tells an update from what stays as it is by comparing. kapp computes for that which lines are how far
// apart, in a table of all lines of one text by all of the other: for a definition of 10,000 lines, seconds.
type comparedChange struct {
	diff.Change
	op diff.ChangeOp // what Op has returned
}

func compareChanges(changes []diff.Change) []diff.Change {
	all := make([]diff.Change, len(changes))
	for i, c := range changes {
		all[i] = compareChange(c)
	}
	return all
}

func compareChange(c diff.Change) diff.Change { return &comparedChange{Change: c} }

// Op implements [diff.Change]. It returns what kapp would.
func (c *comparedChange) Op() diff.ChangeOp {
	if c.op == "" {
		c.op = c.compare()
	}
	return c.op
}

func (c *comparedChange) compare() diff.ChangeOp {
	before, after := c.ExistingResource(), c.NewResource()
	if before == nil || after == nil {
		return c.Change.Op()
	}
	annotations := after.Annotations()
	if _, is := annotations[kappres.NoopAnnKey]; is {
		return c.Change.Op()
	}
	if !haveSameText(before, after) {
		if _, is := annotations[kappres.ExistsAnnKey]; !is {
			return diff.ChangeOpUpdate
		}
	}
	return diff.ChangeOpKeep
}

// haveSameText reports whether the YAML of two resources is the same, as it may be of values of different types.
func haveSameText(a, b kappres.Resource) bool {
	if reflect.DeepEqual(a.UnstructuredObject(), b.UnstructuredObject()) {
		return true
	}
	one, err := a.AsYAMLBytes()
	if err != nil {
		return false
	}
	other, err := b.AsYAMLBytes()
	return err == nil && bytes.Equal(one, other)
}
