// Package transfer copies bundles and runtimes with everything that they need, their nested
// bundles and workload images, and with what is attached to any of it, between any two stores.
//
// Call [Copy], or [NewPlan] and what a plan can do: it can be compared with a target, copied
// there, written as an archive, or checked. Every item is found and counted before a byte is
// written, so that what is missing is an error while the target is still untouched. Tags move
// last, when everything that they name is there.
package transfer

import (
	"context"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/progress"
	"krtpkg.dev/krtpkg/pkg/tracing"
)

// Source is a bundle or a runtime to transfer.
type Source struct {
	Store oras.ReadOnlyGraphTarget
	Root  ocispec.Descriptor
	// Tags are set on the root once everything is copied.
	Tags []string
	// From is the tag from which the root was resolved; may be empty.
	From string
	// Pinned is set if a digest led to the root, whatever From leads to.
	Pinned bool
	// Where is the repository of the root for [Options.Verify]; may be empty.
	Where string
}

// Options are the parameters of a transfer.
type Options struct {
	// Origins finds images that the source lacks; nil if the source must hold all.
	Origins images.Origins
	// Fallback is a store to ask for what the source lacks, before the origins: the target of an
	// import, which may have it already. Nil for none.
	Fallback content.ReadOnlyStorage
	// Verify is called for every root before anything is written; nil verifies nothing. The store of
	// its source includes Fallback.
	Verify func(ctx context.Context, source Source) error
	// Accepts is called for every item of the plan before anything is written; nil accepts all.
	Accepts func(digest.Digest) error
	// AllowRenamedTags allows a version tag that names another version; see [bundle.TagError].
	AllowRenamedTags bool
	// MoveTags moves tags of the target also to another build of the version that they name, to an older version and to
	// another name; AllowDowngrade only to an older version. Without them that is a [*MovedTagError].
	MoveTags, AllowDowngrade bool
	// MaxUnverified is how many bytes of a stream an import holds before it can call Verify; 32 MiB
	// when zero. Archives of current versions have signatures in front.
	MaxUnverified int64
	// UnverifiedVolumes allows an import of a volume without Verify if the signatures are on another
	// volume. The last volume is verified before tags are set.
	UnverifiedVolumes bool
	// Platforms selects the platforms of an index to copy, as os/architecture[/variant]; all when
	// empty. The registry must then accept an index with missing manifests.
	Platforms []string
	// OnlyBundles leaves out the workload images. Files and charts of bundles go along.
	OnlyBundles bool
	// Preserve opens a repository by path; if set, a copy also writes every image under its upstream
	// name ([UpstreamPath]).
	Preserve func(ctx context.Context, path string) (oras.GraphTarget, error)
	// Attached selects the attached artifacts to copy; [AttachedKnown] when empty.
	Attached Attached
	// IsVerified reports whether a manifest holds signatures or attestations that were verified
	// by Verify, for [AttachedVerified].
	IsVerified func(manifest digest.Digest) bool
	// NoImageSignatures leaves out what is attached to workload images.
	NoImageSignatures bool
	// TemporaryDir is the folder of the temporary files that layers are made with from deltas; the
	// system's when empty.
	TemporaryDir string
	// WholeLayers copies layers whole, though deltas of them are published next to the root.
	WholeLayers bool
	// CheckTarget asks the target for every manifest and blob, or sends it. Without it a closure or a manifest at the
	// target proves that everything below is there too, which saves most requests, but does not see what
	// the target has lost. An import always asks or sends.
	CheckTarget bool
	// Concurrency is how many items are copied at once; 4 when zero.
	Concurrency int
	// Progress receives events; nil drops them.
	Progress progress.Func
}

// Report is the result of a copy.
type Report struct {
	// Roots are the bundles and runtimes, in the order in which they were asked for.
	Roots []RootReport
	// Attached are the signatures and other referrers that were copied. Signatures under a tag that
	// the target had too are merged into one manifest.
	Attached []ocispec.Descriptor
	// Copied, Mounted and Present count items by how they got to the target; CopiedBytes is the size of
	// the copied ones. A registry is not asked for each small item while it lacks everything: if it has one after all, that
	// counts as copied.
	Copied, Mounted, Present int64
	CopiedBytes              int64
	// PresentBytes is the size of what was there, items and the parts of items that an earlier attempt had
	// sent, as far as it was looked at.
	PresentBytes int64
	// Made counts the copied layers that were made from published deltas, MadeBytes is their size and
	// DeltaBytes that of the deltas, which were read instead.
	Made, MadeBytes, DeltaBytes int64
}

// RootReport describes a copied root.
type RootReport struct {
	// Root is the bundle or runtime, Closure the index of everything copied; Closure is empty if
	// images were left out.
	Root, Closure ocispec.Descriptor
	// Kind is [bundle.KindBundle] or [bundle.KindRuntime], Metadata the metadata in the root.
	Kind     string
	Metadata bundle.Metadata
	// Tags are the tags that were set on the root.
	Tags []string
	// Bundles and Images count those of the root, and Cargo its files and charts.
	Bundles, Images, Cargo int
}

// Copy copies roots to a target. It returns [*IncompleteError] if something that they need is not
// found, [*bundle.TagError] and [*MovedTagError].
func Copy(ctx context.Context, sources []Source, dst oras.GraphTarget, o Options) (*Report, error) {
	p, err := PlanCopy(ctx, sources, dst, o)
	if err != nil {
		return nil, err
	}
	return p.Copy(ctx, dst)
}

// PlanCopy returns the plan that [Copy] would carry out; it writes nothing. It returns the errors of Copy.
func PlanCopy(ctx context.Context, sources []Source, dst oras.GraphTarget, o Options) (*Plan, error) {
	if err := checkSources(sources); err != nil {
		return nil, err
	}
	if dst == nil {
		return nil, errNoTarget
	}
	sources, err := applyDeltas(ctx, sources, dst, o)
	if err != nil {
		return nil, err
	}
	return makePlan(ctx, sources, dst, o)
}

// Copy copies the plan to a target.
func (p *Plan) Copy(ctx context.Context, dst oras.GraphTarget) (_ *Report, err error) {
	if dst == nil {
		return nil, errNoTarget
	}
	ctx, end := tracing.Start(ctx, "copy plan", tracing.Items(len(p.nodes)), tracing.Bytes(p.Size()))
	defer func() { end(err) }()
	p.options.Progress.Emit(progress.Event{Kind: progress.Planned, Items: len(p.nodes), Bytes: p.Size()})
	c := newCopier(p, dst)
	if err := c.copyPlan(ctx); err != nil {
		return nil, err
	}
	if p.options.Preserve != nil {
		if err := p.preserveNames(ctx, dst); err != nil {
			return nil, err
		}
	}
	c.report.Roots = p.Roots()
	return &c.report, nil
}

// Roots describes the roots of the plan, in the order in which they were asked for.
func (p *Plan) Roots() []RootReport {
	reports := make([]RootReport, len(p.roots))
	for i, r := range p.roots {
		reports[i] = RootReport{
			Root: r.desc, Kind: bundle.KindBundle, Metadata: r.artifact.Metadata(), Tags: r.Tags, Closure: r.closure,
			Bundles: len(r.bundles), Images: r.imageCount, Cargo: r.countCargo(),
		}
		if r.artifact.Runtime != nil {
			reports[i].Kind = bundle.KindRuntime
		}
	}
	return reports
}
