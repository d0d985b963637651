package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"krtpkg.dev/krtpkg/internal/place"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/deploy/preflight"
)

// importFirst brings an archive to a registry, and makes the same root there the one to apply. What the clusters would
// refuse is refused before anything is written.
func (a *app) importFirst(ctx context.Context, p *preparedRoot, clusters []*deploy.Cluster, o *applyOptions) error {
	if err := a.refuseDowngrades(ctx, p, clusters, o); err != nil {
		return err
	}
	f := transferFlags{concurrency: 4, trust: o.site.trust, moveTags: o.site.allowDowngrade}
	target := strings.TrimSuffix(o.registry, "/") + "/" + p.set.Name()
	options, err := a.transferOptions(ctx, &f, "import")
	if err != nil {
		return err
	}
	options.Origins = nil
	to, err := place.Parse(target)
	if err != nil {
		return &usageError{err}
	}
	client, err := a.newClient()
	if err != nil {
		return err
	}
	dst, err := to.Create(ctx, client)
	if err != nil {
		return err
	}
	volumes, err := a.findVolumes(ctx, []string{p.File})
	if err != nil {
		return err
	}
	imported, err := a.importFrom(ctx, volumes, dst, options)
	if err != nil {
		return fmt.Errorf("import %s: %w", nameArchives(volumes), err)
	}
	a.ui.EndProgress(nil)
	if len(imported.Absent) > 0 {
		return fmt.Errorf("import %s: %w", p.File, imported.AbsentError())
	}
	a.ui.Say("imported %s to %s", p.File, target)
	if p.openedReference, err = a.openReference(ctx, target+"@"+p.root.Digest.String()); err != nil {
		return err
	}
	p.set, err = a.openSet(ctx, p.openedReference)
	return err
}

// refuseDowngrades returns an error if clusters have a newer version or another build, more of them than may be unavailable. A
// cluster of several that does not answer fails later, by itself.
func (a *app) refuseDowngrades(ctx context.Context, p *preparedRoot, clusters []*deploy.Cluster, o *applyOptions) error {
	if o.site.allowDowngrade || slices.Contains(o.site.skip, preflight.CheckDowngrade) {
		return nil
	}
	release := bundle.Release{Name: p.deployedName(), Version: p.set.Root.Metadata().Version, Digest: p.root.Digest}
	var refused []error
	for i, cluster := range clusters {
		findings, err := cluster.CheckRelease(ctx, release)
		if len(o.fleet.contexts) == 0 {
			if err != nil {
				return err
			}
			return refuseDowngrade(findings)
		}
		if err := refuseDowngrade(findings); err != nil {
			refused = append(refused, fmt.Errorf("cluster %s: %w", o.fleet.contexts[i], err))
		}
	}
	if len(refused) > o.fleet.maxUnavailable {
		return errors.Join(refused...)
	}
	return nil
}
