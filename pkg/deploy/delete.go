package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"krtpkg.dev/krtpkg/pkg/deploy/apiserver"
	"krtpkg.dev/krtpkg/pkg/deploy/records"
)

// DeleteOptions are for Delete. The zero value works.
type DeleteOptions struct {
	Options
	// Confirm is called once before anything is deleted. If it returns false, the call ends with
	// ErrNotConfirmed. Optional.
	Confirm func(context.Context, *Plan) (bool, error)
	// WithoutDiffs leaves the diffs out of what Confirm gets: for those who don't show them.
	WithoutDiffs bool
	// DeleteForeign deletes also what others have put into namespaces of the runtime, and made
	// of its kinds. Default: that is an error.
	DeleteForeign bool
	// RunHooks runs the hooks of the bundles that are for a deletion. Default: the report names
	// them.
	RunHooks bool
}

// Delete deletes all bundles of a runtime, each after those that need it, by layers from the
// top, and waits until the resources of each are gone. Whatever of them is on the cluster counts,
// also after an Apply that failed. If there is nothing it returns ErrNotInstalled.
//
// Errors, the end of ctx and the report are as with Apply; and [*ForeignError].
func (c *Cluster) Delete(ctx context.Context, name string, opts DeleteOptions) (*Report, error) {
	report := &Report{Runtime: name}
	if name == "" {
		return report, errors.New("delete: no name given")
	}
	opts.setDefaults()
	s := &session{cluster: c, opts: opts.Options, runtime: Runtime{Name: name}}
	s.engine = &engine{cluster: c, served: &servedKinds{}, options: opts.Options}
	s.isRunningHooks, s.withDiffs = opts.RunHooks, opts.Confirm != nil && !opts.WithoutDiffs
	defer func() { report.Skipped = s.skipped }()
	var err error
	if s.leaving, err = c.List(ctx, name); err != nil {
		return report, err
	}
	if s.record, err = c.records().Read(ctx, name); err != nil {
		return report, err
	}
	if len(s.leaving) == 0 && len(s.record.Revisions) == 0 {
		return report, c.notInstalled(ctx, name)
	}
	plan, err := s.beforeDelete(ctx, opts)
	if err != nil {
		return report, err
	}
	s.foreign = plan.foreign
	ctx, cancel := context.WithCancelCause(apiserver.WithFence(ctx))
	defer cancel(nil)
	held, err := c.records().AcquireLock(ctx, name, opts.LockDuration, cancel)
	if err != nil {
		return report, err
	}
	defer held.Release()
	if report.Deleted, err = s.deleteAll(ctx, s.leaving, nil); err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, ErrLockLost) {
			err = fmt.Errorf("%w: %w", cause, err)
		}
		return report, err
	}
	return report, c.records().Remove(ctx, name)
}

// beforeDelete looks for what is not the runtime's but would go with it, and asks.
func (s *session) beforeDelete(ctx context.Context, opts DeleteOptions) (*Plan, error) {
	endListings := s.engine.shareListings(ctx, s.leaving)
	s.engine.records = newAppRecords(s.leaving)
	plan, err := s.planDelete(ctx)
	endListings() // what follows may write
	s.engine.records = nil
	if err != nil {
		return nil, err
	}
	if plan.foreign, err = s.findForeign(ctx, plan, opts.DeleteForeign); err != nil {
		return nil, err
	}
	if len(plan.foreign) > 0 && !opts.DeleteForeign {
		return nil, &ForeignError{Runtime: s.runtime.Name, Foreign: plan.foreign}
	}
	plan.Findings = foreignFindings(plan.foreign, opts.DeleteForeign)
	if opts.Confirm == nil {
		return plan, nil
	}
	if ok, err := opts.Confirm(ctx, plan); err != nil || !ok {
		return nil, notConfirmed(err)
	}
	return plan, nil
}

// planDelete returns what the delete of all that leaves would do.
func (s *session) planDelete(ctx context.Context) (*Plan, error) {
	plan := &Plan{Runtime: s.runtime.Name}
	found := make([]BundlePlan, len(s.leaving))
	tasks := make([]scheduledTask, len(s.leaving))
	for i, app := range s.leaving {
		tasks[i].run = func(ctx context.Context) error {
			looked, err := s.engine.planDelete(ctx, appDelete{name: app.App, diffs: s.withDiffs})
			if err != nil {
				return &Error{Op: "delete", Bundle: app.Bundle, Layer: app.Layer, Err: err}
			}
			found[i] = BundlePlan{
				Bundle: app.Bundle, App: app.App, Layer: app.Layer, From: app.Version,
				Action: ActionRemove, Changes: looked.changes, found: looked,
			}
			return nil
		}
	}
	failed, _ := runScheduled(ctx, tasks, s.opts.Parallel)
	if err := joinErrors(ctx, failed); err != nil {
		return nil, err
	}
	slices.Reverse(found)
	plan.Bundles = found
	return plan, nil
}

// deleteAll deletes apps, each after those that need it. Namespaces go last, all at the same
// time, since each takes seconds; only if something foreign is deleted, whose controller may be
// among the apps, does each go with its app.
func (s *session) deleteAll(ctx context.Context, apps []Installed, j *records.Journal) ([]Outcome, error) {
	apps = slices.Clone(apps)
	slices.Reverse(apps)
	deletions := make([]appDeletion, len(apps))
	tasks := make([]scheduledTask, len(apps))
	for i, app := range apps {
		for k, other := range apps {
			if k != i && (other.Layer > app.Layer || slices.Contains(other.Needs, app.Bundle)) {
				tasks[i].after = append(tasks[i].after, k)
			}
		}
		tasks[i].run = func(ctx context.Context) error {
			if j != nil {
				if err := j.Begin(ctx); err != nil {
					return err
				}
			}
			return s.deleteApp(ctx, app, &deletions[i])
		}
	}
	failed, _ := runScheduled(ctx, tasks, s.opts.Parallel)
	if len(failed) == 0 {
		var last []scheduledTask
		for i, app := range apps {
			if deletions[i].namespacesLeft {
				last = append(last, scheduledTask{run: func(ctx context.Context) error { return s.deleteNamespaces(ctx, app, &deletions[i]) }})
			}
		}
		// Each app deletes only what it has itself, so that one listing holds for all.
		endListings := s.engine.shareListings(ctx, apps)
		failed, _ = runScheduled(ctx, last, max(len(last), 1))
		endListings()
	}
	var outcomes []Outcome
	for _, d := range deletions {
		if d.ended {
			outcomes = append(outcomes, d.outcome)
		}
	}
	if err := joinErrors(ctx, failed); err != nil || len(apps) == 0 {
		return outcomes, err
	}
	return outcomes, s.checkNothingLeft(ctx, apps)
}

// appDeletion is how far the deletion of an app has come.
type appDeletion struct {
	outcome        Outcome
	started        time.Time
	namespacesLeft bool
	ended          bool
	// hooks are those that run when its resources are gone, in namespaces that may be, too.
	hooks      []Hook
	namespaces map[string]*corev1.Namespace
}

// deleteApp deletes what an app has, but for its namespaces if these go last.
func (s *session) deleteApp(ctx context.Context, i Installed, d *appDeletion) error {
	d.started = time.Now()
	d.outcome = Outcome{Bundle: i.Bundle, App: i.App, Version: i.Version, Layer: i.Layer}
	s.emitEvent(Event{Phase: Deleting, Outcome: d.outcome})
	if err := s.beforeDeletion(ctx, d); err != nil {
		return s.reportFailure(ctx, "delete", d.outcome, err, newMessages(nil))
	}
	return s.deleteStep(ctx, appDelete{name: i.App, namespacesLater: len(s.foreign) == 0}, d)
}

// deleteNamespaces deletes what is left of an app.
func (s *session) deleteNamespaces(ctx context.Context, i Installed, d *appDeletion) error {
	return s.deleteStep(ctx, appDelete{name: i.App}, d)
}

func (s *session) deleteStep(ctx context.Context, a appDelete, d *appDeletion) error {
	told := newMessages(func(m Message) { s.emitEvent(Event{Phase: Deleting, Outcome: d.outcome, Message: m}) })
	found, err := s.engine.deleteAndWait(ctx, a, progressHooks{told: told})
	if err == nil {
		err = s.afterDeletion(ctx, d)
	}
	changes := CountChanges(found.changes)
	if d.namespacesLeft { // and counted
		changes = d.outcome.Changes
	}
	outcome := d.outcome
	outcome.Changes, outcome.Elapsed = changes, time.Since(d.started)
	if err != nil {
		return s.reportFailure(ctx, "delete", outcome, err, told)
	}
	d.outcome.Changes, d.namespacesLeft = changes, found.namespacesLeft
	if !d.namespacesLeft {
		d.ended, d.outcome = true, outcome
		s.emitEvent(Event{Phase: Deleted, Outcome: outcome})
	}
	return nil
}
