package cli

import (
	"context"

	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/site"
)

// checkRecord compares a runtime of a registry with what the cluster has recorded, and notes another build of
// a version.
func (a *app) checkRecord(ctx context.Context, cluster *deploy.Cluster, p *preparedRoot, rt deploy.Runtime, expected string) error {
	if !p.IsRegistry() {
		return nil
	}
	other, err := site.CheckRecord(ctx, cluster, rt, p.Repository, p.set.Name(), expected)
	if other != nil {
		a.ui.Note("note: %s %s was %s when revision %d was applied: this is another build", rt.Name, other.Version, other.Digest, other.Number)
	}
	return err
}
