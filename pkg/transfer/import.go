package transfer

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/progress"
)

// BaseError says that an archive builds on what the target does not have.
type BaseError struct {
	// Base is what has to be there first, a reference with its digest each; empty where the
	// archive says nothing of it.
	Base []string
	// Missing are blobs that are neither in the archive nor at the target.
	Missing []digest.Digest
}

func (e *BaseError) Error() string {
	if len(e.Base) == 0 {
		return fmt.Sprintf("the archive lacks %d blobs, %s among them, and the target does too", len(e.Missing), e.Missing[0])
	}
	return fmt.Sprintf("the archive builds on %s, which the target does not have: import that first", strings.Join(e.Base, ", "))
}

// Imported says what an import did.
type Imported struct {
	*Report
	// Absent are the volumes that are still to come: blobs arrived, and no tag was set.
	Absent []int
}

// UnverifiedError says that content would be written, or held, of which it can't be known yet who
// signed it.
type UnverifiedError struct {
	// Limit is how many bytes of a stream may be held before its signatures are there; 0 where it
	// is a volume that has no signatures on it.
	Limit int64
}

func (e *UnverifiedError) Error() string {
	if e.Limit > 0 {
		return fmt.Sprintf("the archive can't be verified: its signatures come after more than %d MiB of other content", e.Limit>>20)
	}
	return "the volume can't be verified: the bundles and signatures that it belongs to are on another one"
}

// defaultUnverified is how much of a stream is held before it is verified.
const defaultUnverified = 32 << 20

// Import brings what is in an archive to a target: every root that it names, under its tag.
// Of several volumes those that are there are imported, in any order; the last one sets the
// tags. What is to be verified is verified before anything is written, and of a volume nothing is
// written but what belongs to verified roots. Errors: [*BaseError], [*UnverifiedError], before
// anything is written.
func Import(ctx context.Context, from *archive.Store, dst oras.GraphTarget, o Options) (*Imported, error) {
	o.defaults()
	missing, err := absent(ctx, from.Lacking, dst, o.Concurrency)
	if err != nil {
		return nil, err
	}
	if len(missing) > 0 {
		if len(from.Absent()) == 0 {
			return nil, &BaseError{Base: from.Base(), Missing: missing}
		}
		allowed, err := verifyVolumes(ctx, from, dst, missing, o)
		if err != nil {
			return nil, err
		}
		report, err := importBlobs(ctx, from, dst, allowed, o)
		return &Imported{report, from.Absent()}, err
	}
	report, err := importRoots(ctx, from, dst, o)
	return &Imported{Report: report}, err
}

// verifyVolumes verifies the roots of some volumes, and gives what belongs to them; nil where
// nothing is to be verified.
func verifyVolumes(ctx context.Context, from *archive.Store, dst oras.GraphTarget, missing []digest.Digest, o Options) (*Plan, error) {
	if o.Verify == nil {
		return nil, nil
	}
	front, err := from.Front(ctx)
	if err != nil {
		return nil, err
	}
	for _, desc := range front {
		if _, absent := slices.BinarySearch(missing, desc.Digest); absent {
			if o.UnverifiedVolumes {
				return nil, nil
			}
			return nil, &UnverifiedError{}
		}
	}
	return planRoots(ctx, from, dst, o)
}

func (o *Options) defaults() {
	if o.Concurrency == 0 {
		o.Concurrency = 4
	}
	if o.MaxUnverified == 0 {
		o.MaxUnverified = defaultUnverified
	}
}

// lister lists the blobs that an archive's manifests name and it does not hold.
type lister = func(context.Context) ([]ocispec.Descriptor, error)

// absent are those that the target does not have either.
func absent(ctx context.Context, lacking lister, dst content.ReadOnlyStorage, concurrency int) (missing []digest.Digest, err error) {
	list, err := lacking(ctx)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(concurrency)
	for _, desc := range list {
		group.Go(func() error {
			there, err := dst.Exists(ctx, desc)
			if err == nil && !there {
				mu.Lock()
				missing = append(missing, desc.Digest)
				mu.Unlock()
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("target %s: %w", where(dst), err)
	}
	slices.Sort(missing)
	return missing, nil
}

// importBlobs brings the blobs of some volumes, and none that are not allowed; all where nothing
// says which are.
func importBlobs(ctx context.Context, from *archive.Store, dst oras.GraphTarget, allowed *Plan, o Options) (*Report, error) {
	p := &Plan{options: o, nodes: map[digest.Digest]*node{}}
	var list []top
	for _, desc := range from.Contents() {
		if !from.IsManifest(desc.Digest) && (allowed == nil || allowed.nodes[desc.Digest] != nil) {
			p.nodes[desc.Digest] = &node{desc: desc, from: from}
			list = append(list, top{desc: desc})
		}
	}
	o.Progress.Emit(progress.Event{Kind: progress.Planned, Items: len(p.nodes), Bytes: p.Size()})
	c := newCopier(p, dst)
	slices.SortStableFunc(list, func(a, b top) int { return int(min(max(b.desc.Size-a.desc.Size, -1), 1)) })
	return &c.report, c.each(ctx, list, c.blob)
}

// importRoots copies the roots of an archive whose blobs are there, or at the target.
func importRoots(ctx context.Context, from oras.ReadOnlyGraphTarget, dst oras.GraphTarget, o Options) (*Report, error) {
	p, err := planRoots(ctx, from, dst, o)
	if err != nil {
		return nil, err
	}
	return p.Copy(ctx, dst)
}

// planRoots verifies the roots of an archive and finds what belongs to them.
func planRoots(ctx context.Context, from oras.ReadOnlyGraphTarget, dst oras.GraphTarget, o Options) (*Plan, error) {
	sources, err := RootsOf(ctx, from)
	if err != nil {
		return nil, err
	}
	o.Beside = dst
	return plan(ctx, sources, dst, o)
}

// RootsOf are the bundles and runtimes that an archive or a layout names, each with its tags.
func RootsOf(ctx context.Context, store oras.ReadOnlyGraphTarget) (sources []Source, err error) {
	tags, ok := store.(tagLister)
	if !ok {
		return nil, fmt.Errorf("%s does not list what it has", where(store))
	}
	byDigest := map[digest.Digest]int{}
	err = tags.Tags(ctx, "", func(page []string) error {
		for _, tag := range page {
			if strings.ContainsAny(tag, "/:") || strings.HasPrefix(tag, "sha256-") {
				continue // an image, or what is attached
			}
			desc, err := store.Resolve(ctx, tag)
			if err != nil {
				return err
			}
			if desc.ArtifactType == "" {
				if desc, err = withArtifactType(ctx, store, desc); err != nil {
					return err
				}
			}
			if desc.ArtifactType != bundle.TypeBundle && desc.ArtifactType != bundle.TypeRuntime {
				continue
			}
			at, known := byDigest[desc.Digest]
			if !known {
				at = len(sources)
				byDigest[desc.Digest] = at
				sources = append(sources, Source{Store: store, Root: desc})
			}
			sources[at].Tags = append(sources[at].Tags, tag)
		}
		return nil
	})
	if err == nil && len(sources) == 0 {
		err = fmt.Errorf("%s names no bundle and no runtime", where(store))
		if maker, ok := store.(interface{ MadeBy() string }); ok && maker.MadeBy() != "" {
			err = fmt.Errorf("%w: %w", err, &archive.ForeignError{
				Is: "a layout that was written by " + maker.MadeBy(), Hint: "krtpkg carries what krtpkg export writes; images alone go to a registry with skopeo copy, crane push or docker push",
			})
		}
	}
	return sources, err
}

func withArtifactType(ctx context.Context, store content.Fetcher, desc ocispec.Descriptor) (ocispec.Descriptor, error) {
	if !isManifest(desc.MediaType) {
		return desc, nil
	}
	data, err := read(ctx, store, desc)
	if err != nil {
		return desc, err
	}
	m, err := parse(data)
	desc.ArtifactType = m.ArtifactType
	return desc, err
}

// small is up to which size a blob of a stream is held in memory, so that several move at once.
const small = 1 << 20

// ImportFile is [ImportStream] from a file that seeks. Where something is to be verified it is
// read twice: archives of earlier versions have their signatures anywhere.
func ImportFile(ctx context.Context, file io.ReadSeeker, dst oras.GraphTarget, o Options) (*Imported, error) {
	var first *archive.Stream
	if o.Verify != nil {
		var err error
		if first, err = readFront(ctx, file); err != nil {
			return nil, err
		}
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
	}
	stream, err := archive.OpenStream(file)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	if first != nil {
		stream.KeepOf(first)
	}
	return ImportStream(ctx, stream, dst, o)
}

// readFront reads a file until there is all that it takes to verify it.
func readFront(ctx context.Context, file io.Reader) (*archive.Stream, error) {
	stream, err := archive.OpenStream(file)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	_, budget := oci.Begin(ctx)
	front := digests(stream.Front())
	for len(front) > 0 && ctx.Err() == nil {
		desc, body, err := stream.Next()
		if err == io.EOF {
			break
		}
		if err == nil && front[desc.Digest] {
			err = stream.Keep(desc, body, budget)
			delete(front, desc.Digest)
		}
		if err != nil {
			return nil, err
		}
	}
	return stream, ctx.Err()
}

func digests(list []ocispec.Descriptor) map[digest.Digest]bool {
	set := make(map[digest.Digest]bool, len(list))
	for _, desc := range list {
		set[desc.Digest] = true
	}
	return set
}

// ImportStream is [Import] from an archive as it arrives. As soon as it is there who signed it and
// what belongs to it, which stands in front, the roots are verified; from then on blobs go on to
// the target as they come. Manifests and tags follow at the end, when the archive has shown itself
// to be whole. Errors: those of [Import].
func ImportStream(ctx context.Context, from *archive.Stream, dst oras.GraphTarget, o Options) (*Imported, error) {
	o.defaults()
	if err := hasBase(ctx, from.Base(), dst); err != nil {
		return nil, err
	}
	ctx, budget := oci.Begin(ctx)
	s := &streamed{from: from, dst: dst, options: o, budget: budget, front: digests(from.Front())}
	if volume, _ := from.Volumes(); volume > 0 && o.UnverifiedVolumes {
		s.unverified = true
	}
	if err := s.read(ctx); err != nil {
		return nil, err
	}
	missing, err := absent(ctx, from.Lacking, dst, o.Concurrency)
	if err != nil {
		return nil, err
	}
	if volume, volumes := from.Volumes(); len(missing) > 0 && volumes > 0 {
		imported := &Imported{Report: &s.report}
		for n := range volumes {
			if n+1 != volume {
				imported.Absent = append(imported.Absent, n+1)
			}
		}
		return imported, nil
	}
	if len(missing) > 0 {
		return nil, &BaseError{Base: from.Base(), Missing: missing}
	}
	if s.plan == nil {
		if s.plan, err = planRoots(ctx, from, dst, o); err != nil {
			return nil, err
		}
	}
	report, err := s.plan.Copy(ctx, dst)
	if err != nil {
		return nil, err
	}
	report.Copied += s.report.Copied
	report.CopiedBytes += s.report.CopiedBytes
	report.Present = max(0, report.Present-s.report.Copied)
	return &Imported{Report: report}, nil
}

// streamed is an archive on its way to a target.
type streamed struct {
	from    *archive.Stream
	dst     oras.GraphTarget
	options Options
	budget  *oci.Budget
	// front are the blobs that are still to come before the plan can be made, plan is what belongs
	// to the roots of the archive, once that is known.
	front map[digest.Digest]bool
	plan  *Plan
	// heldBytes are those of the blobs that came before the plan, besides what is in front.
	heldBytes int64
	// unverified lets blobs pass before the roots are verified.
	unverified bool
	report     Report
}

// read reads the archive to its end.
func (s *streamed) read(ctx context.Context) error {
	c := newCopier(&Plan{options: s.options, nodes: map[digest.Digest]*node{}}, s.dst)
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(s.options.Concurrency)
	first := s.pass(groupCtx, c, group)
	err := errors.Join(first, group.Wait())
	s.report = c.report
	return err
}

func (s *streamed) pass(ctx context.Context, c *copier, group *errgroup.Group) error {
	// What was kept of the first reading, and what is in front, is sent when the plan is there.
	kept := s.from.Kept()
	for ctx.Err() == nil {
		if s.plan == nil && len(s.front) == 0 {
			if err := s.begin(ctx, c, group, kept); err != nil {
				return err
			}
		}
		desc, body, err := s.from.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if err := s.take(ctx, c, group, desc, body); err != nil {
			return err
		}
		if s.plan == nil && s.from.IsKept(desc.Digest) {
			kept = append(kept, desc)
		}
	}
	switch {
	case s.plan != nil || ctx.Err() != nil:
		return ctx.Err()
	case s.options.Verify == nil || s.unverified:
		return s.send(ctx, c, group, kept) // it is a volume, or the rest is at the target
	}
	// What is in front may be at the target, but not where only a volume is here.
	if volume, _ := s.from.Volumes(); volume > 0 {
		if missing, err := absent(ctx, s.from.Lacking, s.dst, s.options.Concurrency); err != nil || len(missing) > 0 {
			return cmp.Or[error](err, &UnverifiedError{})
		}
	}
	return s.begin(ctx, c, group, kept)
}

// begin makes the plan, and sends what was held of it.
func (s *streamed) begin(ctx context.Context, c *copier, group *errgroup.Group, kept []ocispec.Descriptor) (err error) {
	if s.plan, err = planRoots(ctx, s.from, s.dst, s.options); err != nil {
		return err
	}
	return s.send(ctx, c, group, slices.DeleteFunc(kept, func(desc ocispec.Descriptor) bool { return s.plan.nodes[desc.Digest] == nil }))
}

// send sends what was kept.
func (s *streamed) send(ctx context.Context, c *copier, group *errgroup.Group, kept []ocispec.Descriptor) error {
	for _, desc := range kept {
		body, err := s.from.Fetch(ctx, desc)
		if err != nil {
			return err
		}
		if err := c.arrive(ctx, group, desc, body); err != nil {
			return err
		}
	}
	return nil
}

// take does with a blob what is to be done at this time.
func (s *streamed) take(ctx context.Context, c *copier, group *errgroup.Group, desc ocispec.Descriptor, body io.Reader) error {
	switch {
	case s.from.IsKept(desc.Digest):
		return nil // it was sent, or will be
	case s.plan != nil && s.plan.nodes[desc.Digest] == nil:
		return nil // it does not belong to what is imported
	case s.plan != nil:
		return c.arrive(ctx, group, desc, body)
	case s.front[desc.Digest]:
		delete(s.front, desc.Digest)
		return s.from.Keep(desc, body, s.budget)
	case s.options.Verify == nil || s.unverified:
		return c.arrive(ctx, group, desc, body)
	}
	if s.heldBytes += desc.Size; s.heldBytes > s.options.MaxUnverified {
		return &UnverifiedError{Limit: s.options.MaxUnverified}
	}
	return s.from.Keep(desc, body, s.budget)
}

// hasBase says early what an archive builds on that is not there.
func hasBase(ctx context.Context, base []string, dst oras.GraphTarget) error {
	var missing []string
	for _, reference := range base {
		_, d, _ := strings.Cut(reference, "@")
		_, err := dst.Resolve(ctx, d)
		if errors.Is(err, errdef.ErrNotFound) {
			missing = append(missing, reference)
		} else if err != nil {
			return fmt.Errorf("target %s: %w", where(dst), err)
		}
	}
	if len(missing) > 0 {
		return &BaseError{Base: missing}
	}
	return nil
}

// arrive sends a blob on: a small one while the next arrives.
func (c *copier) arrive(ctx context.Context, group *errgroup.Group, desc ocispec.Descriptor, r io.Reader) error {
	n := &node{desc: desc, from: once{r}}
	if desc.Size <= small {
		data := make([]byte, desc.Size)
		if _, err := io.ReadFull(r, data); err != nil {
			return fmt.Errorf("read %s from the archive: %w", desc.Digest, err)
		}
		if desc.Digest != desc.Digest.Algorithm().FromBytes(data) {
			return fmt.Errorf("read %s from the archive: %w", desc.Digest, content.ErrMismatchedDigest)
		}
		n.from = inMemory(data)
		group.Go(func() error { return c.arrived(ctx, n) })
		return nil
	}
	return c.arrived(ctx, n)
}

func (c *copier) arrived(ctx context.Context, n *node) error {
	there, err := c.dst.Exists(ctx, n.desc)
	if err != nil {
		return fmt.Errorf("target %s: look for %s: %w", where(c.dst), n.desc.Digest, err)
	}
	if there {
		c.count(&c.report.Present, progress.Skipped, n.desc)
		return nil
	}
	return c.send(ctx, n)
}

// once is content that can be read one time, as it arrives.
type once struct{ io.Reader }

func (o once) Fetch(context.Context, ocispec.Descriptor) (io.ReadCloser, error) {
	return io.NopCloser(o.Reader), nil
}

func (once) String() string { return "the archive" }

// inMemory is content that was read.
type inMemory []byte

func (m inMemory) Fetch(context.Context, ocispec.Descriptor) (io.ReadCloser, error) {
	return memory{bytes.NewReader(m)}, nil
}

func (inMemory) String() string { return "the archive" }
