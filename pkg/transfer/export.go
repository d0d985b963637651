package transfer

import (
	"cmp"
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/layout"
	"krtpkg.dev/krtpkg/pkg/progress"
)

// ArchiveContents returns the plan as the contents of an archive, without the blobs that has reports.
// base names the roots that the site has, references with digests. The result depends on the roots
// and what is attached to them, and not on their location.
//
// Roots are named by their tags, images by the references of the locks, so that an archive is
// an image mirror too. Manifests, bundles and their signatures are always included: they are small,
// and with them the archive can be verified and read without the site.
func (p *Plan) ArchiveContents(has func(digest.Digest) bool, base []string) archive.Contents {
	c := archive.Contents{Named: p.namedEntries(), Base: base}
	front := archive.ListFront(c.Named, func(yield func(digest.Digest, []byte) bool) {
		for d, n := range p.nodes {
			if n.data != nil && !yield(d, n.data) {
				return
			}
		}
	})
	first := map[digest.Digest]bool{}
	for _, desc := range front {
		first[desc.Digest] = true
	}
	for d, n := range p.nodes {
		switch {
		case n.data != nil:
		case first[d]:
			c.Front = append(c.Front, n.desc)
		case has == nil || !has(d):
			c.Blobs = append(c.Blobs, n.desc)
		}
	}
	archive.SortBlobs(c.Front)
	archive.SortBlobs(c.Blobs)
	depths := map[digest.Digest]int{}
	for d, n := range p.nodes {
		if n.data != nil {
			p.manifestDepth(d, depths)
			c.Manifests = append(c.Manifests, n.desc)
		}
	}
	slices.SortFunc(c.Manifests, func(a, b ocispec.Descriptor) int {
		return cmp.Or(cmp.Compare(depths[a.Digest], depths[b.Digest]), cmp.Compare(a.Digest, b.Digest))
	})
	return c
}

// manifestDepth returns how deep manifests are nested.
func (p *Plan) manifestDepth(d digest.Digest, known map[digest.Digest]int) int {
	n := p.nodes[d]
	if n == nil || n.data == nil {
		return 0
	}
	if depth, ok := known[d]; ok {
		return depth
	}
	depth := 1
	for _, next := range n.required {
		depth = max(depth, p.manifestDepth(next.Digest, known)+1)
	}
	known[d] = depth
	return depth
}

// namedEntries returns the entries of index.json: manifests with a name and those with a subject.
func (p *Plan) namedEntries() (entries []ocispec.Descriptor) {
	seen := map[string]bool{}
	add := func(d ocispec.Descriptor) {
		if key := d.Digest.String() + d.Annotations[ocispec.AnnotationRefName]; !seen[key] {
			seen[key] = true
			entries = append(entries, d)
		}
	}
	for _, r := range p.roots {
		if r.artifact == nil {
			continue // an image that is copied under its upstream name
		}
		for _, tag := range r.Tags {
			title := cmp.Or(r.title(), "bundle")
			named := archive.NameDescriptor(r.desc, tag, title+":"+tag)
			if len(r.platforms) > 0 {
				named.Annotations[layout.AnnotationPlatforms] = strings.Join(r.platforms, ",")
			}
			add(named)
		}
		if r.closure.Digest != "" {
			closure := r.closure
			closure.ArtifactType = closureType
			add(closure)
		}
		for _, image := range r.images {
			if image.cargo != "" {
				continue // the closure names it: containerd would take it for an image
			}
			// containerd finds images by their full names alone, and what is pinned by its digest.
			repository, tag := image.locked().CalledBy()
			full := UpstreamRegistry(repository) + "/" + repository.RepositoryStr()
			written, _, pinned := strings.Cut(image.reference, "@")
			if tag != "" {
				add(archive.NameDescriptor(image.desc, written, full+":"+tag))
			}
			if pinned {
				pin := full + "@" + image.image.DigestStr()
				add(archive.NameDescriptor(image.desc, pin, pin))
			}
		}
	}
	for _, a := range p.attached {
		if a.tag != "" {
			add(archive.NameDescriptor(bareDescriptor(a.desc), a.tag, ""))
		} else {
			add(p.describeReferrer(a.desc))
		}
	}
	slices.SortFunc(entries, func(a, b ocispec.Descriptor) int {
		return cmp.Or(cmp.Compare(a.Annotations[ocispec.AnnotationRefName], b.Annotations[ocispec.AnnotationRefName]), cmp.Compare(a.Digest, b.Digest))
	})
	return entries
}

// describeReferrer describes a referrer by its manifest instead of a listing.
func (p *Plan) describeReferrer(desc ocispec.Descriptor) ocispec.Descriptor {
	listed, err := layout.DescribeReferrer(bareDescriptor(desc), p.nodes[desc.Digest].data)
	if err != nil || listed == nil {
		return bareDescriptor(desc) // cannot happen: it was parsed before
	}
	listed.Annotations = maps.Clone(listed.Annotations)
	delete(listed.Annotations, ocispec.AnnotationRefName) // would be a tag
	return *listed
}

// title returns the title that a root gives itself.
func (r *planRoot) title() string { return r.artifact.Manifest.Annotations[ocispec.AnnotationTitle] }

// Names returns the names of the roots, independent of their location: NAME:TAG@DIGEST.
func (p *Plan) Names() []string {
	names := make([]string, len(p.roots))
	for i, r := range p.roots {
		names[i] = cmp.Or(r.title(), "bundle")
		if len(r.Tags) > 0 && r.Tags[0] != "" {
			names[i] += ":" + r.Tags[0]
		}
		names[i] += "@" + r.desc.Digest.String()
	}
	return names
}

// Difference compares a plan with a target.
type Difference struct {
	// Items and Bytes count the whole plan, ThereItems and ThereBytes the part that the target has.
	Items, ThereItems int
	Bytes, ThereBytes int64
	// MadeItems count the layers that would be made from published deltas, MadeBytes is their size and
	// DeltaBytes that of the deltas.
	MadeItems, MadeBytes, DeltaBytes int64
}

// Compare compares the plan with the content of a target. It writes nothing.
func (p *Plan) Compare(ctx context.Context, dst oras.GraphTarget) (*Difference, error) {
	c := newCopier(p, dst)
	c.isCompared = true
	tops := c.topManifests()
	if err := c.findPresent(ctx, tops); err != nil {
		return nil, err
	}
	d := &Difference{Items: len(p.nodes), Bytes: p.Size()}
	err := c.forEach(ctx, c.lackingItems(tops, false), func(ctx context.Context, t topManifest) error {
		there, err := dst.Exists(ctx, t.desc)
		if err == nil && there {
			c.markPresent(t.desc)
		}
		if err != nil || there {
			return err
		}
		if made := c.findDelta(ctx, c.nodes[t.desc.Digest]); made != nil {
			atomic.AddInt64(&d.MadeItems, 1)
			atomic.AddInt64(&d.MadeBytes, t.desc.Size)
			atomic.AddInt64(&d.DeltaBytes, made.Blob.Size)
		}
		return nil
	})
	for digest, n := range p.nodes {
		if c.present[digest] {
			d.ThereItems++
			d.ThereBytes += n.desc.Size
		}
	}
	return d, err
}

// CheckContent reads every item of the plan and verifies its digest. What is missing or damaged is an [*ItemError]
// each; it reads on after them, so that all are found at once.
func (p *Plan) CheckContent(ctx context.Context) (items int, bytes int64, err error) {
	p.options.Progress.Emit(progress.Event{Kind: progress.Planned, Items: len(p.nodes), Bytes: p.Size()})
	var mu sync.Mutex
	var found []error
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(p.options.Concurrency)
	for _, n := range p.nodes {
		bytes += n.desc.Size
		group.Go(func() error {
			if err := p.checkItem(ctx, n); err != nil {
				if !errors.Is(err, errdef.ErrNotFound) && !errors.Is(err, content.ErrMismatchedDigest) {
					return p.itemError(n, err)
				}
				mu.Lock()
				defer mu.Unlock()
				found = append(found, p.itemError(n, err))
				return nil
			}
			p.options.Progress.Emit(progress.Event{Kind: progress.Copied, Subject: n.desc.Digest.String(), Bytes: n.desc.Size})
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return 0, 0, err
	}
	slices.SortFunc(found, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	return len(p.nodes), bytes, errors.Join(found...)
}

func (p *Plan) checkItem(ctx context.Context, n *planNode) error {
	if n.data != nil {
		return nil // read and verified for the plan
	}
	event := progress.Event{Kind: progress.Began, Subject: n.desc.Digest.String(), Detail: p.describeItem(n.desc.Digest), Bytes: n.desc.Size}
	p.options.Progress.Emit(event)
	event.Kind = progress.Moved
	moved := int64(0)
	return withRetries(ctx, func() error {
		if event.Bytes = -moved; moved > 0 {
			p.options.Progress.Emit(event) // it is read again
		}
		moved = 0
		return readWhole(ctx, n, func(bytes int) {
			moved, event.Bytes = moved+int64(bytes), int64(bytes)
			p.options.Progress.Emit(event)
		})
	})
}

// readWhole reads an item, tells how much has arrived, and verifies its digest.
func readWhole(ctx context.Context, n *planNode, arrived func(bytes int)) error {
	body, err := n.from.Fetch(ctx, n.desc)
	if err != nil {
		return err
	}
	defer body.Close()
	verified := content.NewVerifyReader(body, n.desc)
	if _, err := io.CopyBuffer(countingWriter(arrived), verified, make([]byte, 256<<10)); err != nil {
		return err
	}
	return verified.Verify()
}

// countingWriter drops what is written and tells how much it was.
type countingWriter func(bytes int)

func (w countingWriter) Write(p []byte) (int, error) {
	w(len(p))
	return len(p), nil
}
