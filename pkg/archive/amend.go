package archive

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/layout"
	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/progress"
)

// maxAdded limits what is attached at once, which is held in memory.
const maxAdded = 256 << 20

// Amendment is an archive to which signatures and attestations can be attached: a store that reads
// the archive, keeps writes in memory, and writes the archive again at the end, as an export of the
// same content would. It is not safe for concurrent use.
type Amendment struct {
	*Store
	file  string
	added map[digest.Digest][]byte
	// manifests are the added ones, tags the new names.
	manifests map[digest.Digest]ocispec.Descriptor
	tags      map[string]ocispec.Descriptor
	size      int64
	// before is the file as it was opened, or saved last.
	before os.FileInfo
}

// OpenAmendment opens an archive to attach to its content. It refuses a volume of several, which all
// have the same index, and archives that krtpkg did not make, which an export would write differently.
// It returns the errors of [Open].
func OpenAmendment(ctx context.Context, file string) (*Amendment, error) {
	// A link keeps pointing to the archive.
	file, err := filepath.EvalSymlinks(file)
	if err != nil {
		return nil, err
	}
	s, err := Open(ctx, file)
	if err != nil {
		return nil, err
	}
	was, err := s.files[0].Stat()
	if err != nil {
		return nil, closeAfterError(s, err)
	}
	if len(s.manifests) == 0 {
		return nil, closeAfterError(s, fmt.Errorf("archive %s was not made by krtpkg and cannot be changed: import it into a folder (oci:FOLDER), and attach there", file))
	}
	if s.Volumes() > 0 {
		return nil, closeAfterError(s, fmt.Errorf("archive %s is one of %d volumes with the same index: attach before splitting", file, s.Volumes()))
	}
	return &Amendment{
		Store: s, file: file, before: was, added: map[digest.Digest][]byte{},
		manifests: map[digest.Digest]ocispec.Descriptor{}, tags: map[string]ocispec.Descriptor{},
	}, nil
}

func closeAfterError(s *Store, err error) error {
	if closed := s.Close(); closed != nil {
		return closed
	}
	return err
}

// Fetch returns content of the archive, or what was added.
func (a *Amendment) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if data, ok := a.added[desc.Digest]; ok {
		return io.NopCloser(bytes.NewReader(data)), nil
	}
	return a.Store.Fetch(ctx, desc)
}

// Exists reports whether the archive has some content, or it was added.
func (a *Amendment) Exists(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	if _, ok := a.added[desc.Digest]; ok {
		return true, nil
	}
	return a.Store.Exists(ctx, desc)
}

// Push adds content, at most 256 MiB in all.
func (a *Amendment) Push(ctx context.Context, desc ocispec.Descriptor, r io.Reader) error {
	there, err := a.Exists(ctx, desc)
	if err == nil && there {
		return fmt.Errorf("%s: %w", desc.Digest, errdef.ErrAlreadyExists)
	}
	if a.size += desc.Size; err == nil && a.size > maxAdded {
		err = fmt.Errorf("%s: more than %d bytes to attach: %w", desc.Digest, maxAdded, errdef.ErrSizeExceedsLimit)
	}
	if err != nil {
		return err
	}
	data, err := content.ReadAll(r, desc)
	if err != nil {
		return fmt.Errorf("%s: %w", desc.Digest, err)
	}
	a.added[desc.Digest] = data
	if oci.IsManifest(desc.MediaType) {
		a.manifests[desc.Digest] = ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size}
	}
	return nil
}

// Tag sets a tag of a manifest in the archive.
func (a *Amendment) Tag(ctx context.Context, desc ocispec.Descriptor, reference string) error {
	there, err := a.Exists(ctx, desc)
	if err == nil && !there {
		err = fmt.Errorf("%s: %w", desc.Digest, errdef.ErrNotFound)
	}
	if err != nil {
		return err
	}
	if at, err := a.Store.Resolve(ctx, reference); err == nil && at.Digest == desc.Digest {
		delete(a.tags, reference) // it stays as it is there, with the name for containerd
	} else {
		a.tags[reference] = ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size}
	}
	return nil
}

// Resolve resolves a tag or a digest.
func (a *Amendment) Resolve(ctx context.Context, reference string) (ocispec.Descriptor, error) {
	if desc, ok := a.manifests[digest.Digest(reference)]; ok {
		return desc, nil
	}
	if desc, ok := a.tags[reference]; ok && digest.Digest(reference).Validate() != nil {
		return desc, nil
	}
	return a.Store.Resolve(ctx, reference)
}

// Predecessors lists the manifests whose subject a node is.
func (a *Amendment) Predecessors(ctx context.Context, node ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	all, err := a.Store.Predecessors(ctx, node)
	if err != nil {
		return nil, err
	}
	added, err := a.addedReferrers()
	return slices.Concat(all, added[node.Digest]), err
}

// AllReferrers returns the referrers of everything that is named, by their subjects.
func (a *Amendment) AllReferrers(ctx context.Context) (map[digest.Digest][]ocispec.Descriptor, error) {
	all, err := a.Store.AllReferrers(ctx)
	if err != nil {
		return nil, err
	}
	added, err := a.addedReferrers()
	for subject, referrers := range added {
		all[subject] = append(all[subject], referrers...)
	}
	return all, err
}

// addedReferrers returns the new ones, by their subjects.
func (a *Amendment) addedReferrers() (map[digest.Digest][]ocispec.Descriptor, error) {
	found := map[digest.Digest][]ocispec.Descriptor{}
	for d, desc := range a.manifests {
		m, err := parseNode(d, a.added[d])
		if err != nil {
			return nil, err
		}
		listed, err := layout.DescribeReferrer(desc, a.added[d])
		if err != nil {
			return nil, err
		}
		if listed != nil {
			found[m.Subject.Digest] = append(found[m.Subject.Digest], *listed)
		}
	}
	return found, nil
}

// Tags lists the tags in order.
func (a *Amendment) Tags(ctx context.Context, last string, fn func([]string) error) error {
	return a.Store.Tags(ctx, last, func(tags []string) error {
		all := slices.Concat(tags, slices.Collect(maps.Keys(a.tags)))
		slices.Sort(all)
		return fn(slices.Compact(all))
	})
}

// Save writes the archive again if anything was attached. The file has its old content until the
// new one is whole; an interrupted attempt is resumed.
func (a *Amendment) Save(ctx context.Context, report progress.Func) (changed bool, err error) {
	if len(a.added)+len(a.tags) == 0 {
		return false, nil
	}
	c, err := a.mergedContents(ctx)
	if err != nil {
		return false, fmt.Errorf("archive %s: %w", a.file, err)
	}
	items, size := len(c.Manifests)+len(c.Front)+len(c.Blobs), int64(0)
	for _, d := range slices.Concat(c.Manifests, c.Front, c.Blobs) {
		size += d.Size
	}
	report.Emit(progress.Event{Kind: progress.Planned, Items: items, Bytes: size})
	if _, err := writeFile(ctx, a.file, c, a, Options{Progress: report}, a.checkUnchanged); err != nil {
		return false, err
	}
	a.before, err = os.Stat(a.file)
	return true, err
}

// checkUnchanged returns an error if the file was changed since it was read: what someone else has
// attached would be lost.
func (a *Amendment) checkUnchanged() error {
	now, err := os.Stat(a.file)
	if err == nil && (!os.SameFile(a.before, now) || !a.before.ModTime().Equal(now.ModTime()) || a.before.Size() != now.Size()) {
		err = fmt.Errorf("%s was changed meanwhile: attach again", a.file)
	}
	return err
}

// mergedContents returns the contents of the archive with the additions, without what nothing names
// any more.
func (a *Amendment) mergedContents(ctx context.Context) (Contents, error) {
	nodes, err := a.readManifests(ctx)
	if err != nil {
		return Contents{}, err
	}
	c := Contents{Base: a.BaseReferences(), HasDeltas: a.info.Annotations[annotationRequires] != ""}
	if healed, ok := a.files[0].(*healedFile); ok {
		c.Parity = healed.reader.Geometry.Percent
	}
	if c.Named, err = a.indexEntries(); err != nil {
		return c, err
	}
	before, after := map[digest.Digest]bool{}, map[digest.Digest]bool{}
	for _, d := range a.info.Manifests {
		markReachable(d.Digest, nodes, before)
	}
	for _, d := range c.Named {
		markReachable(d.Digest, nodes, after)
	}
	// What only an old manifest under a tag named goes; what nobody ever named stays.
	gone := func(d digest.Digest) bool {
		_, added := a.added[d]
		return (before[d] || added) && !after[d]
	}
	depths := map[digest.Digest]int{}
	for d, n := range nodes {
		if !gone(d) {
			manifestDepth(d, nodes, depths)
			c.Manifests = append(c.Manifests, n.desc)
		}
	}
	slices.SortFunc(c.Manifests, func(x, y ocispec.Descriptor) int {
		return cmp.Or(cmp.Compare(depths[x.Digest], depths[y.Digest]), cmp.Compare(x.Digest, y.Digest))
	})
	stay := maps.Clone(nodes)
	maps.DeleteFunc(stay, func(d digest.Digest, _ *manifestNode) bool { return gone(d) })
	first := map[digest.Digest]bool{}
	for _, desc := range findFront(c.Named, stay) {
		first[desc.Digest] = true
	}
	blob := func(d digest.Digest, size int64) {
		switch {
		case nodes[d] != nil || gone(d):
		case first[d]:
			c.Front = append(c.Front, ocispec.Descriptor{MediaType: "application/octet-stream", Digest: d, Size: size})
		default:
			c.Blobs = append(c.Blobs, ocispec.Descriptor{MediaType: "application/octet-stream", Digest: d, Size: size})
		}
	}
	for d, at := range a.blobs {
		blob(d, at.size)
	}
	for d, data := range a.added {
		blob(d, int64(len(data)))
	}
	SortBlobs(c.Front)
	SortBlobs(c.Blobs)
	return c, nil
}

// manifestNode is a manifest and what it names.
type manifestNode struct {
	desc ocispec.Descriptor
	*oci.Manifest
}

func parseNode(d digest.Digest, data []byte) (*manifestNode, error) {
	m, err := oci.ParseManifest(data)
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w: %w", d, err, ErrDamaged)
	}
	return &manifestNode{Manifest: m}, nil
}

// readManifests returns all manifests.
func (a *Amendment) readManifests(ctx context.Context) (map[digest.Digest]*manifestNode, error) {
	nodes := map[digest.Digest]*manifestNode{}
	for d := range a.Store.manifests {
		data, err := a.readManifest(ctx, d)
		if err != nil {
			return nil, err
		}
		if nodes[d], err = parseNode(d, data); err != nil {
			return nil, err
		}
		nodes[d].desc = ocispec.Descriptor{Digest: d, Size: int64(len(data))}
	}
	for d, desc := range a.manifests {
		var err error
		if nodes[d], err = parseNode(d, a.added[d]); err != nil {
			return nil, err
		}
		nodes[d].desc = desc
	}
	return nodes, nil
}

// indexEntries returns the entries of the index: the old ones but for tags that moved, the new tags, and
// the new referrers.
func (a *Amendment) indexEntries() ([]ocispec.Descriptor, error) {
	var entries []ocispec.Descriptor
	for _, d := range a.info.Manifests {
		if _, moved := a.tags[d.Annotations[ocispec.AnnotationRefName]]; !moved {
			entries = append(entries, d)
		}
	}
	for tag, desc := range a.tags {
		entries = append(entries, NameDescriptor(desc, tag, ""))
	}
	for d, desc := range a.manifests {
		listed, err := layout.DescribeReferrer(desc, a.added[d])
		if err != nil {
			return nil, err
		}
		if listed != nil {
			listed.Annotations = maps.Clone(listed.Annotations)
			delete(listed.Annotations, ocispec.AnnotationRefName) // it would be a tag
			entries = append(entries, *listed)
		}
	}
	slices.SortFunc(entries, func(x, y ocispec.Descriptor) int {
		return cmp.Or(cmp.Compare(x.Annotations[ocispec.AnnotationRefName], y.Annotations[ocispec.AnnotationRefName]), cmp.Compare(x.Digest, y.Digest))
	})
	return entries, nil
}

// markReachable notes everything that a manifest needs.
func markReachable(d digest.Digest, nodes map[digest.Digest]*manifestNode, seen map[digest.Digest]bool) {
	if seen[d] {
		return
	}
	seen[d] = true
	n := nodes[d]
	if n == nil {
		return
	}
	if n.Config != nil {
		seen[n.Config.Digest] = true
	}
	for _, l := range n.Layers {
		seen[l.Digest] = true
	}
	for _, m := range n.Manifests {
		markReachable(m.Digest, nodes, seen)
	}
}

// manifestDepth returns how many manifests are below one another.
func manifestDepth(d digest.Digest, nodes map[digest.Digest]*manifestNode, known map[digest.Digest]int) int {
	n := nodes[d]
	if n == nil {
		return 0
	}
	if at, ok := known[d]; ok {
		return at
	}
	known[d] = 1 // an index that names itself, which no digest allows, would not end
	deepest := 1
	for _, m := range n.Manifests {
		deepest = max(deepest, manifestDepth(m.Digest, nodes, known)+1)
	}
	known[d] = deepest
	return deepest
}
