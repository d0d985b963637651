package transfer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/progress"
)

// pruneGraph is what the manifests of one repository or folder name. A manifest is known by its digest alone: what
// another one says of its type or size is not believed.
type pruneGraph struct {
	store   PruneStore
	stores  storeCache
	options PruneOptions
	budget  *oci.Budget
	// attachedTags are the entries under tags that name a subject, such as sha256-DIGEST.sig, by that subject.
	attachedTags map[digest.Digest][]pruneEntry

	mu    sync.Mutex
	nodes map[digest.Digest]*pruneNode
	// sizes are those of all content that a manifest names, in bytes.
	sizes map[digest.Digest]int64
}

// pruneEntry is a tag, or an entry of index.json without one.
type pruneEntry struct {
	tag  string
	desc ocispec.Descriptor
}

// pruneNode is a manifest and all that it names. Of a manifest that does not exist absent is set.
type pruneNode struct {
	desc   ocispec.Descriptor
	absent bool
	// manifests are named by its fields and, by digest alone, by its image lock; blobs are its config and layers.
	manifests, blobs []digest.Digest
	// expected are those that its fields say are manifests.
	expected []digest.Digest
	// isOpaque is set, with absent, for content that is here and cannot be read as a manifest.
	isOpaque bool
	// attached are its referrers, and what its tags hold.
	attached []digest.Digest
	subject  digest.Digest
	// unreadable is why its image lock cannot be read: it names more than is known.
	unreadable error

	artifactType  string
	name, version string
}

// memoryPerDigest is roughly the memory of a digest that a manifest names.
const memoryPerDigest = 64

// walk visits manifests, all that they name, and all that is attached to any of it. It adds to reached what it
// visits, with a label for what led there, and does not visit what was reached before. With a label each must be
// readable: what stays may name what would be deleted.
func (g *pruneGraph) walk(ctx context.Context, starts []digest.Digest, reached map[digest.Digest]string, label string) error {
	next := starts
	for len(next) > 0 {
		level := make([]digest.Digest, 0, len(next))
		for _, d := range next {
			if _, known := reached[d]; !known {
				reached[d] = label
				level = append(level, d)
			}
		}
		loaded := make([]*pruneNode, len(level))
		group, loading := errgroup.WithContext(ctx)
		group.SetLimit(g.options.Concurrency)
		for i, d := range level {
			group.Go(func() (err error) {
				loaded[i], err = g.load(loading, d)
				return err
			})
		}
		if err := group.Wait(); err != nil {
			return err
		}
		next = nil
		for _, n := range loaded {
			if n.unreadable != nil && label != "" {
				return fmt.Errorf("read the image lock of %s, which stays: %w", n.label(), n.unreadable)
			}
			next = append(next, n.manifests...)
			next = append(next, n.attached...)
			if label != "" && n.artifactType == bundle.TypeArgoCD && n.subject != "" {
				next = append(next, n.subject) // whose images it leads to
			}
		}
	}
	return nil
}

// load reads a manifest, once.
func (g *pruneGraph) load(ctx context.Context, d digest.Digest) (*pruneNode, error) {
	g.mu.Lock()
	n := g.nodes[d]
	g.mu.Unlock()
	if n != nil {
		return n, nil
	}
	n, err := g.readNode(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("read manifest %s: %w", d, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.nodes[d] = n
	return n, nil
}

func (g *pruneGraph) readNode(ctx context.Context, d digest.Digest) (*pruneNode, error) {
	n := &pruneNode{desc: ocispec.Descriptor{Digest: d}}
	desc, err := g.store.Resolve(ctx, d.String())
	switch {
	case errors.Is(err, errdef.ErrNotFound):
		// Something can be attached to what does not exist: a registry lists that, too.
		n.absent = true
		if folder, is := g.store.(folderPruner); is {
			_, err := folder.Stat(d)
			n.isOpaque = err == nil
		}
		if err := g.budget.Take(memoryPerNode); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	default:
		if err := g.readChildren(ctx, n, desc); err != nil {
			return nil, err
		}
	}
	return n, g.readAttached(ctx, n)
}

// readChildren reads what a manifest names, in whichever field: one whose type says image may list manifests.
func (g *pruneGraph) readChildren(ctx context.Context, n *pruneNode, desc ocispec.Descriptor) error {
	n.desc = bareDescriptor(desc)
	data, err := readManifest(ctx, g.store, desc)
	if err != nil {
		return err
	}
	m, err := oci.ParseManifest(data)
	if err != nil {
		return fmt.Errorf("invalid manifest: %w", err)
	}
	n.artifactType = m.ArtifactType
	n.name, n.version = m.Annotations[ocispec.AnnotationTitle], m.Annotations[ocispec.AnnotationVersion]
	if m.Subject != nil {
		n.subject = m.Subject.Digest
	}
	for _, next := range m.Manifests {
		n.manifests = append(n.manifests, next.Digest)
		if oci.IsManifest(next.MediaType) {
			n.expected = append(n.expected, next.Digest)
		}
	}
	for _, next := range m.Blobs() {
		if oci.IsManifest(next.MediaType) {
			n.expected = append(n.expected, next.Digest)
			n.manifests = append(n.manifests, next.Digest)
		}
		n.blobs = append(n.blobs, next.Digest)
	}
	locking := *m
	if m.ArtifactType == bundle.TypeArgoCD && len(m.Layers) == 1 {
		locking.ArtifactType = bundle.TypeRuntime // it has the same layer, with the same lock
	}
	lock, err := bundle.ReadLock(ctx, g.store, &locking)
	var refused *errcode.ErrorResponse
	var damaged *bundle.LockError
	if err != nil {
		isDamaged := errors.As(err, &damaged) // also if it ends too early, as a broken connection does
		err = fmt.Errorf("read its image lock: %w", err)
		if ctx.Err() != nil || !isDamaged && isBrokenConnection(err) || errors.As(err, &refused) {
			return err
		}
		n.unreadable = err
		g.options.Progress.Emit(progress.Event{Kind: progress.Note, Subject: n.label(), Detail: "is damaged: " + err.Error()})
	}
	for _, locked := range lock {
		n.manifests = append(n.manifests, digest.Digest(locked.Image.DigestStr()))
		n.expected = append(n.expected, digest.Digest(locked.Image.DigestStr()))
	}
	isInvalid := func(d digest.Digest) bool { return d.Validate() != nil } // names nothing that could exist
	n.manifests, n.blobs = slices.DeleteFunc(n.manifests, isInvalid), slices.DeleteFunc(n.blobs, isInvalid)
	return g.recordSizes(desc, append(slices.Clone(m.Manifests), m.Blobs()...), len(n.manifests)+len(n.blobs))
}

func (g *pruneGraph) recordSizes(desc ocispec.Descriptor, named []ocispec.Descriptor, references int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	added := 0
	for _, next := range named {
		if _, known := g.sizes[next.Digest]; !known && !oci.IsForeign(next) {
			g.sizes[next.Digest] = max(next.Size, 0)
			added++
		}
	}
	g.sizes[desc.Digest] = desc.Size
	return g.budget.Take(int64(added+1)*memoryPerNode + int64(references)*memoryPerDigest)
}

// readAttached finds what is attached to a manifest. Whoever lists a referrer is believed: a false one only leads to more
// that is looked at, and what stays or is named by what stays is never deleted.
func (g *pruneGraph) readAttached(ctx context.Context, n *pruneNode) error {
	for _, entry := range g.attachedTags[n.desc.Digest] {
		n.attached = append(n.attached, entry.desc.Digest)
	}
	if n.absent {
		return nil
	}
	referrers, err := g.stores.listReferrers(ctx, g.store, n.desc, true)
	if err != nil {
		return fmt.Errorf("list its referrers: %w", err)
	}
	for _, desc := range referrers {
		if desc.Digest.Validate() == nil {
			n.attached = append(n.attached, desc.Digest)
		}
	}
	return g.budget.Take(int64(len(n.attached)) * memoryPerDigest)
}

// isVersion reports whether a manifest is a bundle or a runtime.
func (n *pruneNode) isVersion() bool {
	return n.artifactType == bundle.TypeBundle || n.artifactType == bundle.TypeRuntime
}

// isAttachment reports whether a manifest of krtpkg belongs to its subject, whatever tag it has.
func (n *pruneNode) isAttachment() bool {
	switch n.artifactType {
	case bundle.TypeArgoCD, bundle.TypeClosure, bundle.TypeDeltas:
		return n.subject != ""
	}
	return false
}

// contentKey returns what the manifest of a version and its manifest for Argo CD have in common.
func (n *pruneNode) contentKey() string { return fmt.Sprint(n.blobs) }

// isSecondOf reports whether a manifest is that for Argo CD of a version.
func (n *pruneNode) isSecondOf(version *pruneNode) bool {
	return n.artifactType == bundle.TypeArgoCD && len(n.blobs) > 0 && version != nil && n.contentKey() == version.contentKey()
}

// label returns what to call a manifest.
func (n *pruneNode) label() string {
	if n.isVersion() && n.name != "" {
		return n.name + " " + n.version
	}
	return n.desc.Digest.String()
}

// attachedTag are tags that are made of a digest: the referrers of a manifest (distribution-spec v1.1, referrers tag
// schema), what cosign, imgpkg and krtpkg attach to it, and imgpkg's tag of the manifest itself.
var attachedTag = regexp.MustCompile(`^sha256-([0-9a-f]{64})(\.sig|\.att|\.sbom|\.closure|\.[0-9a-f]{12}|\.imgpkg|\.image-locations\.imgpkg)?$`)

// taggedSubject returns the digest that a tag is made of.
func taggedSubject(tag string) (digest.Digest, bool) {
	parts := attachedTag.FindStringSubmatch(tag)
	if parts == nil {
		return "", false
	}
	return digest.NewDigestFromEncoded(digest.SHA256, parts[1]), true
}

// suffixedTag are tags that other tools may make of a digest. They attach to what stays, but do not go with what goes.
var suffixedTag = regexp.MustCompile(`^sha256-([0-9a-f]{64})[^0-9a-f]`)

// suffixedSubject returns the digest that the tag of any tool is made of.
func suffixedSubject(tag string) (digest.Digest, bool) {
	parts := suffixedTag.FindStringSubmatch(tag)
	if parts == nil {
		return "", false
	}
	return digest.NewDigestFromEncoded(digest.SHA256, parts[1]), true
}

// listEntries lists the tags with what they name, and of a folder what index.json lists without a tag.
func (g *pruneGraph) listEntries(ctx context.Context) (entries []pruneEntry, err error) {
	tags, err := g.listTags(ctx)
	if err != nil {
		return nil, err
	}
	entries = make([]pruneEntry, len(tags))
	group, resolving := errgroup.WithContext(ctx)
	group.SetLimit(g.options.Concurrency)
	for i, tag := range tags {
		group.Go(func() error {
			desc, err := g.store.Resolve(resolving, tag)
			if errors.Is(err, errdef.ErrNotFound) {
				return nil // deleted since it was listed
			}
			if err != nil {
				return fmt.Errorf("resolve tag %s: %w", tag, err)
			}
			entries[i] = pruneEntry{tag, bareDescriptor(desc)}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if err := g.checkMissing(ctx, tags, entries); err != nil {
		return nil, err
	}
	entries = slices.DeleteFunc(entries, func(e pruneEntry) bool { return e.tag == "" })
	untagged, err := listUntagged(g.store)
	return append(entries, untagged...), err
}

// listTags lists the tags in order.
func (g *pruneGraph) listTags(ctx context.Context) (tags []string, err error) {
	err = g.store.Tags(ctx, "", func(page []string) error {
		if tags = append(tags, page...); len(tags) > maxTags {
			return errTooManyTags
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list tags: %w", err)
	}
	slices.Sort(tags)
	return slices.Compact(tags), nil
}

// checkMissing makes sure that the tags without an entry are not listed any more: what a tag names that the registry hides
// must not be deleted.
func (g *pruneGraph) checkMissing(ctx context.Context, tags []string, entries []pruneEntry) error {
	var missing []string
	for i, e := range entries {
		if e.tag == "" {
			missing = append(missing, tags[i])
		}
	}
	if len(missing) == 0 {
		return nil
	}
	again, err := g.listTags(ctx)
	if err != nil {
		return err
	}
	for _, tag := range missing {
		if _, isListed := slices.BinarySearch(again, tag); isListed {
			return fmt.Errorf("resolve tag %s: listed, but its manifest cannot be read: %w", tag, errdef.ErrNotFound)
		}
	}
	return nil
}

// listUntagged returns what index.json of a folder lists without a tag.
func listUntagged(store PruneStore) (entries []pruneEntry, err error) {
	folder, is := store.(interface {
		ListEntries() ([]ocispec.Descriptor, error)
	})
	if !is {
		return nil, nil
	}
	listed, err := folder.ListEntries()
	for _, desc := range listed {
		if desc.Annotations[ocispec.AnnotationRefName] == "" {
			entries = append(entries, pruneEntry{"", bareDescriptor(desc)})
		}
	}
	return entries, err
}

// namedBy returns every digest that the manifests of a set name, the set itself included.
func (g *pruneGraph) namedBy(reached map[digest.Digest]string) map[digest.Digest]bool {
	named := map[digest.Digest]bool{}
	for d := range maps.Keys(reached) {
		named[d] = true
		for _, list := range [][]digest.Digest{g.nodes[d].manifests, g.nodes[d].blobs, g.nodes[d].attached} {
			for _, next := range list {
				named[next] = true
			}
		}
	}
	return named
}

// sortParentsFirst orders manifests so that each comes before all that it names, and before all that is attached to it:
// a signature goes after what it signs. Of a closure, which names its subject, either goes first.
func (g *pruneGraph) sortParentsFirst(manifests map[digest.Digest]bool) []digest.Digest {
	var order []digest.Digest // children first
	seen := map[digest.Digest]bool{}
	type step struct {
		digest digest.Digest
		left   []digest.Digest
	}
	for _, start := range slices.Sorted(maps.Keys(manifests)) {
		if seen[start] {
			continue
		}
		seen[start] = true
		stack := []step{{start, g.nodes[start].namedAndAttached()}}
		for len(stack) > 0 {
			top := &stack[len(stack)-1]
			if len(top.left) == 0 {
				order = append(order, top.digest)
				stack = stack[:len(stack)-1]
				continue
			}
			next := top.left[0]
			top.left = top.left[1:]
			if manifests[next] && !seen[next] {
				seen[next] = true
				stack = append(stack, step{next, g.nodes[next].namedAndAttached()})
			}
		}
	}
	slices.Reverse(order)
	return order
}

func (n *pruneNode) namedAndAttached() []digest.Digest { return slices.Concat(n.manifests, n.attached) }

// argoCDTag returns the tag that the tag of an index for Argo CD follows.
func argoCDTag(tag string) (string, bool) { return strings.CutSuffix(tag, ".argocd") }
