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
	"oras.land/oras-go/v2/registry/remote/errcode"

	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/progress"
	"krtpkg.dev/krtpkg/pkg/tracing"
)

// BaseError is the error of an archive that builds on content that the target does not have.
type BaseError struct {
	// Base lists the references, with digests, that must be imported first; empty if the archive
	// names none.
	Base []string
	// Missing are blobs that are neither in the archive nor at the target, Item is what the first of
	// them is, "layer of IMAGE"; "" if that is not known.
	Missing []digest.Digest
	Item    string
	// IsLost is set if the target has the roots of Base, but lost some of their content.
	IsLost bool
}

func (e *BaseError) Error() string {
	first, more := "", ""
	if len(e.Missing) > 0 {
		first = e.Missing[0].String()
	}
	if e.Item != "" {
		first += " (" + e.Item + ")"
	}
	if len(e.Missing) > 1 {
		more = fmt.Sprintf(" and %d more", len(e.Missing)-1)
	}
	if len(e.Base) == 0 {
		return fmt.Sprintf("neither the archive nor the target has %s%s", first, more)
	}
	if e.IsLost {
		return fmt.Sprintf("the archive builds on %s, of which the target lacks %s%s: import that version again", strings.Join(e.Base, ", "), first, more)
	}
	return fmt.Sprintf("the archive builds on %s, which the target does not have: import that first", strings.Join(e.Base, ", "))
}

// newBaseError returns the error of blobs that neither an archive nor the target has: of a base that
// the target does not have, or of one that lost something.
func newBaseError(ctx context.Context, base []string, missing []digest.Digest, describe func() map[digest.Digest]string, dst content.ReadOnlyStorage) error {
	e := &BaseError{Base: base, Missing: missing, Item: describe()[missing[0]]}
	if target, resolves := dst.(content.Resolver); resolves && len(base) > 0 {
		if err := checkBase(ctx, base, target); err != nil {
			return err
		}
		e.IsLost = true
	}
	return e
}

// Imported is the result of an [Import].
type Imported struct {
	*Report
	// Absent lists the volumes still to import, of Volumes: blobs were copied, but no tag was set.
	Absent  []int
	Volumes int
}

// AbsentError returns the error of an import that lacks volumes; nil if none is absent.
func (i *Imported) AbsentError() error {
	if len(i.Absent) == 0 {
		return nil
	}
	return &archive.AbsentVolumesError{Volumes: i.Absent, Of: i.Volumes}
}

// UnverifiedError is the error of content that would be written, or held in memory, before its
// signatures are known.
type UnverifiedError struct {
	// Limit is how many bytes of a stream may be held before its signatures arrive; 0 for a volume
	// without signatures.
	Limit int64
}

func (e *UnverifiedError) Error() string {
	if e.Limit > 0 {
		return fmt.Sprintf("verify archive: its signatures come after more than %d MiB of other content", e.Limit>>20)
	}
	return "verify volume: its bundles and signatures are on another volume"
}

// defaultUnverified is how many bytes of a stream are held before verification.
const defaultUnverified = 32 << 20

// Import copies the content of an archive to a target: every root that it names, under its tag.
// Volumes may be imported in any order; the last one sets the tags. With [Options.Verify] roots are
// verified before anything is written, and of a volume only what belongs to verified roots is
// written. It returns [*BaseError] and [*UnverifiedError] before anything is written.
func Import(ctx context.Context, from *archive.Store, dst oras.GraphTarget, o Options) (*Imported, error) {
	if dst == nil {
		return nil, errNoTarget
	}
	o.setDefaults()
	store, missing, err := checkImport(ctx, from, dst, o)
	if err != nil {
		return nil, err
	}
	if len(missing) > 0 {
		allowed, err := verifyVolumes(ctx, store, dst, missing, o)
		if err != nil {
			return nil, err
		}
		report, err := importBlobs(ctx, store, dst, allowed, o)
		return &Imported{Report: report, Absent: from.AbsentVolumes(), Volumes: from.Volumes()}, err
	}
	p, err := planRoots(ctx, store, dst, o)
	if err != nil {
		return nil, err
	}
	report, err := p.Copy(ctx, dst)
	return &Imported{Report: report}, err
}

// PlanImport returns the plan that [Import] would carry out; it writes nothing. It returns the errors of
// Import, and [*archive.AbsentVolumesError] where an import would not be complete without other volumes.
func PlanImport(ctx context.Context, from *archive.Store, dst oras.GraphTarget, o Options) (*Plan, error) {
	if dst == nil {
		return nil, errNoTarget
	}
	o.setDefaults()
	store, missing, err := checkImport(ctx, from, dst, o)
	if err != nil {
		return nil, err
	}
	if len(missing) > 0 {
		return nil, &archive.AbsentVolumesError{Volumes: from.AbsentVolumes(), Of: from.Volumes()}
	}
	return planRoots(ctx, store, dst, o)
}

// checkImport returns the archive with the layers that its deltas make, and the blobs that neither it nor
// the target has. It returns [*BaseError] if no other volume can have those.
func checkImport(ctx context.Context, from *archive.Store, dst oras.GraphTarget, o Options) (*ArchiveWithDeltas, []digest.Digest, error) {
	store, err := WithDeltas(ctx, from, dst, o)
	if err != nil {
		return nil, nil, err
	}
	missing, err := findMissingBlobs(ctx, from.ListLacking, dst, o.Concurrency)
	if err != nil {
		return nil, nil, err
	}
	missing = slices.DeleteFunc(missing, store.maker.makes)
	if len(missing) > 0 && len(from.AbsentVolumes()) == 0 {
		return nil, nil, newBaseError(ctx, from.BaseReferences(), missing, func() map[digest.Digest]string { return from.DescribeItems(ctx) }, dst)
	}
	return store, missing, nil
}

// verifyVolumes verifies the roots of some volumes and returns the plan of what belongs to them, or
// nil without [Options.Verify].
func verifyVolumes(ctx context.Context, from *ArchiveWithDeltas, dst oras.GraphTarget, missing []digest.Digest, o Options) (*Plan, error) {
	if o.Verify == nil {
		return nil, nil
	}
	front, err := from.ListFront(ctx)
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

func (o *Options) setDefaults() {
	if o.Concurrency == 0 {
		o.Concurrency = 4
	}
	if o.MaxUnverified == 0 {
		o.MaxUnverified = defaultUnverified
	}
}

// lackingLister lists the blobs that an archive's manifests name but the archive lacks.
type lackingLister = func(context.Context) ([]ocispec.Descriptor, error)

// findMissingBlobs returns the blobs that neither the archive nor the target has.
func findMissingBlobs(ctx context.Context, lacking lackingLister, dst content.ReadOnlyStorage, concurrency int) (missing []digest.Digest, err error) {
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
		return nil, fmt.Errorf("target %s: %w", storeName(dst), err)
	}
	slices.Sort(missing)
	return missing, nil
}

// importBlobs copies the blobs of some volumes that are in allowed, or all if allowed is nil.
func importBlobs(ctx context.Context, from *ArchiveWithDeltas, dst oras.GraphTarget, allowed *Plan, o Options) (*Report, error) {
	p := &Plan{options: o, nodes: map[digest.Digest]*planNode{}}
	p.describeAs(from.DescribeItems(ctx))
	var list []topManifest
	for _, desc := range from.ListContents() {
		if d, ok := from.maker.blobs[desc.Digest]; ok {
			desc = d.Layer
			if !from.maker.makes(desc.Digest) {
				continue // the target has it
			}
			desc = allowed.withSize(desc)
		}
		if !from.IsManifest(desc.Digest) && (allowed == nil || allowed.nodes[desc.Digest] != nil) {
			p.nodes[desc.Digest] = &planNode{desc: desc, from: from}
			list = append(list, topManifest{desc: desc})
		}
	}
	o.Progress.Emit(progress.Event{Kind: progress.Planned, Items: len(p.nodes), Bytes: p.Size()})
	c := newCopier(p, dst)
	slices.SortStableFunc(list, func(a, b topManifest) int { return int(min(max(b.desc.Size-a.desc.Size, -1), 1)) })
	return &c.report, c.forEach(ctx, list, c.copyBlob)
}

// planRoots verifies the roots of an archive and plans what belongs to them.
func planRoots(ctx context.Context, from oras.ReadOnlyGraphTarget, dst oras.GraphTarget, o Options) (*Plan, error) {
	sources, err := FindRoots(ctx, from)
	if err != nil {
		return nil, err
	}
	o.Fallback, o.CheckTarget = dst, true
	return makePlan(ctx, sources, dst, o)
}

// FindRoots returns the bundles and runtimes that an archive or a layout names, with their tags.
func FindRoots(ctx context.Context, store oras.ReadOnlyGraphTarget) (sources []Source, err error) {
	tags, ok := store.(tagLister)
	if !ok {
		return nil, fmt.Errorf("%s cannot list its content", storeName(store))
	}
	byDigest := map[digest.Digest]int{}
	err = tags.Tags(ctx, "", func(page []string) error {
		for _, tag := range page {
			if strings.ContainsAny(tag, "/:") || strings.HasPrefix(tag, "sha256-") {
				continue // an image or an attached manifest
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
		err = fmt.Errorf("%s contains no bundle or runtime", storeName(store))
		if maker, ok := store.(interface{ MadeBy() string }); ok && maker.MadeBy() != "" {
			err = fmt.Errorf("%w: %w", err, &archive.ForeignError{
				Is: "a layout that was written by " + maker.MadeBy(), Hint: "krtpkg reads archives of krtpkg export; push single images with skopeo copy, crane push or docker push",
			})
		}
	}
	return sources, err
}

func withArtifactType(ctx context.Context, store content.Fetcher, desc ocispec.Descriptor) (ocispec.Descriptor, error) {
	if !oci.IsManifest(desc.MediaType) {
		return desc, nil
	}
	data, err := readManifest(ctx, store, desc)
	if err != nil {
		return desc, err
	}
	m, err := oci.ParseManifest(data)
	desc.ArtifactType = m.ArtifactType
	return desc, err
}

// maxBufferedBlob is the size up to which a blob of a stream is held in memory, so that several are
// copied at once.
const maxBufferedBlob = 1 << 20

// ImportFile is [ImportStream] from a file that seeks. With [Options.Verify] it reads the file
// twice: archives of earlier versions have their signatures anywhere.
func ImportFile(ctx context.Context, file io.ReadSeeker, dst oras.GraphTarget, o Options) (*Imported, error) {
	imported, err := importFile(ctx, file, dst, o)
	if !isWrongBlob(err) || ctx.Err() != nil {
		return imported, err
	}
	// A byte may have changed on the way. What has arrived is not sent again.
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return importFile(ctx, file, dst, o)
}

// isWrongBlob reports whether a target complains of the content of a blob, or may.
func isWrongBlob(err error) bool {
	var response *errcode.ErrorResponse
	return isWrongContent(err) && (!errors.As(err, &response) || response.URL == nil || strings.Contains(response.URL.Path, "/blobs/"))
}

func importFile(ctx context.Context, file io.ReadSeeker, dst oras.GraphTarget, o Options) (*Imported, error) {
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
		stream.CopyKept(first)
	}
	return ImportStream(ctx, stream, dst, o)
}

// readFront reads a file until everything needed for verification was read.
func readFront(ctx context.Context, file io.Reader) (*archive.Stream, error) {
	stream, err := archive.OpenStream(file)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	_, budget := oci.WithBudget(ctx)
	front := digestSet(stream.PendingFront())
	for len(front) > 0 && ctx.Err() == nil {
		desc, body, err := stream.NextBlob()
		if err == io.EOF {
			break
		}
		if err == nil && front[desc.Digest] {
			err = stream.KeepBlob(desc, body, budget)
			delete(front, desc.Digest)
		}
		if err != nil {
			return nil, err
		}
	}
	return stream, ctx.Err()
}

func digestSet(list []ocispec.Descriptor) map[digest.Digest]bool {
	set := make(map[digest.Digest]bool, len(list))
	for _, desc := range list {
		set[desc.Digest] = true
	}
	return set
}

// ImportStream is [Import] from an archive as it arrives. Signatures and bundles stand in front; once
// they are read the roots are verified, and from then on blobs are passed to the target as they
// arrive. Manifests and tags follow at the end, when the archive is known to be complete. It returns
// the errors of [Import].
func ImportStream(ctx context.Context, from *archive.Stream, dst oras.GraphTarget, o Options) (*Imported, error) {
	if dst == nil {
		return nil, errNoTarget
	}
	o.setDefaults()
	account := &streamAccount{report: o.Progress, arrived: map[string]bool{}}
	o.Progress = account.handleEvent
	if err := checkBase(ctx, from.BaseReferences(), dst); err != nil {
		return nil, err
	}
	maker, err := newLayerMaker(ctx, from.Deltas(), from.BaseReferences(), dst, o)
	if err != nil {
		return nil, err
	}
	ctx, budget := oci.WithBudget(ctx)
	s := &streamImport{maker: maker, from: from, dst: dst, options: o, budget: budget, front: digestSet(from.PendingFront())}
	if volume, _ := from.Volumes(); volume > 0 && o.UnverifiedVolumes {
		s.unverified = true
	}
	if err := s.readStream(ctx); err != nil {
		return nil, err
	}
	missing, err := findMissingBlobs(ctx, from.ListLacking, dst, o.Concurrency)
	if err != nil {
		return nil, err
	}
	if volume, volumes := from.Volumes(); len(missing) > 0 && volumes > 0 {
		imported := &Imported{Report: &s.report, Volumes: volumes}
		for n := range volumes {
			if n+1 != volume {
				imported.Absent = append(imported.Absent, n+1)
			}
		}
		return imported, nil
	}
	if len(missing) > 0 {
		return nil, newBaseError(ctx, from.BaseReferences(), missing, from.DescribeItems, dst)
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
	report.PresentBytes = max(0, report.PresentBytes-s.report.CopiedBytes)
	return &Imported{Report: report}, nil
}

// streamImport is the state of an import from a stream.
type streamImport struct {
	from    *archive.Stream
	maker   *layerMaker
	dst     oras.GraphTarget
	options Options
	budget  *oci.Budget
	// front holds the blobs that must arrive before the plan can be made; plan is nil until then.
	front map[digest.Digest]bool
	plan  *Plan
	// heldBytes counts the blobs held before the plan, apart from those in front.
	heldBytes int64
	// unverified passes blobs on before the roots are verified.
	unverified bool
	report     Report
}

// readStream reads the archive to its end.
func (s *streamImport) readStream(ctx context.Context) error {
	blobs := &Plan{options: s.options, nodes: map[digest.Digest]*planNode{}}
	blobs.describeAs(s.from.DescribeItems())
	c := newCopier(blobs, s.dst)
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(s.options.Concurrency)
	first := s.readEntries(groupCtx, c, group)
	err := errors.Join(first, group.Wait())
	s.report = c.report
	return err
}

func (s *streamImport) readEntries(ctx context.Context, c *copier, group *errgroup.Group) error {
	// What the first reading kept, and what is in front, is sent once the plan is made.
	kept := s.from.KeptBlobs()
	for ctx.Err() == nil {
		if s.plan == nil && len(s.front) == 0 {
			if err := s.startPlan(ctx, c, group, kept); err != nil {
				return err
			}
		}
		desc, body, err := s.from.NextBlob()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if err := s.handleBlob(ctx, c, group, desc, body); err != nil {
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
		return s.sendKept(ctx, c, group, kept) // a volume, or the rest is at the target
	}
	// What belongs in front may be at the target, but not if this is a single volume.
	if volume, _ := s.from.Volumes(); volume > 0 {
		if missing, err := findMissingBlobs(ctx, s.from.ListLacking, s.dst, s.options.Concurrency); err != nil || len(missing) > 0 {
			return cmp.Or[error](err, &UnverifiedError{})
		}
	}
	return s.startPlan(ctx, c, group, kept)
}

// startPlan makes the plan and sends the blobs held for it.
func (s *streamImport) startPlan(ctx context.Context, c *copier, group *errgroup.Group, kept []ocispec.Descriptor) (err error) {
	if s.plan, err = planRoots(ctx, s.from, s.dst, s.options); err != nil {
		return err
	}
	s.announcePlan()
	return s.sendKept(ctx, c, group, slices.DeleteFunc(kept, func(desc ocispec.Descriptor) bool { return s.plan.nodes[s.target(desc).Digest] == nil }))
}

// sendKept sends the blobs that were kept.
func (s *streamImport) sendKept(ctx context.Context, c *copier, group *errgroup.Group, kept []ocispec.Descriptor) error {
	for _, desc := range kept {
		body, err := s.from.Fetch(ctx, desc)
		if err != nil {
			return err
		}
		if err := s.receive(ctx, c, group, desc, body); err != nil {
			return err
		}
	}
	return nil
}

// target returns what a target gets of a blob: a delta is for its layer.
func (s *streamImport) target(desc ocispec.Descriptor) ocispec.Descriptor {
	if d, ok := s.maker.blobs[desc.Digest]; ok {
		return s.plan.withSize(d.Layer)
	}
	return desc
}

// receive passes a blob on to the target, or the layer that it is the delta of.
func (s *streamImport) receive(ctx context.Context, c *copier, group *errgroup.Group, desc ocispec.Descriptor, body io.Reader) error {
	layer := s.target(desc)
	if layer.Digest == desc.Digest {
		return c.receiveBlob(ctx, group, desc, body)
	}
	if !s.maker.makes(layer.Digest) {
		c.countItem(&c.report.Present, progress.Skipped, layer)
		return nil
	}
	made, err := s.maker.open(ctx, layer, io.NopCloser(body))
	if err != nil {
		return err
	}
	return errors.Join(c.copyReceived(ctx, &planNode{desc: layer, from: singleRead{made}}), made.Close())
}

// handleBlob sends, keeps or skips a blob, depending on the state of the import.
func (s *streamImport) handleBlob(ctx context.Context, c *copier, group *errgroup.Group, desc ocispec.Descriptor, body io.Reader) error {
	switch {
	case s.from.IsKept(desc.Digest):
		return nil // sent already, or will be
	case s.plan != nil && s.plan.nodes[s.target(desc).Digest] == nil:
		return nil // not part of the import
	case s.plan != nil:
		return s.receive(ctx, c, group, desc, body)
	case s.front[desc.Digest]:
		delete(s.front, desc.Digest)
		return s.from.KeepBlob(desc, body, s.budget)
	case s.options.Verify == nil || s.unverified:
		return s.receive(ctx, c, group, desc, body)
	}
	if s.heldBytes += desc.Size; s.heldBytes > s.options.MaxUnverified {
		return &UnverifiedError{Limit: s.options.MaxUnverified}
	}
	return s.from.KeepBlob(desc, body, s.budget)
}

// checkBase returns an error early if the target lacks what the archive builds on.
func checkBase(ctx context.Context, base []string, dst content.Resolver) error {
	var missing []string
	for _, reference := range base {
		_, d, _ := strings.Cut(reference, "@")
		_, err := dst.Resolve(ctx, d)
		if errors.Is(err, errdef.ErrNotFound) {
			missing = append(missing, reference)
		} else if err != nil {
			return fmt.Errorf("target %s: %w", storeName(dst), err)
		}
	}
	if len(missing) > 0 {
		return &BaseError{Base: missing}
	}
	return nil
}

// receiveBlob passes a blob on to the target, small ones while the next arrives.
func (c *copier) receiveBlob(ctx context.Context, group *errgroup.Group, desc ocispec.Descriptor, r io.Reader) error {
	n := &planNode{desc: desc, from: singleRead{r}}
	if desc.Size <= maxBufferedBlob {
		data := make([]byte, desc.Size)
		if _, err := io.ReadFull(r, data); err != nil {
			return fmt.Errorf("read %s from the archive: %w", desc.Digest, err)
		}
		if desc.Digest != desc.Digest.Algorithm().FromBytes(data) {
			return fmt.Errorf("read %s from the archive: %w", desc.Digest, content.ErrMismatchedDigest)
		}
		n.from = memoryContent(data)
		group.Go(func() error { return c.copyReceived(ctx, n) })
		return nil
	}
	return c.copyReceived(ctx, n)
}

func (c *copier) copyReceived(ctx context.Context, n *planNode) (err error) {
	ctx, end := tracing.Start(ctx, "copy blob", tracing.Digest(n.desc.Digest), tracing.Bytes(n.desc.Size))
	defer func() { end(err) }()
	there, err := c.dst.Exists(ctx, n.desc)
	if err != nil {
		return fmt.Errorf("target %s: look for %s: %w", storeName(c.dst), n.desc.Digest, err)
	}
	if there {
		c.countItem(&c.report.Present, progress.Skipped, n.desc)
		return nil
	}
	return c.sendBlob(ctx, n)
}

// singleRead is content that can be read once, as it arrives.
type singleRead struct{ io.Reader }

func (o singleRead) Fetch(context.Context, ocispec.Descriptor) (io.ReadCloser, error) {
	if made, ok := o.Reader.(madeLayer); ok {
		return made, nil
	}
	return io.NopCloser(o.Reader), nil
}

func (singleRead) String() string { return "the archive" }

// memoryContent is content in memory.
type memoryContent []byte

func (m memoryContent) Fetch(context.Context, ocispec.Descriptor) (io.ReadCloser, error) {
	return memoryReader{bytes.NewReader(m)}, nil
}

func (memoryContent) String() string { return "the archive" }
