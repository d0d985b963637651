package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// DeleteOptions are for Delete. The zero value works.
type DeleteOptions struct {
	Options
	// Confirm is asked once before anything is deleted. False ends the call with
	// ErrNotConfirmed. Default: nobody is asked.
	Confirm func(context.Context, *Plan) (bool, error)
	// DeleteForeign deletes also what others have put into namespaces of the runtime, and made
	// of its kinds. Default: that is an error.
	DeleteForeign bool
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
	s.engine = &engine{cluster: c, served: &served{}, options: opts.Options}
	var err error
	if s.leaving, err = c.List(ctx, name); err != nil {
		return report, err
	}
	if s.record, err = c.record(ctx, name); err != nil {
		return report, err
	}
	if len(s.leaving) == 0 && len(s.record.revisions) == 0 {
		return report, fmt.Errorf("%s, namespace %s: %w", name, c.namespace, ErrNotInstalled)
	}
	if err := s.beforeDelete(ctx, opts); err != nil {
		return report, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	held, err := c.lock(ctx, name, opts.LockDuration, func() { cancel(ErrLockLost) })
	if err != nil {
		return report, err
	}
	defer held.release()
	if report.Deleted, err = s.deleteAll(ctx, s.leaving, nil); err != nil {
		if errors.Is(context.Cause(ctx), ErrLockLost) {
			err = fmt.Errorf("%w: %w", ErrLockLost, err)
		}
		return report, err
	}
	return report, c.forget(ctx, name)
}

// beforeDelete looks for what is not the runtime's but would go with it, and asks.
func (s *session) beforeDelete(ctx context.Context, opts DeleteOptions) error {
	plan, err := s.planDelete(ctx)
	if err != nil {
		return err
	}
	if !opts.DeleteForeign {
		foreign, err := s.foreign(ctx, plan)
		if err != nil {
			return err
		}
		if len(foreign) > 0 {
			return &ForeignError{Runtime: s.runtime.Name, Foreign: foreign}
		}
	}
	if opts.Confirm == nil {
		return nil
	}
	if ok, err := opts.Confirm(ctx, plan); err != nil || !ok {
		return notConfirmed(err)
	}
	return nil
}

// planDelete is what the delete of all that leaves would do.
func (s *session) planDelete(ctx context.Context) (*Plan, error) {
	plan := &Plan{Runtime: s.runtime.Name}
	found := make([]BundlePlan, len(s.leaving))
	tasks := make([]task, len(s.leaving))
	for i, app := range s.leaving {
		tasks[i].run = func(ctx context.Context) error {
			looked, err := s.engine.lookDelete(ctx, app.App)
			if err != nil {
				return &Error{Op: "delete", Bundle: app.Bundle, Layer: app.Layer, Err: err}
			}
			found[i] = BundlePlan{
				Bundle: app.Bundle, App: app.App, Layer: app.Layer, From: app.Version,
				Action: Remove, Changes: looked.changes, resources: looked.resources,
			}
			return nil
		}
	}
	failed, _ := schedule(ctx, tasks, s.opts.Parallel)
	if err := joined(ctx, failed); err != nil {
		return nil, err
	}
	slices.Reverse(found)
	plan.Bundles = found
	return plan, nil
}

// deleteAll deletes apps, each after those that need it.
func (s *session) deleteAll(ctx context.Context, apps []Installed, j *journal) ([]Outcome, error) {
	apps = slices.Clone(apps)
	slices.Reverse(apps)
	done := make([]*Outcome, len(apps))
	tasks := make([]task, len(apps))
	for i, app := range apps {
		for k, other := range apps {
			if k != i && (other.Layer > app.Layer || slices.Contains(other.Needs, app.Bundle)) {
				tasks[i].after = append(tasks[i].after, k)
			}
		}
		tasks[i].run = func(ctx context.Context) error {
			if j != nil {
				if err := j.begin(ctx); err != nil {
					return err
				}
			}
			outcome, err := s.delete(ctx, app)
			if err == nil {
				done[i] = &outcome
			}
			return err
		}
	}
	failed, _ := schedule(ctx, tasks, s.opts.Parallel)
	var outcomes []Outcome
	for _, o := range done {
		if o != nil {
			outcomes = append(outcomes, *o)
		}
	}
	return outcomes, joined(ctx, failed)
}

func (s *session) delete(ctx context.Context, i Installed) (Outcome, error) {
	outcome := Outcome{Bundle: i.Bundle, App: i.App, Version: i.Version, Layer: i.Layer}
	return s.track(ctx, "delete", Deleting, outcome, func(told *messages) (Changes, Phase, error) {
		found, err := s.engine.delete(ctx, i.App, hooks{told: told})
		return Count(found.changes), Deleted, err
	})
}
