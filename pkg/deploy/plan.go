package deploy

import (
	"cmp"
	"context"
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"

	"krtpkg.dev/krtpkg/pkg/deploy/preflight"
)

// Plan is what Apply or Delete would do.
type Plan struct {
	Runtime string
	// Version and Digest are of the runtime to apply; From is the version that is there.
	Version, Digest, From string
	// Bundles are in the order in which they would be applied, and then deleted.
	Bundles []BundlePlan
	// Findings are what is wrong, or may be.
	Findings []preflight.Finding
	// records tells whether there is something to record although no resource changes.
	records bool
	// foreign is what would go with what is deleted.
	foreign []Foreign
}

// Action is what happens to a bundle.
type Action string

// The actions.
const (
	ActionInstall Action = "install"
	ActionChange  Action = "change"
	ActionKeep    Action = "keep"
	ActionRemove  Action = "remove"
	// ActionUnplanned is a bundle of which a finding says why its changes are not known.
	ActionUnplanned Action = "unplanned"
)

// BundlePlan is what would be done to one bundle.
type BundlePlan struct {
	Bundle string
	App    string // the kapp app
	Layer  int
	// Version is what is to be applied, From what is there. Both may be empty.
	Version, From string
	Action        Action
	Changes       []ResourceChange

	found callResult
}

// HasChanges reports whether anything would be written.
func (p *Plan) HasChanges() bool {
	return p.records || p.CountChanges().HasAny()
}

// CountChanges counts the changes of all bundles.
func (p *Plan) CountChanges() Changes {
	var all Changes
	for _, b := range p.Bundles {
		all = all.Add(CountChanges(b.Changes))
	}
	return all
}

// Plan looks at what Apply would do, and at what would keep it from that. It writes nothing.
//
// What a bundle needs from bundles that are not yet applied is assumed to exist, so the API server cannot validate
// what depends on it.
func (c *Cluster) Plan(ctx context.Context, rt Runtime, opts CheckOptions) (*Plan, error) {
	s, err := c.newSession(ctx, rt, opts.Options)
	if err != nil {
		return nil, err
	}
	findings, err := s.runChecks(ctx, opts)
	if err != nil {
		return nil, err
	}
	s.engine.takeOver, s.withDiffs = opts.TakeOver, true
	s.assumeKinds = slices.Contains(opts.Skip, preflight.CheckAPI)
	plan, err := s.planChanges(ctx, planOptions{deleteForeign: opts.DeleteForeign, skip: opts.Skip})
	if err != nil {
		return nil, err
	}
	plan.Findings = append(findings, plan.Findings...)
	return plan, nil
}

// planOptions are for plan.
type planOptions struct {
	// deleteForeign makes a warning of what others would lose.
	deleteForeign bool
	// skip are checks that are not done.
	skip []string
}

func (s *session) planChanges(ctx context.Context, opts planOptions) (*Plan, error) {
	plan := &Plan{
		Runtime: s.runtime.Name, Version: s.runtime.Version, Digest: s.runtime.Digest,
		From: s.record.Newest().Version, records: !s.record.IsApplied(s.recordedRevision()),
	}
	absent, ownKinds, err := s.absentKinds(ctx)
	if err != nil {
		return nil, err
	}
	defer s.engine.shareListings(ctx, s.allInstalled())() // until what follows may write
	s.engine.shareNamespaces(ctx)
	defer func() { s.engine.records = nil }()
	found := make([]BundlePlan, len(s.jobs))
	problems := make([]error, len(s.jobs))
	tasks := make([]scheduledTask, len(s.jobs))
	for i, j := range s.jobs {
		tasks[i].run = func(ctx context.Context) error {
			looked, err := s.engine.planDeploy(ctx, kappApp{
				name: j.runtime.appName(j.unit), labels: j.appLabels(), manifests: j.unit.Manifests, absent: absent[i],
				newNamespaces: s.engine.claims.namespaces, ownKinds: ownKinds, moment: j.newMoment(s.isRollback), done: s.doneJobs(),
				diffs: s.withDiffs, rehearse: !slices.Contains(opts.skip, preflight.CheckDryRun), compareDefinitions: !slices.Contains(opts.skip, preflight.CheckDefinitions),
			})
			if ctx.Err() != nil {
				return ctx.Err()
			}
			o := j.newOutcome()
			problems[i] = cmp.Or(err, looked.refused)
			found[i] = BundlePlan{
				Bundle: o.Bundle, App: o.App, Layer: o.Layer, Version: o.Version, Changes: looked.changes, Action: ActionKeep, found: looked,
			}
			switch {
			case j.was == nil:
				found[i].Action = ActionInstall
			case CountChanges(looked.changes).HasAny():
				found[i].Action = ActionChange
			}
			if j.was != nil {
				found[i].From = j.was.Version
			}
			return nil
		}
	}
	failed, _ := runScheduled(ctx, tasks, s.opts.Parallel)
	if err := joinErrors(ctx, failed); err != nil {
		return nil, err
	}
	plan.Bundles = found
	for i, err := range problems {
		if err != nil {
			found[i].Action = ActionUnplanned
			plan.Findings = append(plan.Findings, preflight.Finding{
				Severity: preflight.SeverityError, Check: "kapp", Bundle: found[i].Bundle, Message: kappError{err}.Error(), Cause: err,
			})
		}
		for _, f := range found[i].found.findings {
			f.Bundle = found[i].Bundle
			plan.Findings = append(plan.Findings, f)
		}
	}
	leaving, err := s.planDelete(ctx)
	if err != nil {
		return nil, err
	}
	plan.Bundles = append(plan.Bundles, leaving.Bundles...)
	if plan.foreign, err = s.findForeign(ctx, plan, opts.deleteForeign); err != nil {
		return nil, err
	}
	plan.Findings = append(plan.Findings, foreignFindings(plan.foreign, opts.deleteForeign)...)
	return plan, nil
}

// isUpToDate reports whether there is nothing to write, to wait for or to record.
func (s *session) isUpToDate(plan *Plan) bool {
	if plan.CountChanges() != (Changes{}) || plan.records || len(s.leaving) > 0 {
		return false
	}
	for i, j := range s.jobs {
		news := j.appAnnotations()
		news[annotationResources] = encodeInventory(plan.Bundles[i].found.resources)
		news[annotationDone] = plan.Bundles[i].found.jobs.String()
		if j.was == nil || !j.was.Complete || !containsAll(j.was.labels, j.appLabels()) || !containsAll(j.was.notes, news) {
			return false
		}
	}
	return true
}

// absentKinds returns, for each job, the kinds in the versions that earlier bundles bring and the
// cluster does not serve yet, and all kinds that the runtime defines.
func (s *session) absentKinds(ctx context.Context) ([]sets.Set[schema.GroupVersionKind], sets.Set[schema.GroupKind], error) {
	served, err := s.servedKinds(ctx)
	if err != nil {
		return nil, nil, err
	}
	all := make([]sets.Set[schema.GroupVersionKind], len(s.jobs))
	brought, ownKinds := sets.New[schema.GroupVersionKind](), sets.New[schema.GroupKind]()
	for i, j := range s.jobs {
		all[i] = brought.Clone()
		resources, defined, err := j.readManifests()
		if err != nil {
			return nil, nil, err
		}
		for _, d := range defined {
			ownKinds.Insert(d.GroupKind)
			for _, version := range d.Versions {
				brought.Insert(d.WithVersion(version))
			}
		}
		for _, r := range resources {
			if s.assumeKinds && r.APIGroup() != configGroup {
				all[i].Insert(schema.FromAPIVersionAndKind(r.APIVersion(), r.Kind()))
			}
		}
		for gvk := range served {
			all[i].Delete(gvk)
		}
	}
	return all, ownKinds, nil
}
