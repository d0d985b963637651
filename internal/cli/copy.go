package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"oras.land/oras-go/v2"

	"krtpkg.dev/krtpkg/internal/place"
	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/graph"
	"krtpkg.dev/krtpkg/pkg/registry"
	"krtpkg.dev/krtpkg/pkg/result"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

// transferFlags are those of every command that moves bundles and their images.
type transferFlags struct {
	platforms   []string
	onlyBundles bool
	noImageSigs bool
	concurrency int
	dryRun      bool
	paths       string
	attached    string
	// layerDeltas is copy's --delta, deltaFrom and deltaMemory are push's.
	layerDeltas string
	deltaFrom   []string
	deltaMemory string

	// maxUnverified and unverifiedVolumes are import's.
	maxUnverified     string
	unverifiedVolumes bool

	// checkTarget asks the target for every item, or sends it.
	checkTarget bool

	// moveTags and allowDowngrade are what tags of the target may do besides going on to newer versions.
	moveTags, allowDowngrade bool

	list   string
	trust  trustFlags
	format ui.Format
}

func (f *transferFlags) addTransferFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringSliceVar(&f.platforms, "platform", nil, "copy only these platforms of images, as os/architecture[/variant]; the target must accept incomplete indexes")
	flags.BoolVar(&f.noImageSigs, "no-image-signatures", false, "leave out signatures and other referrers of upstream images")
	f.addAttached(cmd)
	f.addSpeed(cmd)
}

// addAttached adds the flag of what comes along with what is asked for.
func (f *transferFlags) addAttached(cmd *cobra.Command) {
	values := []string{string(transfer.AttachedVerified), string(transfer.AttachedKnown), string(transfer.AttachedAll)}
	cmd.Flags().StringVar(&f.attached, "attached", string(transfer.AttachedKnown), "which referrers to copy: verified (the root's signatures and attestations by trusted signers), known (signatures, attestations, SBOMs and reports, 64 MiB each), all")
	_ = cmd.RegisterFlagCompletionFunc("attached", cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

func (f *transferFlags) addPaths(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.paths, "paths", "flat", "target of images: flat copies them to the target's repository; preserve also copies them below it under their own names, TARGET/quay.io/org/app:tag, for nodes that use it as a mirror")
	_ = cmd.RegisterFlagCompletionFunc("paths", cobra.FixedCompletions([]string{"flat", "preserve"}, cobra.ShellCompDirectiveNoFileComp))
}

// preserveNames returns the repositories below a target.
func (f *transferFlags) preserveNames(to place.Place, client *registry.Client) (func(context.Context, string) (oras.GraphTarget, error), error) {
	switch {
	case f.paths == "" || f.paths == "flat":
		return nil, nil
	case f.paths != "preserve":
		return nil, &usageError{fmt.Errorf("--paths %q: want flat or preserve", f.paths)}
	case !to.IsRegistry() || f.onlyBundles:
		return nil, &usageError{fmt.Errorf("--paths preserve requires a registry as the target, and cannot be used with --only-bundles")}
	}
	return func(ctx context.Context, path string) (oras.GraphTarget, error) {
		return client.Repository(ctx, to.Repository+"/"+path)
	}, nil
}

// addSpeed adds the flags that change nothing of what moves.
func (f *transferFlags) addSpeed(cmd *cobra.Command) {
	cmd.Flags().IntVarP(&f.concurrency, "concurrency", "j", 4, "number of blobs to copy in parallel")
	f.trust.addTrustFlags(cmd)
	outputFlag(cmd, &f.format)
}

// addMoving adds the flags by which published tags move other than to newer versions.
func (f *transferFlags) addMoving(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.moveTags, "move-tags", false, "move tags that name another build of the version, an older version or another name")
}

// addDowngrade adds the flag by which tags go back.
func (f *transferFlags) addDowngrade(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.allowDowngrade, "allow-downgrade", false, "move tags back to an older version")
}

func (f *transferFlags) addBundles(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.onlyBundles, "only-bundles", false, "leave out workload images")
}

// addCheck adds the flag that repairs a target.
func (f *transferFlags) addCheck(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.checkTarget, "check", false, "send again whatever the target has lost; without it an existing version counts as complete")
}

func (f *transferFlags) addDryRun(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "show what would be copied without copying")
}

// transferOptions returns the flags for the library. What moves is verified by the policy files, if there are
// any; what is only counted and checked, if flags say so.
func (a *app) transferOptions(ctx context.Context, f *transferFlags, verb string) (transfer.Options, error) {
	client, err := a.newClient()
	if err != nil {
		return transfer.Options{}, err
	}
	if f.concurrency < 1 || f.concurrency > 64 {
		return transfer.Options{}, &usageError{fmt.Errorf("--concurrency %d: want 1 to 64", f.concurrency)}
	}
	o := transfer.Options{
		Origins: client, Platforms: f.platforms, OnlyBundles: f.onlyBundles, NoImageSignatures: f.noImageSigs, MoveTags: f.moveTags,
		AllowDowngrade: f.allowDowngrade, AllowRenamedTags: a.settings.allowRenamed,
		Concurrency: f.concurrency, Progress: a.ui.Progress(verb), WholeLayers: f.layerDeltas == deltaOff, CheckTarget: f.checkTarget,
	}
	if f.layerDeltas != "" && f.layerDeltas != deltaAuto && f.layerDeltas != deltaOff {
		return o, &usageError{fmt.Errorf("--delta %q: want auto or off", f.layerDeltas)}
	}
	switch o.Attached = transfer.Attached(f.attached); o.Attached {
	case "", transfer.AttachedKnown, transfer.AttachedVerified, transfer.AttachedAll:
	default:
		return o, &usageError{fmt.Errorf("--attached %q: want verified, known or all", f.attached)}
	}
	guarded := slices.Contains([]string{"copy", "import", "push", "export"}, verb)
	if err := a.verifyTransfer(ctx, &f.trust, guarded, &o); err != nil {
		return o, err
	}
	if o.Attached == transfer.AttachedVerified && o.Verify == nil {
		return o, &usageError{errors.New("--attached verified requires verification: pass --key, --certificate-identity or --policy")}
	}
	if o.Verify == nil && guarded && verb != "push" {
		a.ui.Note("note: not verified: %s", unverifiedReason(f.trust.allowUnsigned))
	}
	return o, nil
}

// unverifiedReason returns why nothing was verified.
func unverifiedReason(allowed bool) string {
	if allowed {
		return "--allow-unsigned"
	}
	return "pass --key, --certificate-identity or --policy"
}

func (a *app) pushCommand() *cobra.Command {
	var f transferFlags
	cmd := &cobra.Command{
		Use:   "push oci:FOLDER[:TAG] REGISTRY/REPOSITORY[:TAG]",
		Short: "publish a bundle or a runtime with all its images",
		Long: `Push publishes a bundle or a runtime with its nested bundles, all platforms of every workload
image, and what is attached to them. Images that the folder lacks are copied from their own
registries or from --image-mirror.

The tag is set last, so it never names an incomplete runtime. To resume an interrupted push, run
it again. A published version stays: a tag moves only to a newer version, unless you pass --move-tags.`,
		Example: `  krtpkg push oci:dist:1.0.0 registry.example/krt/edge:1.0.0
  krtpkg push oci:dist:1.1.0 registry.example/krt/edge --delta-from 1.0.0`,
		GroupID: groupMake,
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if to, err := place.Parse(args[1]); err == nil && !to.IsRegistry() {
				return &usageError{fmt.Errorf("push to %s: want REGISTRY/REPOSITORY[:TAG]; krtpkg copy writes folders and archives", args[1])}
			}
			return a.runCopy(cmd.Context(), "push", args[:1], args[1], &f)
		},
	}
	f.addTransferFlags(cmd)
	f.addPaths(cmd)
	f.addBundles(cmd)
	f.addDryRun(cmd)
	f.addCheck(cmd)
	cmd.Flags().StringSliceVar(&f.deltaFrom, "delta-from", nil, "tags of older versions at the target: publish what changed since, so that sites copy less (see krtpkg delta)")
	addDeltaMemory(cmd.Flags(), &f.deltaMemory)
	f.addMoving(cmd)
	f.trust.addUnsigned(cmd, "push even if a policy file would refuse it, for example to sign it there")
	return cmd
}

func (a *app) copyCommand() *cobra.Command {
	var f transferFlags
	cmd := &cobra.Command{
		Use:   "copy SOURCE... TARGET",
		Short: "copy bundles and runtimes with all their images",
		Long: `Copy copies bundles and runtimes with their nested bundles, images, signatures and other
referrers from one place to another: to mirror them, to promote them, or to carry them in a folder
or an archive. Without a tag, the target gets the tag of the source.

Where deltas are published next to the source (see krtpkg delta), a changed layer is made from its
difference and from what the target has, and checked against its digest. If a delta is invalid, this is
reported and the whole layer is copied.

To resume an interrupted copy, run it again; it continues even within a blob. To repair a registry that
lost content, copy with --check: it asks the target for every item, or sends it without asking if it is small.
A tag of the target moves only to a newer version, unless you pass --allow-downgrade or --move-tags.

With --list, a file names sources, versions, tags and targets (docs/MIRRORING.md).`,
		Example: `  krtpkg copy registry.example/krt/edge:1.0.0 site.example/krt/edge:1.0.0
  krtpkg copy registry.example/krt/edge:1.0.0 registry.example/krt/edge:1.1.0 oci:media
  krtpkg copy --dry-run registry.example/krt/edge:1.1.0 site.example/krt/edge
  krtpkg copy --list mirror.yaml`,
		GroupID: groupMake,
		Args: func(cmd *cobra.Command, args []string) error {
			if f.list != "" {
				return noArguments(cmd, args)
			}
			return cobra.MinimumNArgs(2)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.list != "" {
				return a.copyList(cmd.Context(), f.list, &f)
			}
			last := len(args) - 1
			return a.runCopy(cmd.Context(), "copy", args[:last], args[last], &f)
		},
	}
	f.addTransferFlags(cmd)
	f.addPaths(cmd)
	f.addBundles(cmd)
	f.addDryRun(cmd)
	f.addCheck(cmd)
	f.addMoving(cmd)
	f.addDowngrade(cmd)
	f.trust.addUnsigned(cmd, "copy even if a policy file would refuse it")
	cmd.Flags().StringVar(&f.layerDeltas, "delta", deltaAuto, "auto makes changed layers from published deltas, off copies them whole, which needs less CPU")
	_ = cmd.RegisterFlagCompletionFunc("delta", cobra.FixedCompletions([]string{deltaAuto, deltaOff}, cobra.ShellCompDirectiveNoFileComp))
	cmd.Flags().StringVar(&f.list, "list", "", "file that lists what to copy, and to which target")
	return cmd
}

func (a *app) runCopy(ctx context.Context, verb string, sources []string, target string, f *transferFlags) error {
	to, err := place.Parse(target)
	if err != nil {
		return &usageError{err}
	}
	r, err := a.copyTo(ctx, verb, sources, to, f)
	if err != nil {
		return err
	}
	return a.printResult(ctx, f.format, r, nil, func(w io.Writer) { writeTransfer(w, r, to.Location()) })
}

// copyTo copies sources to a target, or compares them with it.
func (a *app) copyTo(ctx context.Context, verb string, sources []string, to place.Place, f *transferFlags) (*result.Transfer, error) {
	if to.File != "" {
		if to.Tag != "" {
			return nil, &usageError{fmt.Errorf("%s: an archive keeps the tags of its content: name it without a tag", to)}
		}
		if _, err := f.preserveNames(to, nil); err != nil {
			return nil, err
		}
		return a.exportTo(ctx, sources, to.File, exportFlags{transferFlags: *f})
	}
	if to.Digest != "" {
		return nil, &usageError{fmt.Errorf("%s: a target cannot have a digest: name it by a tag", to)}
	}
	if to.Tag != "" && len(sources) > 1 {
		return nil, &usageError{fmt.Errorf("%s: several sources keep their tags: name the target without a tag", to)}
	}
	roots, err := a.openRoots(ctx, sources, to.Tag)
	if err != nil {
		return nil, err
	}
	options, err := a.transferOptions(ctx, f, verb)
	if err != nil {
		return nil, err
	}
	client, err := a.newClient()
	if err != nil {
		return nil, err
	}
	dst, err := to.Create(ctx, client)
	if err != nil {
		return nil, err
	}
	if options.Preserve, err = f.preserveNames(to, client); err != nil {
		return nil, err
	}
	olds, err := a.prepareDeltas(ctx, to, f)
	if err != nil {
		return nil, err
	}
	if f.dryRun {
		plan, err := transfer.PlanCopy(ctx, roots, dst, options)
		if err != nil {
			return nil, err
		}
		return comparePlan(ctx, plan, to, dst)
	}
	report, err := transfer.Copy(ctx, roots, dst, options)
	if err != nil {
		return nil, err
	}
	a.sayCopied(report)
	r := describeCopy(to, report)
	r.Deltas, err = a.publishPushed(ctx, roots, olds, dst, options, f)
	return r, err
}

// openRoots open the sources of a transfer. Each gets its tag, or all get one.
func (a *app) openRoots(ctx context.Context, references []string, tag string) ([]transfer.Source, error) {
	var sources []transfer.Source
	taken := map[string]string{}
	for _, reference := range references {
		from, err := a.openReference(ctx, reference)
		if err != nil {
			return nil, err
		}
		version := tag
		if version == "" {
			if version, err = from.versionTag(ctx); err != nil {
				return nil, err
			}
		}
		if other := taken[version]; other != "" {
			return nil, &usageError{fmt.Errorf("%s and %s would both get tag %s", other, reference, version)}
		}
		taken[version] = reference
		sources = append(sources, transfer.Source{Store: from.store, Root: from.root, Tags: []string{version}, From: from.Tag, Pinned: from.Digest != "", Where: from.Repository})
	}
	return sources, nil
}

// comparePlan returns what the copy of a plan would do.
func comparePlan(ctx context.Context, plan *transfer.Plan, to place.Place, dst oras.GraphTarget) (*result.Transfer, error) {
	d, err := plan.Compare(ctx, dst)
	if err != nil {
		return nil, err
	}
	return &result.Transfer{
		DryRun: true, Roots: describeRoots(to, plan.Roots()), Items: int64(d.Items), Bytes: d.Bytes,
		CopiedItems: int64(d.Items - d.ThereItems), CopiedBytes: d.Bytes - d.ThereBytes, PresentItems: int64(d.ThereItems), PresentBytes: d.ThereBytes,
		MadeItems: d.MadeItems, MadeBytes: d.MadeBytes, DeltaBytes: d.DeltaBytes,
	}, nil
}

// writeTransfer shows what a transfer did, or would do; to is where it goes.
func writeTransfer(w io.Writer, r *result.Transfer, to string) {
	switch {
	case len(r.Files) > 0:
		for _, file := range r.Files {
			ui.Fprintf(w, "%s\t%s\n", file.Name, ui.Bytes(file.Bytes))
		}
		for _, l := range r.Layers {
			ui.Fprintf(w, "%s\t%s\t%s\t%s\n", l.Image, ui.Bytes(l.Bytes), shortDigest(l.Digest), describeLayer(l))
		}
	case r.DryRun:
		ui.Fprintf(w, "would copy %s to %s: %s; %s (%s) present\n", countNoun(int(r.CopiedItems), "item"), to,
			ui.Bytes(r.CopiedBytes), countNoun(int(r.PresentItems), "item"), ui.Bytes(r.PresentBytes))
		if r.MadeItems > 0 {
			ui.Fprintln(w, describeMade(r))
		}
	default:
		for _, root := range r.Roots {
			if len(root.Tags) > 1 {
				ui.Fprintf(w, "%s (also tagged %s)\n", root.Reference, strings.Join(root.Tags[1:], ", "))
				continue
			}
			ui.Fprintln(w, root.Reference)
		}
	}
}

// describeCopy returns what results say of a copy.
func describeCopy(to place.Place, report *transfer.Report) *result.Transfer {
	r := &result.Transfer{
		Roots: describeRoots(to, report.Roots), Items: report.Copied + report.Mounted + report.Present,
		CopiedItems: report.Copied, CopiedBytes: report.CopiedBytes, MountedItems: report.Mounted, PresentItems: report.Present, PresentBytes: report.PresentBytes,
		MadeItems: report.Made, MadeBytes: report.MadeBytes, DeltaBytes: report.DeltaBytes,
	}
	for _, d := range report.Attached {
		r.Referrers = append(r.Referrers, d.Digest.String())
	}
	return r
}

// sayCopied says what was copied, and what had to move for it, on a line each: both fit on a terminal.
func (a *app) sayCopied(r *transfer.Report) {
	bundles, images, cargo := 0, 0, 0
	for _, root := range r.Roots {
		bundles += root.Bundles
		images += root.Images
		cargo += root.Cargo
	}
	carried := ""
	if cargo > 0 {
		carried = countNoun(cargo, "file or chart") + ", "
		if cargo > 1 {
			carried = fmt.Sprintf("%d files and charts, ", cargo)
		}
	}
	a.ui.Say("%s, %s, %s%s", countNoun(bundles, "nested bundle"), countNoun(images, "image"), carried, countNoun(len(r.Attached), "referrer"))
	a.ui.Say("%s (%s) copied, %d mounted, %d (%s) already present", countNoun(int(r.Copied), "item"), ui.Bytes(r.CopiedBytes), r.Mounted, r.Present, ui.Bytes(r.PresentBytes))
	if r.Made > 0 {
		a.ui.Say("%s", describeMade(&result.Transfer{MadeItems: r.Made, MadeBytes: r.MadeBytes, DeltaBytes: r.DeltaBytes}))
	}
}

// describeMade returns what deltas saved, for people.
func describeMade(r *result.Transfer) string {
	return fmt.Sprintf("%s of these from deltas: %s read instead of %s, %s saved", countNoun(int(r.MadeItems), "layer"), ui.Bytes(r.DeltaBytes), ui.Bytes(r.MadeBytes), ui.Bytes(r.MadeBytes-r.DeltaBytes))
}

func countNoun(n int, what string) string { return graph.CountNoun(n, what) }

// describeRoots returns what results say of the roots of a transfer, each by the first of its tags.
func describeRoots(to place.Place, roots []transfer.RootReport) []result.Root {
	all := make([]result.Root, len(roots))
	for i, r := range roots {
		at := to.WithTag("")
		if len(r.Tags) > 0 {
			at.Tag = r.Tags[0]
		}
		at.Digest = r.Root.Digest
		all[i] = result.Root{
			Artifact: result.Artifact{Reference: at.String(), Kind: r.Kind, Name: r.Metadata.Name, Version: r.Metadata.Version, Digest: r.Root.Digest.String()},
			Tags:     append([]string{}, r.Tags...), Closure: r.Closure.Digest.String(), BundleCount: r.Bundles, ImageCount: r.Images, CargoCount: r.Cargo,
		}
	}
	return all
}

var errNoArchive = errors.New("want an archive, FILE.tar or FILE.tar.zst, or - for a stream")
