package deploy

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// DeleteOptions are for Delete. The zero value works.
type DeleteOptions struct {
	Options
}

// Delete deletes all bundles of a runtime, the last applied first, and waits until the
// resources of each are gone before it goes on. Whatever of them is on the cluster counts,
// also after an Apply that failed. If there is nothing it returns ErrNotInstalled.
//
// Errors, the end of ctx and the report are as with Apply.
func (c *Cluster) Delete(ctx context.Context, name string, opts DeleteOptions) (*Report, error) {
	report := &Report{Runtime: name}
	if name == "" {
		return report, fmt.Errorf("delete: no name given")
	}
	installed, err := c.List(ctx, name)
	if err != nil {
		return report, err
	}
	if len(installed) == 0 {
		return report, fmt.Errorf("%s, namespace %s: %w", name, c.namespace, ErrNotInstalled)
	}
	report.Deleted, err = c.newSession(opts.Options).deleteAll(ctx, installed, name)
	return report, err
}

// deleteAll deletes apps in reverse order, after one question about all of them.
func (s *session) deleteAll(ctx context.Context, apps []Installed, what string) ([]Outcome, error) {
	if len(apps) == 0 {
		return nil, nil
	}
	apps = slices.Clone(apps)
	slices.Reverse(apps)
	mode, err := s.confirm(ctx, func() (Changes, error) {
		return s.previewDelete(ctx, apps)
	}, func(changes Changes) string {
		names := make([]string, len(apps))
		for n, i := range apps {
			names[n] = i.Bundle
		}
		return fmt.Sprintf("delete %s: bundles %s; %d resources", what, strings.Join(names, ", "), changes.Delete)
	})
	if err != nil {
		return nil, fmt.Errorf("delete %s: %w", what, err)
	}
	var done []Outcome
	for _, i := range apps {
		outcome, err := s.delete(ctx, i, mode)
		if err != nil {
			return done, err
		}
		done = append(done, outcome)
	}
	return done, nil
}

func (s *session) previewDelete(ctx context.Context, apps []Installed) (Changes, error) {
	var all Changes
	for _, i := range apps {
		changes, err := s.engine.delete(ctx, i.App, preview)
		if err != nil {
			return all, &Error{Op: "delete", Bundle: i.Bundle, Layer: i.Layer, Err: err}
		}
		all = all.add(changes)
	}
	return all, nil
}

func (s *session) delete(ctx context.Context, i Installed, mode mode) (Outcome, error) {
	outcome := Outcome{Bundle: i.Bundle, App: i.App, Version: i.Version, Layer: i.Layer}
	return s.track("delete", Deleting, outcome, func() (Changes, Phase, error) {
		changes, err := s.engine.delete(ctx, i.App, mode)
		return changes, Deleted, err
	})
}
