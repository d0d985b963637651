package transfer

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"

	"krtpkg.dev/krtpkg/pkg/bundle"
)

// UpstreamPath returns the path of an image's repository in a mirror that keeps upstream names: the
// registry as the first part of the path, with _ for the : before a port. Charts are below charts/.
func UpstreamPath(repository name.Repository) string {
	if path, is := bundle.ChartRepository(repository); is {
		return path
	}
	return strings.ReplaceAll(UpstreamRegistry(repository), ":", "_") + "/" + repository.RepositoryStr()
}

// UpstreamRegistry returns a repository's registry as it is spelled in references.
func UpstreamRegistry(repository name.Repository) string {
	if registry := repository.RegistryStr(); registry != name.DefaultRegistry {
		return registry
	}
	return "docker.io"
}

// preserveNames copies every image, with what is attached to it, to its upstream name at the target.
// Everything is at the target already, so a registry mounts it.
func (p *Plan) preserveNames(ctx context.Context, dst oras.GraphTarget) error {
	nodes := map[digest.Digest]*planNode{}
	for d, n := range p.nodes {
		there := *n
		there.from = dst
		nodes[d] = &there
	}
	for _, image := range p.upstreamImages() {
		at, err := p.options.Preserve(ctx, UpstreamPath(image.repository))
		if err != nil {
			return err
		}
		sub := &Plan{
			options: p.options, platforms: p.platforms, nodes: maps.Clone(nodes),
			roots: []*planRoot{{desc: image.desc, Source: Source{Tags: image.tags}}},
		}
		sub.options.Progress = nil
		for _, a := range p.attached {
			if a.subject.Digest == image.desc.Digest {
				sub.attached = append(sub.attached, a)
			}
		}
		if err := newCopier(sub, at).copyPlan(ctx); err != nil {
			return fmt.Errorf("image %s: %w", image.repository, err)
		}
	}
	return nil
}

// upstreamImage is an image and its upstream repository.
type upstreamImage struct {
	desc       ocispec.Descriptor
	repository name.Repository
	tags       []string
}

// upstreamImages returns the images of all roots by repository and digest, in order.
func (p *Plan) upstreamImages() (list []*upstreamImage) {
	known := map[string]*upstreamImage{}
	for _, r := range p.roots {
		for _, n := range r.images {
			if bundle.IsFile(n.image) {
				continue // nobody asks for it by a name
			}
			repository, tag := n.locked().CalledBy()
			key := repository.Name() + "@" + n.desc.Digest.String()
			if known[key] == nil {
				known[key] = &upstreamImage{desc: n.desc, repository: repository}
				list = append(list, known[key])
			}
			if tag != "" {
				known[key].tags = append(known[key].tags, tag)
			}
		}
	}
	for _, image := range list {
		// Registries delete what has no tag.
		if len(image.tags) == 0 {
			image.tags = []string{"digest-" + image.desc.Digest.Encoded()}
		}
	}
	return list
}
