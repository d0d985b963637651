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

	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/progress"
)

// Source is a bundle or a runtime to transfer.
type Source struct {
	Store oras.ReadOnlyGraphTarget
	Root  ocispec.Descriptor
	// Tags are set on the root when everything is there.
	Tags []string
	// From is the tag that led to the root; empty where none did.
	From string
	// Where is where the root comes from, for [Options.Verify]: a repository, or empty.
	Where string
}

// Options are the parameters of a transfer.
type Options struct {
	// Origins gives the images that the source does not hold; nil when it has to hold all.
	Origins images.Origins
	// Beside is looked in for what the source lacks, before the origins: the target of an
	// import, which may hold it already. Nil for nowhere.
	Beside content.ReadOnlyStorage
	// Verify is asked about every root before anything is written; nil asks nothing. The
	// store of its source has what is beside, too.
	Verify func(ctx context.Context, source Source) error
	// Accepts is asked about every item of the plan before anything is written; nil accepts all.
	Accepts func(digest.Digest) error
	// AllowRenamedTags lets a tag that is a version lead to another one; see [bundle.TagError].
	AllowRenamedTags bool
	// MaxUnverified is how many bytes of a stream an import holds before it can ask Verify; 32 MiB
	// when zero. Archives that are written today have in front what that takes.
	MaxUnverified int64
	// UnverifiedVolumes lets an import write what is on a volume without asking Verify, where the
	// signatures are on another one. The last volume is verified before tags are set.
	UnverifiedVolumes bool
	// Platforms are those of an index that come along, as os/architecture[/variant]; all
	// when empty. A registry has to take an index without all its platforms then.
	Platforms []string
	// OnlyBundles leaves the workload images where they are.
	OnlyBundles bool
	// Preserve gives repositories by path; if set, a copy also puts every image under its own
	// name there ([UpstreamPath]), for what looks for it by that.
	Preserve func(ctx context.Context, path string) (oras.GraphTarget, error)
	// Attached says which of what is attached comes along; [AttachedKnown] when empty.
	Attached Attached
	// IsVerified reports whether a manifest holds signatures or attestations that were verified
	// by Verify, for [AttachedVerified].
	IsVerified func(manifest digest.Digest) bool
	// NoImageSignatures leaves out what upstream attached to the workload images.
	NoImageSignatures bool
	// Concurrency is how many items are moved at once; 4 when zero.
	Concurrency int
	// Progress takes events; nil drops them.
	Progress progress.Func
}

// Report says what a copy did.
type Report struct {
	// Roots are the bundles and runtimes, in the order in which they were asked for.
	Roots []RootReport
	// Attached are the signatures and other referrers that came along. Signatures under a
	// tag that the target had too are one manifest with those of both.
	Attached []ocispec.Descriptor
	// Copied, Mounted and Present count the items by what was done with them; CopiedBytes
	// is the size of those that were copied.
	Copied, Mounted, Present int64
	CopiedBytes              int64
}

// RootReport is about one root of a copy.
type RootReport struct {
	// Root is the bundle or runtime, Closure the index over everything that came along; the
	// latter is empty where images were left out.
	Root, Closure ocispec.Descriptor
	// Tags were set on the root.
	Tags []string
	// Bundles and Images are how many of each the root has.
	Bundles, Images int
}

// Copy copies roots to a target. Errors: [*IncompleteError] when something that they need is
// nowhere to be found, and [*bundle.TagError].
func Copy(ctx context.Context, sources []Source, dst oras.GraphTarget, o Options) (*Report, error) {
	p, err := plan(ctx, sources, dst, o)
	if err != nil {
		return nil, err
	}
	return p.Copy(ctx, dst)
}

// Copy copies the plan to a target.
func (p *Plan) Copy(ctx context.Context, dst oras.GraphTarget) (*Report, error) {
	p.options.Progress.Emit(progress.Event{Kind: progress.Planned, Items: len(p.nodes), Bytes: p.Size()})
	c := newCopier(p, dst)
	if err := c.copy(ctx); err != nil {
		return nil, err
	}
	if p.options.Preserve != nil {
		if err := p.preserve(ctx, dst); err != nil {
			return nil, err
		}
	}
	for _, r := range p.roots {
		c.report.Roots = append(c.report.Roots, RootReport{Root: r.desc, Tags: r.Tags, Closure: r.closure, Bundles: len(r.bundles), Images: r.images})
	}
	return &c.report, nil
}
