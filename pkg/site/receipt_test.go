package site_test

import (
	"errors"
	"fmt"
	"reflect"
	"testing"

	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/receipt"
	"krtpkg.dev/krtpkg/pkg/site"
)

// Each bundle of a runtime is in exactly one state, however an apply ended.
func TestNewReceipt(t *testing.T) {
	units := func(names ...string) (all []deploy.Unit) {
		for _, name := range names {
			all = append(all, deploy.Unit{Bundle: name})
		}
		return all
	}
	changed := deploy.Changes{Create: 1}
	failed := func(name string) error { return &deploy.Error{Op: "apply", Bundle: name, Err: errors.New("not ready")} }
	for name, c := range map[string]struct {
		units   []deploy.Unit
		report  *deploy.Report
		err     error
		outcome receipt.Outcome
		want    receipt.Bundles
	}{
		"applied": {units("b", "a", "c"), &deploy.Report{
			Applied: []deploy.Outcome{{Bundle: "c", Changes: changed}, {Bundle: "b", Changes: changed}, {Bundle: "a"}}, Deleted: []deploy.Outcome{{Bundle: "z"}},
		}, nil, receipt.Applied, receipt.Bundles{Applied: []string{"b", "c"}, Unchanged: []string{"a"}, Deleted: []string{"z"}}},
		"failed partway": {units("a", "b", "c", "d", "e"), &deploy.Report{
			Applied: []deploy.Outcome{{Bundle: "a", Changes: changed}}, Blocked: []deploy.Outcome{{Bundle: "d"}},
		}, fmt.Errorf("lost: %w", errors.Join(failed("c"), failed("b"))), receipt.Failed,
			receipt.Bundles{Applied: []string{"a"}, Failed: []string{"b", "c"}, Blocked: []string{"d"}, NotBegun: []string{"e"}}},
		"failed while it deleted": {units("a"), &deploy.Report{Applied: []deploy.Outcome{{Bundle: "a"}}}, failed("z"), receipt.Failed,
			receipt.Bundles{Unchanged: []string{"a"}, Failed: []string{"z"}}},
		"refused before": {units("a"), nil, errors.New("no"), receipt.Failed, receipt.Bundles{NotBegun: []string{"a"}}},
		"not rendered":   {nil, nil, errors.New("no"), receipt.Failed, receipt.Bundles{}},
		"paused":         {units("a", "b"), &deploy.Report{Applied: []deploy.Outcome{{Bundle: "a"}}}, nil, receipt.Paused, receipt.Bundles{Unchanged: []string{"a"}, NotBegun: []string{"b"}}},
		"a single bundle": {units(""), &deploy.Report{Applied: []deploy.Outcome{{Bundle: "edge", Changes: changed}}}, nil, receipt.Applied,
			receipt.Bundles{Applied: []string{"edge"}}},
	} {
		r := site.NewReceipt(deploy.Runtime{Name: "edge", Units: c.units, Values: []byte("a: b")}, c.report, c.err)
		if r.Outcome != c.outcome || !reflect.DeepEqual(r.Bundles, c.want) || r.Name != "edge" || r.Values.Validate() != nil {
			t.Errorf("%s: %+v", name, r)
		}
	}
}
