package transfer

import (
	"cmp"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/layout"
)

// NodeArchive are the images of one bundle for nodes that have no registry to pull them from.
type NodeArchive struct {
	// Bundle is the bundle's name and version, Digest that of the bundle.
	Bundle bundle.Metadata
	Digest digest.Digest
	// Contents are its images on the platforms of the plan, by the names that pods have for them: the origin's, with the
	// digest of the lock, and with the tag if there is one. containerd keeps images under exactly these names.
	Contents archive.Contents
	// Images are the images with the names, in the order of the names.
	Images []NodeImage
}

// NodeImage is an image by one of its names.
type NodeImage struct {
	// Registry, Repository and Tag are the name; the tag is empty for the name with the digest.
	Registry, Repository, Tag string
	Descriptor                ocispec.Descriptor
}

// Name returns the name by which containerd knows the image.
func (i NodeImage) Name() string {
	if i.Tag != "" {
		return i.Registry + "/" + i.Repository + ":" + i.Tag
	}
	return i.Registry + "/" + i.Repository + "@" + i.Descriptor.Digest.String()
}

// NodeArchives returns the images of each bundle that has some, in the order of the bundles' names. What two bundles
// share is in both, so that an update of one changes no other. Two builds of a version are two archives.
func (p *Plan) NodeArchives() []NodeArchive {
	var all []NodeArchive
	for _, r := range p.roots {
		found := map[digest.Digest]ocispec.Descriptor{}
		for _, image := range r.images {
			found[digest.Digest(image.image.DigestStr())] = image.desc
		}
		for _, b := range r.opened {
			if b.Bundle == nil || len(b.Images) == 0 {
				continue
			}
			a := NodeArchive{Bundle: b.Bundle.Metadata, Digest: b.Descriptor.Digest}
			for _, locked := range b.Images {
				desc := found[digest.Digest(locked.Image.DigestStr())]
				// What a render names an image, and what its author called it, differ where it was locked from a mirror.
				a.addName(NodeImage{UpstreamRegistry(locked.Image.Context()), locked.Image.Context().RepositoryStr(), "", desc})
				repository, tag := locked.CalledBy()
				a.addName(NodeImage{UpstreamRegistry(repository), repository.RepositoryStr(), "", desc})
				if tag != "" {
					a.addName(NodeImage{UpstreamRegistry(repository), repository.RepositoryStr(), tag, desc})
				}
			}
			slices.SortFunc(a.Images, func(x, y NodeImage) int { return strings.Compare(x.Name(), y.Name()) })
			a.Contents = p.nodeContents(r, a.Images)
			all = append(all, a)
		}
	}
	slices.SortFunc(all, func(x, y NodeArchive) int {
		return cmp.Or(strings.Compare(x.Bundle.Name, y.Bundle.Name), strings.Compare(x.Bundle.Version, y.Bundle.Version), cmp.Compare(x.Digest, y.Digest))
	})
	return slices.CompactFunc(all, func(x, y NodeArchive) bool { return x.Digest == y.Digest }) // a runtime and a bundle of it
}

func (a *NodeArchive) addName(image NodeImage) {
	if !slices.ContainsFunc(a.Images, func(known NodeImage) bool { return known.Name() == image.Name() }) {
		a.Images = append(a.Images, image)
	}
}

// nodeContents returns images with everything that they need, by their names.
func (p *Plan) nodeContents(r *planRoot, images []NodeImage) archive.Contents {
	c := archive.Contents{}
	depths := map[digest.Digest]int{}
	seen := map[digest.Digest]bool{}
	var add func(d digest.Digest)
	add = func(d digest.Digest) {
		n := p.nodes[d]
		if n == nil || seen[d] {
			return
		}
		seen[d] = true
		if n.data == nil {
			c.Blobs = append(c.Blobs, n.desc)
			return
		}
		p.manifestDepth(d, depths)
		c.Manifests = append(c.Manifests, n.desc)
		for _, next := range n.required {
			add(next.Digest)
		}
	}
	for _, image := range images {
		named := archive.NameDescriptor(image.Descriptor, image.Name(), image.Name())
		if len(r.platforms) > 0 {
			named.Annotations[layout.AnnotationPlatforms] = strings.Join(r.platforms, ",")
		}
		c.Named = append(c.Named, named)
		add(image.Descriptor.Digest)
	}
	archive.SortBlobs(c.Blobs)
	slices.SortFunc(c.Manifests, func(a, b ocispec.Descriptor) int {
		return cmp.Or(cmp.Compare(depths[a.Digest], depths[b.Digest]), cmp.Compare(a.Digest, b.Digest))
	})
	return c
}
