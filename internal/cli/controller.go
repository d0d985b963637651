package cli

import (
	"context"
	"errors"
	"fmt"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/pkgrepo"
	"krtpkg.dev/krtpkg/pkg/site"
)

// checkFor refuses a runtime whose files for a controller differ from those that a build makes of its bundles.
func (a *app) checkFor(ctx context.Context, set *bundle.Set, c *site.Controller, allowAltered bool) error {
	err := c.CheckFiles(ctx, set)
	if altered := (*bundle.AlteredError)(nil); allowAltered && errors.As(err, &altered) {
		a.ui.Note("note: %v: %s applies it as it is", err, c.Title)
		return nil
	}
	return err
}

// leaveOut returns the bundles that a controller cannot apply; with allowed unset they are an error.
func (a *app) leaveOut(ctx context.Context, set *bundle.Set, c *site.Controller, allowed bool) ([]pkgrepo.LeftOut, error) {
	left, err := c.ListLeftOut(ctx, set)
	if err != nil {
		return nil, err
	}
	for _, l := range left {
		if !allowed {
			return nil, fmt.Errorf("%s is not for %s: %s; pass --leave-out to continue without it, and apply it with krtpkg apply --left-out-by %s",
				l.Bundle, c.Title, l.Reason, c.Name)
		}
		a.ui.Note("note: left out %s: %s", l.Bundle, l.Reason)
	}
	return left, nil
}

// deployedName returns the name by which the cluster knows what is applied.
func (p *preparedRoot) deployedName() string {
	switch {
	case p.leftOutBy != nil:
		return p.leftOutBy.LeftOutName(p.set.Name())
	case p.installedBy != nil:
		return p.installedBy.InstalledName(p.set.Name())
	}
	return p.set.Name()
}

// deployAs sets what of a prepared root the cluster knows by a name.
func (p *preparedRoot) deployAs(name string) error {
	if by := site.FindInstallingController(p.set.Name(), name); by != nil {
		return &usageError{fmt.Errorf("%s is applied by %s: to go back to an earlier version, use krtpkg packages install --apply --downgradable", name, by.Title)}
	}
	if by := site.FindLeftOutController(p.set.Name(), name); by != nil {
		p.leftOutBy = by
	}
	return nil
}
