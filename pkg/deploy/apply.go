package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"krtpkg.dev/krtpkg/pkg/deploy/apiserver"
	"krtpkg.dev/krtpkg/pkg/deploy/preflight"
	"krtpkg.dev/krtpkg/pkg/deploy/records"
)

// ApplyOptions are for Apply. The zero value works.
type ApplyOptions struct {
	Options
	// Confirm is called once before the cluster is changed, with all that would change; not if nothing
	// would change. If it returns false, the call ends with ErrNotConfirmed. Optional.
	Confirm func(context.Context, *Plan) (bool, error)
	// PauseAfter ends the call when this layer is ready. Default: all layers.
	PauseAfter *int
	// Skip is as in [CheckOptions]. Of the checks only those of the plan are done here.
	Skip []string
	// TakeOver takes resources over that belong to a release of Helm. Default: they are an error.
	TakeOver bool
	// DeleteForeign also deletes what others have put into namespaces, and made of kinds, that
	// the new version no longer has. Default: that is an error.
	DeleteForeign bool
	// RunHooks runs the hooks of bundles that leave and, if Rollback, those of a rollback. If it is false,
	// they are not run and [Report.Skipped] lists them.
	RunHooks bool
	// Rollback tells that this goes back to an earlier revision: no hook of an install or an upgrade
	// runs.
	Rollback bool
	// Censor takes out of a reason what is not to be recorded outside Secrets: the API server
	// quotes values that it refuses. Default: reasons are recorded as they are.
	Censor func(string) string
}

// Apply makes the cluster hold the runtime: layer by layer, in a layer each bundle after those
// that it needs, and waits until each is ready; at last it deletes, in reverse order, the
// bundles that the runtime had and has no more. Before the first write it plans, and refuses what
// [Cluster.Plan] finds wrong. Nothing is written if nothing differs. A
// resource that belongs to another kapp app is an error that names the owner; from one bundle
// of the runtime to another it may move, and is not deleted on the way. It is also an
// error if a namespace or a CustomResourceDefinition to be deleted holds resources that are not the runtime's.
//
// If a bundle fails, what is independent of it is finished, and what needs it is not begun;
// what is done stays, and another Apply goes on from there. When ctx ends, Apply returns
// promptly, wrapping ctx's error, and sends nothing more to the cluster but the record of that.
// It cannot undo a request that had been sent.
//
// The report is never nil. Errors: [*Error] for each bundle at fault, [*LockedError],
// [ErrNotConfirmed]; before anything is written [*ForeignError] and [*preflight.FindingsError].
func (c *Cluster) Apply(ctx context.Context, rt Runtime, opts ApplyOptions) (*Report, error) {
	report := &Report{Runtime: rt.Name}
	s, err := c.newSession(ctx, rt, opts.Options)
	if err != nil {
		return report, err
	}
	s.engine.takeOver = opts.TakeOver
	s.isRunningHooks, s.isRollback, s.withDiffs = opts.RunHooks, opts.Rollback, opts.Confirm != nil
	s.assumeKinds = slices.Contains(opts.Skip, preflight.CheckAPI)
	plan, err := s.planChanges(ctx, planOptions{deleteForeign: opts.DeleteForeign, skip: opts.Skip})
	if err != nil {
		return report, err
	}
	if err := plan.refuseChanges(opts.DeleteForeign); err != nil {
		return report, err
	}
	if plan.HasChanges() && opts.Confirm != nil {
		if ok, err := opts.Confirm(ctx, plan); err != nil || !ok {
			return report, notConfirmed(err)
		}
	}
	if s.isUpToDate(plan) {
		s.reportUnchanged(report)
		return report, nil
	}
	s.foreign = plan.foreign
	s.markUnchangedBundles(plan)
	ctx, cancel := context.WithCancelCause(apiserver.WithFence(ctx))
	defer cancel(nil)
	j := &records.Journal{
		Store: c.records(), Runtime: rt.Name, History: s.record, Next: s.recordedRevision(), Values: rt.Values,
		LockDuration: s.opts.LockDuration, OnLost: cancel,
	}
	state, err := s.applyAll(ctx, j, opts.PauseAfter, report)
	report.Skipped = s.skipped
	if cause := context.Cause(ctx); errors.Is(cause, ErrLockLost) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	reason := ""
	if err != nil {
		reason = err.Error()
	} else if state == Paused {
		reason = fmt.Sprintf("after layer %d", *opts.PauseAfter)
	}
	if opts.Censor != nil {
		reason = opts.Censor(reason)
	}
	return report, errors.Join(err, j.End(ctx, state, reason))
}

// markUnchangedBundles marks the bundles for which the plan found nothing to do. It marks none if something is deleted:
// their resources may go with that.
func (s *session) markUnchangedBundles(plan *Plan) {
	for _, b := range plan.Bundles {
		if slices.ContainsFunc(b.Changes, func(c ResourceChange) bool { return c.Op == OpDelete || c.Replace }) {
			return
		}
	}
	for i := range s.jobs {
		if found := plan.Bundles[i].found; found.idle && s.jobs[i].was != nil {
			s.jobs[i].idle = &found
		}
	}
}

// refuseChanges returns why the plan cannot be carried out; what others would lose comes first.
func (p *Plan) refuseChanges(deleteForeign bool) error {
	if len(p.foreign) > 0 && !deleteForeign {
		return &ForeignError{Runtime: p.Runtime, Foreign: p.foreign}
	}
	return preflight.RefuseFindings(p.Findings)
}

// reportUnchanged reports a runtime in which nothing changes.
func (s *session) reportUnchanged(report *Report) {
	for _, j := range s.jobs {
		o := j.newOutcome()
		s.emitEvent(Event{Phase: Applying, Outcome: o})
		s.emitEvent(Event{Phase: Unchanged, Outcome: o})
		report.Applied = append(report.Applied, o)
	}
}

// notConfirmed makes any end of a question but yes [ErrNotConfirmed].
func notConfirmed(err error) error {
	if err == nil {
		return ErrNotConfirmed
	}
	return &unansweredError{err}
}

// unansweredError is why a question has no answer, such as an interruption. It is [ErrNotConfirmed].
type unansweredError struct{ cause error }

func (e *unansweredError) Error() string { return e.cause.Error() }

// Unwrap returns the cause, and what it means.
func (e *unansweredError) Unwrap() []error { return []error{e.cause, ErrNotConfirmed} }

// applyAll applies the jobs, and deletes what left.
func (s *session) applyAll(ctx context.Context, j *records.Journal, pauseAfter *int, report *Report) (State, error) {
	if !s.record.IsApplied(j.Next) {
		// That there is something to record is reason enough to lock.
		if err := j.Begin(ctx); err != nil {
			return Incomplete, err
		}
	}
	paused := false
	var tasks []scheduledTask
	for i, one := range s.jobs {
		if pauseAfter != nil && one.unit.Layer > *pauseAfter {
			paused = true
			continue
		}
		tasks = append(tasks, scheduledTask{after: s.prerequisites(i), run: func(ctx context.Context) error {
			outcome, err := s.applyBundle(ctx, one, j)
			if err == nil {
				s.mu.Lock()
				defer s.mu.Unlock()
				report.Applied = append(report.Applied, outcome)
			}
			return err
		}})
	}
	// Jobs are in order by layer, so that indexes are the same without those above a pause.
	failed, blocked := runScheduled(ctx, tasks, s.opts.Parallel)
	s.inOrder(report.Applied)
	for i := range s.jobs {
		if by := blocked[i]; by != nil {
			o := s.jobs[i].newOutcome()
			for _, b := range by {
				if failed[b] != nil { // others wait for one of these, too
					o.WaitsFor = append(o.WaitsFor, s.jobs[b].newOutcome().Bundle)
				}
			}
			report.Blocked = append(report.Blocked, o)
			s.emitEvent(Event{Phase: Blocked, Outcome: o})
		}
	}
	if err := joinErrors(ctx, failed); err != nil {
		return Incomplete, err
	}
	if paused {
		return Paused, nil
	}
	deleted, err := s.deleteAll(ctx, s.leaving, j)
	report.Deleted = deleted
	if err != nil {
		return Incomplete, err
	}
	return Complete, nil
}

// inOrder sorts what was finished by the order of the runtime.
func (s *session) inOrder(outcomes []Outcome) {
	place := map[string]int{}
	for i, j := range s.jobs {
		place[j.runtime.appName(j.unit)] = i
	}
	slices.SortFunc(outcomes, func(a, b Outcome) int { return place[a.App] - place[b.App] })
}

// joinErrors is the one error there is, or all of them in order.
func joinErrors(ctx context.Context, failed map[int]error) error {
	var errs []error
	for _, i := range slices.Sorted(maps.Keys(failed)) {
		errs = append(errs, failed[i])
	}
	switch {
	case len(errs) == 0:
		return ctx.Err()
	case len(errs) == 1:
		return errs[0]
	}
	return errors.Join(errs...)
}

func (s *session) applyBundle(ctx context.Context, j job, journal *records.Journal) (Outcome, error) {
	var found callResult
	outcome, err := s.trackPhases(ctx, "apply", Applying, j.newOutcome(), func(told *messageTracker) (_ Changes, _ Phase, err error) {
		found, err = s.applyJob(ctx, j, journal, told)
		changes := CountChanges(found.changes)
		if changes.HasAny() {
			return changes, Applied, err
		}
		return changes, Unchanged, err
	})
	if err != nil && ctx.Err() == nil {
		// The symptoms have been read.
		err = errors.Join(err, s.endHooks(ctx, found.ran, true))
	}
	return outcome, err
}

// trackPhases tells of the phases of what do does to one bundle, and why it failed if it did.
func (s *session) trackPhases(ctx context.Context, op string, begin Phase, o Outcome, do func(*messageTracker) (Changes, Phase, error)) (Outcome, error) {
	started := time.Now()
	s.emitEvent(Event{Phase: begin, Outcome: o})
	told := newMessages(func(m Message) { s.emitEvent(Event{Phase: begin, Outcome: o, Message: m}) })
	told.hint = func(resource string) string { return s.hint(ctx, resource) }
	changes, end, err := do(told)
	o.Changes, o.Elapsed = changes, time.Since(started)
	if err != nil {
		return o, s.reportFailure(ctx, op, o, err, told)
	}
	s.emitEvent(Event{Phase: end, Outcome: o})
	return o, nil
}

// reportFailure tells that a bundle failed, and returns why.
func (s *session) reportFailure(ctx context.Context, op string, o Outcome, err error, told *messageTracker) error {
	failure := &Error{Op: op, Bundle: o.Bundle, Layer: o.Layer, Err: err}
	if ctx.Err() == nil {
		failure.Waiting = told.pendingResources()
		for i, w := range failure.Waiting[:min(len(failure.Waiting), symptomPods)] {
			if w.Hint == "" {
				failure.Waiting[i].Hint = s.hint(ctx, w.Resource)
			}
		}
		failure.Symptoms = s.symptoms(ctx, o.App, failure.Waiting)
	}
	s.emitEvent(Event{Phase: Failed, Outcome: o, Err: err})
	return failure
}

func (s *session) emitEvent(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opts.OnEvent(e)
}

func (s *session) applyJob(ctx context.Context, j job, journal *records.Journal, told *messageTracker) (callResult, error) {
	a := kappApp{name: j.runtime.appName(j.unit), labels: j.appLabels(), manifests: j.unit.Manifests, moment: j.newMoment(s.isRollback), done: s.doneJobs()}
	if j.was != nil && !containsAll(j.was.labels, a.labels) {
		if err := journal.Begin(ctx); err != nil {
			return callResult{}, err
		}
		if err := s.cluster.relabelApp(ctx, j.was, a.labels); err != nil {
			return callResult{}, err
		}
	}
	kept, digest, err := encodeHooks(j.unit.Hooks)
	if err != nil {
		return callResult{}, err
	}
	if was := j.was; was == nil && kept != nil || was != nil && was.notes[annotationHooks] != digest {
		if err := journal.Begin(ctx); err != nil {
			return callResult{}, err
		}
		if err := s.cluster.storeHooks(ctx, j, kept); err != nil {
			return callResult{}, err
		}
	}
	found, err := s.rollBack(ctx, j, a, journal, func() (callResult, error) {
		if j.idle != nil {
			return *j.idle, nil
		}
		return s.engine.deployAndWait(ctx, a, progressHooks{begin: journal.Begin, told: told})
	})
	if err != nil {
		return found, err
	}
	if err := s.cluster.recordDone(ctx, j, found, digest, journal); err != nil || !CountChanges(found.changes).HasAny() {
		return found, err
	}
	return found, s.endHooks(ctx, found.ran, false)
}

// relabelApp moves an app to another place: kapp refuses to change the value of a label, and
// places move when a runtime gets another bundle.
func (c *Cluster) relabelApp(ctx context.Context, was *Installed, labels map[string]string) error {
	return c.patchConfigMap(ctx, was.configMap, map[string]any{"labels": labels})
}

// recordDone records what has been applied, if that is news.
func (c *Cluster) recordDone(ctx context.Context, j job, found callResult, hooks string, journal *records.Journal) error {
	news := j.appAnnotations()
	news[annotationResources], news[annotationDone] = encodeInventory(found.resources), found.jobs.String()
	news[annotationReleases], news[annotationHooks] = found.releases, hooks
	if len(found.changes) == 0 && j.was != nil && j.was.Complete && containsAll(j.was.notes, news) {
		return nil
	}
	if err := journal.Begin(ctx); err != nil {
		return err
	}
	// Not j.was: kapp has created or renamed it, or begun a change.
	configMap, err := c.appConfigMap(ctx, j.runtime.appName(j.unit))
	if err != nil {
		return err
	}
	installed, err := readInstalled(configMap)
	if err != nil {
		return fmt.Errorf("configmap %s/%s: %w", c.namespace, configMap.Name, err)
	}
	news[annotationChange] = installed.change
	return c.patchConfigMap(ctx, configMap.Name, map[string]any{"annotations": news})
}

func (c *Cluster) patchConfigMap(ctx context.Context, configMap string, metadata map[string]any) error {
	patch, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		return err
	}
	_, err = c.configMaps().Patch(apiserver.WithoutLogs(ctx), configMap, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("record on configmap %s/%s: %w", c.namespace, configMap, err)
	}
	return nil
}

func containsAll(all, some map[string]string) bool {
	for key, value := range some {
		if all[key] != value {
			return false
		}
	}
	return true
}
