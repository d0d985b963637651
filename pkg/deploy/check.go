package deploy

import (
	"context"

	kappres "carvel.dev/kapp/pkg/kapp/resources"
	"github.com/opencontainers/go-digest"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/deploy/preflight"
	"krtpkg.dev/krtpkg/pkg/resources"
)

// CheckOptions are for Check and Plan. The zero value works.
type CheckOptions struct {
	Options
	// Skip are checks not to do, of [preflight.Checks].
	Skip []string
	// Images are those that the runtime's pods run, with their platforms.
	Images []preflight.Image
	// TakeOver and DeleteForeign are as in [ApplyOptions].
	TakeOver, DeleteForeign bool
}

// Check looks whether the cluster is ready for a runtime, without what depends on its
// resources' differences ([Cluster.Plan] looks at these, too). It writes nothing.
func (c *Cluster) Check(ctx context.Context, rt Runtime, opts CheckOptions) ([]preflight.Finding, error) {
	s, err := c.newSession(ctx, rt, opts.Options)
	if err != nil {
		return nil, err
	}
	return s.runChecks(ctx, opts)
}

// CheckRelease holds a release against what the cluster has recorded of a runtime, by the release's name. It is one of the
// checks of [Cluster.Check], for those who have to know before they render anything. It writes nothing.
func (c *Cluster) CheckRelease(ctx context.Context, release bundle.Release) ([]preflight.Finding, error) {
	r, err := c.records().Read(ctx, release.Name)
	if err != nil {
		return nil, err
	}
	return preflight.FindDowngrade(r.Revisions, release), nil
}

func (s *session) runChecks(ctx context.Context, opts CheckOptions) ([]preflight.Finding, error) {
	served, err := s.servedKinds(ctx)
	if err != nil {
		return nil, err
	}
	cluster := preflight.Cluster{
		Client: s.cluster.client, Server: s.cluster.Server(), Namespace: s.cluster.namespace, Served: served, Records: s.cluster.records(),
	}
	runtime := preflight.Runtime{
		Release:   bundle.Release{Name: s.runtime.Name, Version: s.runtime.Version, Digest: digest.Digest(s.runtime.Digest)},
		HasValues: len(s.runtime.Values) > 0, Revisions: s.record.Revisions, IsInstalled: len(s.allInstalled()) > 0,
	}
	for _, j := range s.jobs {
		b := preflight.Bundle{Name: j.newOutcome().Bundle, Version: j.unit.Version, Kubernetes: j.unit.Kubernetes, Read: j.readManifests}
		if j.was != nil {
			b.Installed = j.was.Version
		}
		runtime.Bundles = append(runtime.Bundles, b)
	}
	return preflight.FindProblems(ctx, cluster, runtime, preflight.Options{Skip: opts.Skip, Images: opts.Images})
}

// readManifests returns the resources of a bundle, and the kinds that it defines.
func (j job) readManifests() ([]kappres.Resource, []resources.Definition, error) {
	all, err := readResources(j.unit.Manifests)
	var defined []resources.Definition
	if err == nil {
		defined, err = resources.ReadDefinitions(all)
	}
	if err != nil {
		return nil, nil, &Error{Op: "read", Bundle: j.newOutcome().Bundle, Layer: j.unit.Layer, Err: err}
	}
	return all, defined, nil
}
