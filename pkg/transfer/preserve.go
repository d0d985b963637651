package transfer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/errdef"

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
		// Somebody else may have published in the meantime.
		if _, err := p.checkChartTag(ctx, at, image); err != nil {
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

// checkChartTags returns the tags of charts that a copy to upstream names moves to other content. A published version
// of a chart stays as it is, as that of a bundle: it returns [*MovedTagError] unless the options allow that.
func (p *Plan) checkChartTags(ctx context.Context) (moved []*MovedTagError, err error) {
	charts, err := p.listCharts()
	if err != nil {
		return nil, err
	}
	for _, chart := range charts {
		at, err := p.options.Preserve(ctx, UpstreamPath(chart.repository))
		if err != nil {
			return nil, err
		}
		found, err := p.checkChartTag(ctx, at, chart)
		if err != nil {
			return nil, err
		}
		moved = append(moved, found...)
	}
	return moved, nil
}

// listCharts returns the charts among the upstream images. What two bundles have as one version of a chart cannot be
// both.
func (p *Plan) listCharts() (charts []*upstreamImage, err error) {
	taken := map[string]*upstreamImage{}
	for _, image := range p.upstreamImages() {
		if _, isChart := bundle.ChartRepository(image.repository); !isChart {
			continue
		}
		for _, tag := range image.tags {
			called := UpstreamPath(image.repository) + ":" + tag
			if first := taken[called]; first != nil && first != image {
				return nil, fmt.Errorf("%s is %s in one bundle and %s in another: give one of them another version, or copy without the names of images and charts",
					called, first.desc.Digest, image.desc.Digest)
			}
			taken[called] = image
		}
		charts = append(charts, image)
	}
	return charts, nil
}

// checkChartTag returns the tags of a chart that move at its repository; none of an image.
func (p *Plan) checkChartTag(ctx context.Context, at oras.GraphTarget, image *upstreamImage) (moved []*MovedTagError, err error) {
	if _, isChart := bundle.ChartRepository(image.repository); !isChart {
		return nil, nil
	}
	for _, tag := range image.tags {
		desc, err := at.Resolve(ctx, tag)
		if errors.Is(err, errdef.ErrNotFound) || err == nil && desc.Digest == image.desc.Digest {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("target %s: resolve tag %s: %w", storeName(at), tag, err)
		}
		found := &MovedTagError{Target: storeName(at), Tag: tag}
		found.Is = bundle.Release{Name: "chart " + path.Base(image.repository.RepositoryStr()), Version: tag, Digest: desc.Digest}
		found.New = found.Is
		found.New.Digest = image.desc.Digest
		if !p.options.MoveTags {
			return nil, found
		}
		moved = append(moved, found)
	}
	return moved, nil
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
