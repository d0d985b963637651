package transfer

import (
	"cmp"
	"context"
	"errors"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2"

	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/progress"
)

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
	if err := checkSpace(dst, s.listWrites()); err != nil {
		return nil, err
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

// listWrites lists what the stream brings to the target, as far as it is known before it is read: the layers that deltas make,
// which a target gets instead of the deltas.
func (s *streamImport) listWrites() (list []ocispec.Descriptor) {
	for _, desc := range s.from.ListExpected() {
		layer := s.target(desc)
		if layer.Digest == desc.Digest || s.maker.makes(layer.Digest) {
			list = append(list, layer)
		}
	}
	archive.SortBlobs(list) // a layer may have several deltas
	return slices.CompactFunc(list, func(a, b ocispec.Descriptor) bool { return a.Digest == b.Digest })
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
