package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"oras.land/oras-go/v2"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/deploy/preflight"
	"krtpkg.dev/krtpkg/pkg/registry"
	"krtpkg.dev/krtpkg/pkg/render"
	"krtpkg.dev/krtpkg/pkg/site"
)

// renderSet renders every bundle, and prints the notes of it.
func (a *app) renderSet(ctx context.Context, set *bundle.Set, values *render.Values, images *site.Images) (*site.Rendered, error) {
	rendered, err := site.Render(ctx, set, values, images)
	if err != nil {
		return nil, err
	}
	for _, b := range rendered.Bundles {
		for _, note := range b.Notes {
			a.ui.Note("note: %s: %s", b.Metadata().Name, note)
		}
	}
	return rendered, nil
}

// locateImages finds out where the images are, and names those that a cluster pulls from their origin.
func (a *app) locateImages(ctx context.Context, at *openedReference, set *bundle.Set) (*site.Images, error) {
	repository := ""
	if at.IsRegistry() {
		repository = at.Repository
	}
	images, err := site.LocateImages(ctx, at.store, repository, set)
	if err != nil {
		return nil, err
	}
	for _, image := range images.AtOrigin() {
		a.ui.Note("note: image %s is not in %s: the cluster pulls it from its origin", image.Name(), at.Repository)
	}
	return images, nil
}

// probeImages finds out which images are where the cluster would pull them from, with its logins before this user's.
func (a *app) probeImages(ctx context.Context, p *preparedRoot, secrets []deploy.PullSecret) ([]preflight.Image, []preflight.Finding, error) {
	var (
		logins [][]byte
		unread []preflight.Finding
	)
	for _, s := range secrets {
		if err := registry.CheckLogin(s.Config); err != nil {
			unread = append(unread, preflight.Finding{Severity: preflight.SeverityWarning, Check: preflight.CheckImages,
				Message: fmt.Sprintf("pull secret %s in namespace %s cannot be read: %v", s.Name, s.Namespace, err)})
			continue
		}
		logins = append(logins, s.Config)
	}
	client, err := a.clientWith(logins)
	if err != nil {
		return nil, nil, err
	}
	images, findings, err := p.images.Probe(ctx, p.set, site.ProbeOptions{
		Open: func(ctx context.Context, repository string) (oras.ReadOnlyTarget, error) {
			return client.Repository(ctx, repository)
		},
		RanBefore: p.ranBefore, IsArchive: p.File != "",
	})
	findings = append(findings, unread...)
	slices.SortFunc(findings, func(a, b preflight.Finding) int { return cmp.Compare(a.Message, b.Message) })
	return images, findings, err
}
