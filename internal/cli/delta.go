package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"oras.land/oras-go/v2"

	"krtpkg.dev/krtpkg/internal/place"
	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/result"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

type deltaFlags struct {
	transferFlags
	to     string
	force  bool
	memory string
}

func (a *app) deltaCommand() *cobra.Command {
	var f deltaFlags
	cmd := &cobra.Command{
		Use:   "delta OLD... NEW",
		Short: "publish what changed between versions, so that sites copy less",
		Long: `Delta compares the layers of a new version with those of older ones and publishes the differences
next to the new version, as a referrer of it. A site that has an old version then copies the difference:
"krtpkg copy" finds it, makes the same compressed layer from it, and checks that against its digest.
Digests and signatures do not change; other tools are unaffected.

Each OLD gets its own delta. Name the versions that sites have now. A layer whose delta would not save
a tenth of it is copied whole, as is one of less than 64 KiB; --force publishes whatever is smaller.`,
		Example: `  krtpkg delta registry.example/krt/edge:1.0.0 registry.example/krt/edge:1.1.0
  krtpkg delta --dry-run registry.example/krt/edge:1.0.0 registry.example/krt/edge:1.1.0
  krtpkg delta oci:dist:1.0.0 oci:dist:1.1.0 --to registry.example/krt/edge`,
		GroupID:           groupMake,
		Args:              cobra.MinimumNArgs(2),
		ValidArgsFunction: a.completeReference,
		RunE: func(cmd *cobra.Command, args []string) error {
			last := len(args) - 1
			return a.runDelta(cmd.Context(), args[:last], args[last], f)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.to, "to", "", "repository or folder to publish to, which must have the new version (default: where NEW is)")
	flags.BoolVar(&f.force, "force", false, "publish every delta that is smaller than its layer")
	flags.StringSliceVar(&f.platforms, "platform", nil, "publish deltas only for these platforms of images, as os/architecture[/variant]")
	addDeltaMemory(flags, &f.memory)
	f.addDryRun(cmd)
	f.addSpeed(cmd)
	return cmd
}

func addDeltaMemory(flags *pflag.FlagSet, memory *string) {
	flags.StringVar(memory, "delta-memory", "1GiB", "memory limit for making a delta; with less, deltas of large files are larger")
}

// deltaOptions returns the flags for the library.
func (a *app) deltaOptions(memory string, force bool) (transfer.DeltaOptions, error) {
	bytes, err := humanize.ParseBytes(memory)
	if err != nil || bytes == 0 || bytes > 1<<40 {
		return transfer.DeltaOptions{}, &usageError{fmt.Errorf("--delta-memory %q: want a size such as 512MiB", memory)}
	}
	o := transfer.DeltaOptions{MaxMemory: int64(bytes), Progress: a.ui.Progress("compare")}
	if force {
		o.MinLayer, o.MaxShare = 1, 100
	}
	return o, nil
}

func (a *app) runDelta(ctx context.Context, old []string, version string, f deltaFlags) error {
	made, err := a.deltaOptions(f.memory, f.force)
	if err != nil {
		return err
	}
	roots, err := a.openRoots(ctx, []string{version}, "")
	if err != nil {
		return err
	}
	at, err := place.Parse(version)
	if err != nil {
		return &usageError{err}
	}
	if f.to != "" {
		if at, err = place.Parse(f.to); err != nil {
			return &usageError{err}
		}
		if at.Tag != "" || at.Digest != "" {
			return &usageError{fmt.Errorf("--to %s: name the repository, without a tag", f.to)}
		}
	}
	if at.File != "" && !f.dryRun {
		return &usageError{fmt.Errorf("%s: an archive cannot get deltas: name the repository that has the new version with --to", at)}
	}
	options, err := a.transferOptions(ctx, &f.transferFlags, "delta")
	if err != nil {
		return err
	}
	olds, err := a.openOld(ctx, old)
	if err != nil {
		return err
	}
	plan, err := transfer.NewPlan(ctx, roots, options)
	if err != nil {
		return err
	}
	p := deltaPublisher{app: a, options: options, made: made}
	if !f.dryRun {
		if p.dst, err = at.Create(ctx, olds[0].client); err != nil {
			return err
		}
	}
	r := &result.Delta{DryRun: f.dryRun}
	at.Tag, at.Digest = "", ""
	r.Artifact = describeRoots(at, plan.Roots())[0].Artifact
	if r.Deltas, err = p.publishAll(ctx, plan, olds); err != nil {
		return err
	}
	return a.printResult(ctx, f.format, r, nil, func(w io.Writer) { writeDeltas(w, r) })
}

// openOld opens the versions that deltas are made from.
func (a *app) openOld(ctx context.Context, references []string) (olds []*openedReference, err error) {
	for _, reference := range references {
		old, err := a.openReference(ctx, reference)
		if err != nil {
			return nil, fmt.Errorf("old version: %w", err)
		}
		olds = append(olds, old)
	}
	return olds, nil
}

// deltaPublisher makes deltas of a new version and publishes them.
type deltaPublisher struct {
	*app
	options transfer.Options
	made    transfer.DeltaOptions
	// dst has the new version; nil to publish nothing.
	dst oras.GraphTarget
}

// publishAll publishes the deltas from each of some versions.
func (p deltaPublisher) publishAll(ctx context.Context, plan *transfer.Plan, olds []*openedReference) (list []result.PublishedDeltas, err error) {
	// What a delta makes is checked against the new version's digests: the old one needs no trust.
	o := p.options
	o.Verify, o.Accepts, o.Attached, o.NoImageSignatures = nil, nil, transfer.AttachedKnown, true
	for _, old := range olds {
		if old.root.Digest == plan.Roots()[0].Root.Digest {
			return nil, &usageError{fmt.Errorf("%s: is the new version itself", old.unpinnedReference())}
		}
		base, err := transfer.NewPlan(ctx, []transfer.Source{{Store: old.store, Root: old.root}}, o)
		if err != nil {
			return nil, fmt.Errorf("old version %s: %w", old.unpinnedReference(), err)
		}
		published, err := p.publishFrom(ctx, plan, base)
		if err != nil {
			return nil, err
		}
		published.From = old.pinnedReference()
		list = append(list, *published)
	}
	return list, nil
}

// publishFrom publishes the deltas from one version.
func (p deltaPublisher) publishFrom(ctx context.Context, plan, base *transfer.Plan) (_ *result.PublishedDeltas, err error) {
	deltas, err := plan.MakeDeltas(ctx, []*transfer.Plan{base}, base.ContainsFunc(), p.made)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, deltas.Close()) }()
	p.ui.EndProgress(nil)
	published := &result.PublishedDeltas{SavedBytes: deltas.Saved(), Layers: append([]result.ExportedLayer{}, describeLayers(deltas)...)}
	if p.dst == nil {
		return published, nil
	}
	desc, err := deltas.Publish(ctx, plan.Roots()[0].Root, p.dst, transfer.PublishOptions{Concurrency: p.options.Concurrency, Progress: p.options.Progress})
	published.Digest = desc.Digest.String()
	return published, err
}

// writeDeltas shows what was published.
func writeDeltas(w io.Writer, r *result.Delta) {
	for _, d := range r.Deltas {
		for _, l := range d.Layers {
			ui.Fprintf(w, "%s\t%s\t%s\t%s\n", l.Image, ui.Bytes(l.Bytes), shortDigest(l.Digest), describeLayer(l))
		}
		ui.Fprintln(w, describeDeltas(d, r.DryRun))
	}
}

// describeDeltas returns what was published from one version, for people.
func describeDeltas(d result.PublishedDeltas, dryRun bool) string {
	var whole, count int64
	for _, l := range d.Layers {
		whole += l.Bytes
		if l.DeltaBytes > 0 {
			count++
		}
	}
	from, _, _ := strings.Cut(d.From, "@")
	switch {
	case len(d.Layers) == 0:
		return fmt.Sprintf("from %s: all layers are the same", from)
	case count == 0:
		return fmt.Sprintf("from %s: no layer is worth a delta", from)
	}
	verb := "published"
	if dryRun {
		verb = "would publish"
	}
	return fmt.Sprintf("from %s: %s %s, so that a copy reads %s instead of %s of layers", from, verb, countNoun(int(count), "delta"), ui.Bytes(whole-d.SavedBytes), ui.Bytes(whole))
}

// prepareDeltas opens the versions that push --delta-from names, before anything is pushed.
func (a *app) prepareDeltas(ctx context.Context, to place.Place, f *transferFlags) ([]*openedReference, error) {
	if len(f.deltaFrom) == 0 {
		return nil, nil
	}
	if f.onlyBundles || to.File != "" {
		return nil, &usageError{errors.New("--delta-from requires a registry or a folder as the target, and cannot be used with --only-bundles")}
	}
	if _, err := a.deltaOptions(f.deltaMemory, false); err != nil {
		return nil, err
	}
	var references []string
	for _, from := range f.deltaFrom {
		if !strings.ContainsAny(from, "/:") {
			from = to.WithTag(from).String()
		}
		references = append(references, from)
	}
	return a.openOld(ctx, references)
}

// publishPushed publishes deltas of what was pushed.
func (a *app) publishPushed(ctx context.Context, roots []transfer.Source, olds []*openedReference, dst oras.GraphTarget, o transfer.Options, f *transferFlags) ([]result.PublishedDeltas, error) {
	if len(olds) == 0 {
		return nil, nil
	}
	made, err := a.deltaOptions(f.deltaMemory, false)
	if err != nil {
		return nil, err
	}
	o.Verify, o.Accepts, o.NoImageSignatures = nil, nil, true // it was verified to be pushed
	plan, err := transfer.NewPlan(ctx, roots, o)
	if err != nil {
		return nil, err
	}
	// A tag such as latest leads to the new version once that is pushed: the same command goes on.
	olds = slices.DeleteFunc(olds, func(old *openedReference) bool {
		isNew := old.root.Digest == plan.Roots()[0].Root.Digest
		if isNew {
			a.ui.Note("%s: is the new version itself: no deltas from it", old.unpinnedReference())
		}
		return isNew
	})
	p := deltaPublisher{app: a, options: o, made: made, dst: dst}
	list, err := p.publishAll(ctx, plan, olds)
	for _, d := range list {
		a.ui.Say("deltas %s", describeDeltas(d, false))
	}
	return list, err
}
