package transfer

import (
	"context"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	"oras.land/oras-go/v2"

	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/progress"
)

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
	if err := checkSpace(dst, descriptorsOf(list)); err != nil {
		return nil, err
	}
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
