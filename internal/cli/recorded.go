package cli

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/trust"
)

// mixedUpError reports a repository that gave a cluster the runtime of its name, and has another one now.
type mixedUpError struct{ repository, name, recorded string }

func (e *mixedUpError) Error() string {
	return fmt.Sprintf("%s is now %s, but the cluster has %s from there", e.repository, e.name, e.recorded)
}

func (e *mixedUpError) Is(target error) bool { return target == trust.ErrRefused }

// checkRecord holds what a reference leads to against what the cluster has recorded: a repository that
// is called as the runtime that came from it gives no other one, unless --expect-name says so, and
// another build of a version is noted.
func (a *app) checkRecord(ctx context.Context, cluster *deploy.Cluster, p *preparedRoot, rt deploy.Runtime, expected string) error {
	if !p.IsRegistry() {
		return nil
	}
	name, base := p.set.Name(), path.Base(p.Repository)
	if name != base && name != expected {
		history, err := cluster.History(ctx, base)
		if err != nil && !errors.Is(err, deploy.ErrNotInstalled) {
			return err
		}
		for _, r := range history {
			if repository, _, _ := strings.Cut(r.Reference, "@"); repository == p.Repository {
				return &mixedUpError{p.Repository, name, base}
			}
		}
	}
	history, err := cluster.History(ctx, rt.Name)
	if err != nil && !errors.Is(err, deploy.ErrNotInstalled) {
		return err
	}
	for _, r := range history {
		if r.Version == rt.Version && r.Digest != rt.Digest {
			a.ui.Note("note: %s %s was %s when revision %d was applied: this is another build", rt.Name, rt.Version, r.Digest, r.Number)
			break
		}
	}
	return nil
}
