package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/internal/place"
	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/progress"
	"krtpkg.dev/krtpkg/pkg/result"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

type exportFlags struct {
	transferFlags
	bases      []string
	volumeSize string
	zstd       bool
	// delta is off where it is empty.
	delta  string
	memory string
	parity parityFlags
	// nodes is the kind of nodes that get image archives instead; "" for an archive.
	nodes string
	// force replaces an archive of other versions.
	force bool
}

func (a *app) exportCommand() *cobra.Command {
	var f exportFlags
	cmd := &cobra.Command{
		Use:   "export REFERENCE... FILE.tar|-|FOLDER",
		Short: "write bundles and runtimes with all their images into an archive",
		Long: `Export writes an archive of bundles and runtimes with everything that they need and what is
attached to them: an OCI image layout in a tar. The same content gives the same bytes. Use - for
standard output.

With --base the archive leaves out what a site already has: a version that it runs, an earlier
archive, or the inventory that "krtpkg inventory" wrote there. With --delta auto, a changed layer is
written as its difference from layers of the base if that is smaller; the import restores the same
bytes, so digests and signatures stay valid. --dry-run shows it layer by layer.
With --volume-size the archive is split into files that can be checked and imported one by one, in any order.

With --parity 10%, damage of up to a tenth of a file is repaired by the import, or by "krtpkg check --repair":
bad sectors, scratches, a destroyed beginning. With --parity-volumes N, any N volumes can be lost.

With --for it writes the images of each bundle into a folder, in the form that nodes load without a registry,
under the names that pods use when a runtime is applied from an archive.

To resume an interrupted export, run it again. A file that holds other versions is replaced only with
--force. A version older than that of the base is exported only with --allow-downgrade.`,
		Example: `  krtpkg export registry.example/krt/edge:1.0.0 edge-1.0.0.tar
  krtpkg export registry.example/krt/edge:1.1.0 --base registry.example/krt/edge:1.0.0 edge-1.1.0.tar
  krtpkg export registry.example/krt/edge:1.1.0 --base have.json --delta auto edge-1.1.0.tar
  krtpkg export registry.example/krt/edge:1.0.0 --volume-size 4GB edge.tar
  krtpkg export registry.example/krt/edge:1.0.0 --volume-size 4GB --parity 10% --parity-volumes 1 edge.tar
  krtpkg export registry.example/krt/edge:1.0.0 --for k3s --platform linux/arm64 images
  krtpkg export registry.example/krt/edge:1.0.0 - | ssh site krtpkg import - site.example/krt/edge`,
		GroupID: groupCarry,
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			last := len(args) - 1
			if f.nodes != "" {
				return a.exportForNodes(cmd.Context(), args[:last], args[last], f)
			}
			return a.runExport(cmd.Context(), args[:last], args[last], f)
		},
	}
	f.addTransferFlags(cmd)
	f.trust.addUnsigned(cmd, "export even if a policy file would refuse it")
	f.addDryRun(cmd)
	cmd.Flags().StringArrayVar(&f.bases, "base", nil, "leave out the content of a reference, an archive or an inventory (*.json); can be repeated")
	cmd.Flags().StringVar(&f.delta, "delta", deltaOff, "write changed layers as differences from those of --base: off, auto (where one saves a tenth or more) or force (wherever one is smaller)")
	_ = cmd.RegisterFlagCompletionFunc("delta", cobra.FixedCompletions([]string{deltaOff, deltaAuto, deltaForce}, cobra.ShellCompDirectiveNoFileComp))
	addDeltaMemory(cmd.Flags(), &f.memory)
	cmd.Flags().StringVar(&f.volumeSize, "volume-size", "", "write files of at most this size, such as 4GB or 700MiB")
	f.parity.addFlags(cmd.Flags())
	addNodeFlag(cmd, &f.nodes)
	cmd.Flags().BoolVar(&f.force, "force", false, "replace a file that holds other versions, or is not an archive")
	cmd.Flags().BoolVar(&f.allowDowngrade, "allow-downgrade", false, "export a version older than the one that --base names")
	cmd.Flags().BoolVar(&f.zstd, "zstd", false, "compress the whole archive; it can then only be checked and imported (layers are compressed anyway)")
	return cmd
}

// What --delta takes.
const (
	deltaOff   = "off"
	deltaAuto  = "auto"
	deltaForce = "force"
)

func (a *app) runExport(ctx context.Context, references []string, file string, f exportFlags) error {
	r, err := a.exportTo(ctx, references, file, f)
	if err != nil || file == "-" {
		return err
	}
	return a.printResult(ctx, f.format, r, nil, func(w io.Writer) { writeTransfer(w, r, file) })
}

// exportTo writes an archive of what references lead to, as one file or several, or as a stream.
func (a *app) exportTo(ctx context.Context, references []string, file string, f exportFlags) (_ *result.Transfer, err error) {
	limit, err := f.checkValues(file)
	if err != nil {
		return nil, err
	}
	roots, err := a.openRoots(ctx, references, "")
	if err != nil {
		return nil, err
	}
	options, err := a.transferOptions(ctx, &f.transferFlags, "export")
	if err != nil {
		return nil, err
	}
	plan, err := transfer.NewPlan(ctx, roots, options)
	if err != nil {
		return nil, err
	}
	base, err := a.readBases(ctx, f, roots, options)
	if err != nil {
		return nil, err
	}
	if !f.allowDowngrade {
		for _, site := range base.sites {
			if err := plan.CheckDowngrade(site.name, site.versions); err != nil {
				return nil, fmt.Errorf("export: %w", err)
			}
		}
	}
	contents := plan.ArchiveContents(base.has, base.names)
	contents.Parity, contents.ParityVolumes = f.parity.percent, f.parity.volumes
	var from content.Fetcher = plan
	var deltas *transfer.Deltas
	if f.delta != deltaOff {
		if deltas, err = a.makeDeltas(ctx, plan, base, f); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, deltas.Close()) }()
		contents, from = deltas.AddTo(contents), deltas.WithDeltas(plan)
	}
	if file == "-" {
		options.Progress = plan.NameItems(options.Progress)
		options.Progress.Emit(plannedEvent(contents))
		return nil, archive.Write(ctx, a.ui.Out, contents, from, archive.Options{Compress: f.zstd, Concurrency: f.concurrency, Progress: options.Progress})
	}
	volumes, names := []archive.Contents{contents}, []string{file}
	if limit > 0 {
		if volumes, err = contents.Split(limit); err != nil {
			return nil, err
		}
		names = archive.VolumeNames(file, len(volumes))
	}
	if !f.force {
		for _, name := range names {
			if err := refuseOtherArchive(ctx, name, plan); err != nil {
				return nil, err
			}
		}
		if err := refuseOtherParity(ctx, file, f.parity.volumes); err != nil {
			return nil, err
		}
	}
	r := &result.Transfer{DryRun: f.dryRun, Base: base.names, Bytes: plan.Size(), Layers: describeLayers(deltas)}
	if !f.dryRun && !f.zstd {
		if err := archive.CheckSpace(names, archive.ParityVolumeNames(file, f.parity.volumes), volumes); err != nil {
			return nil, fmt.Errorf("export %s: %w", file, err)
		}
	}
	whole := progress.Event{Kind: progress.Planned}
	for _, c := range volumes {
		planned := plannedEvent(c)
		whole.Items, whole.Bytes = whole.Items+planned.Items, whole.Bytes+planned.Bytes
	}
	r.CopiedItems, r.CopiedBytes = int64(whole.Items), whole.Bytes
	report := plan.NameItems(options.Progress)
	if !f.dryRun {
		report.Emit(whole) // of all volumes, so that it does not begin again with each
	}
	r.Items = int64(plan.Len())
	r.PresentItems, r.PresentBytes = max(0, r.Items-r.CopiedItems), max(0, r.Bytes-r.CopiedBytes)
	for i, name := range names {
		if len(names) > 1 {
			a.ui.Say("volume %d of %d: %s", i+1, len(names), name)
		}
		written, err := a.writeArchive(ctx, name, volumes[i], from, f, report)
		if err != nil {
			return nil, err
		}
		r.Files = append(r.Files, *written)
	}
	if f.parity.volumes > 0 {
		files, err := a.writeParityVolumes(ctx, file, names, volumes, f, report)
		if err != nil {
			return nil, err
		}
		r.Files = append(r.Files, files...)
	}
	r.Roots = describeRoots(place.Place{File: names[0]}, plan.Roots())
	return r, nil
}

// makeDeltas makes the deltas that --delta asks for.
func (a *app) makeDeltas(ctx context.Context, plan *transfer.Plan, base *exportBase, f exportFlags) (*transfer.Deltas, error) {
	o, err := a.deltaOptions(f.memory, f.delta == deltaForce)
	if err != nil {
		return nil, err
	}
	for _, name := range base.unread {
		a.ui.Note("note: no deltas from %s: the source does not have it; name it with --base too", name)
	}
	deltas, err := plan.MakeDeltas(ctx, base.plans, base.has, o)
	if err != nil {
		return nil, err
	}
	a.ui.EndProgress(nil)
	if saved := deltas.Saved(); saved > 0 {
		a.ui.Say("deltas save %s", ui.Bytes(saved))
	}
	return deltas, nil
}

// describeLayers returns what results say of the layers that the base lacks.
func describeLayers(deltas *transfer.Deltas) (list []result.ExportedLayer) {
	if deltas == nil {
		return nil
	}
	for _, l := range deltas.Layers {
		layer := result.ExportedLayer{
			Image: l.Image, Digest: l.Layer.String(), Bytes: l.Size, DeltaBytes: l.DeltaSize, Encoder: l.Encoder, Reason: l.Why,
		}
		for _, d := range l.Bases {
			layer.From = append(layer.From, d.String())
		}
		list = append(list, layer)
	}
	return list
}

// describeLayer returns how a layer travels, for people.
func describeLayer(l result.ExportedLayer) string {
	if l.Reason != "" {
		return "whole: " + l.Reason
	}
	from := make([]string, len(l.From))
	for i, d := range l.From {
		from[i] = shortDigest(d)
	}
	return fmt.Sprintf("delta of %s, %.1f %%, from %s", ui.Bytes(l.DeltaBytes), 100*float64(l.DeltaBytes)/float64(l.Bytes), strings.Join(from, " and "))
}

// shortDigest returns as much of a digest as people compare.
func shortDigest(d string) string { return d[:min(len(d), len("sha256:")+12)] }

func (f *exportFlags) checkValues(file string) (limit int64, err error) {
	if strings.HasSuffix(file, ".zst") {
		f.zstd = true
	}
	f.delta = cmp.Or(f.delta, deltaOff)
	switch {
	case file == "-" && f.format != "":
		return 0, &usageError{errors.New("--output cannot be used with - (standard output): the archive is the result")}
	case file == "-" && f.dryRun:
		return 0, &usageError{errors.New("--dry-run cannot be used with - (standard output): name a file")}
	case f.delta != deltaOff && f.delta != deltaAuto && f.delta != deltaForce:
		return 0, &usageError{fmt.Errorf("--delta %q: want off, auto or force", f.delta)}
	case f.delta != deltaOff && len(f.bases) == 0:
		return 0, &usageError{fmt.Errorf("--delta %s: name what the site has with --base", f.delta)}
	}
	if p, err := place.Parse(file); file != "-" && (err != nil || p.File == "") {
		return 0, &usageError{fmt.Errorf("%q: %w", file, errNoArchive)}
	}
	if err := f.parity.parsePercent(file == "-" || f.zstd, f.volumeSize != ""); err != nil {
		return 0, err
	}
	if f.volumeSize == "" {
		return 0, nil
	}
	size, err := humanize.ParseBytes(f.volumeSize)
	switch {
	case err != nil || size == 0 || size > 1<<62:
		return 0, &usageError{fmt.Errorf("--volume-size %q: want a size such as 4GB or 700MiB", f.volumeSize)}
	case file == "-" || f.zstd:
		return 0, &usageError{fmt.Errorf("--volume-size cannot be used with - (standard output), --zstd or a file named *.zst: sizes must be known in advance")}
	}
	return int64(size), nil
}

func plannedEvent(c archive.Contents) progress.Event {
	e := progress.Event{Kind: progress.Planned, Items: len(c.Manifests) + len(c.Front) + len(c.Blobs)}
	for _, d := range slices.Concat(c.Manifests, c.Front, c.Blobs) {
		e.Bytes += d.Size
	}
	return e
}

func (a *app) writeArchive(ctx context.Context, name string, c archive.Contents, from content.Fetcher, f exportFlags, report progress.Func) (*result.File, error) {
	if f.dryRun {
		size, err := c.Size()
		return &result.File{Name: name, Bytes: size}, err
	}
	written, err := archive.WriteFile(ctx, name, c, from, archive.Options{Compress: f.zstd, Concurrency: f.concurrency, Progress: report})
	if err != nil {
		return nil, err
	}
	if written.Kept == written.Size {
		for _, desc := range slices.Concat(c.Manifests, c.Front, c.Blobs) {
			report.Emit(progress.Event{Kind: progress.Skipped, Subject: desc.Digest.String(), Bytes: desc.Size})
		}
	}
	if written.Kept > 0 {
		a.ui.Say("%s: %s of %s were already written", name, ui.Bytes(written.Kept), ui.Bytes(written.Size))
	}
	return &result.File{Name: name, Bytes: written.Size, KeptBytes: written.Kept}, nil
}

// exportBase is what a site has.
type exportBase struct {
	// has reports whether a blob is there; names are those of the roots.
	has   func(digest.Digest) bool
	names []string
	// plans are the versions whose content can be read here; unread are the names of the others.
	plans  []*transfer.Plan
	unread []string
	// sites are the highest versions that each base has.
	sites []siteVersions
}

// siteVersions are the highest versions of a site, and what it is called.
type siteVersions struct {
	name     string
	versions []bundle.Release
}

// readBases reads what --base names. For deltas the versions of an inventory are looked for where the
// roots of the export are.
func (a *app) readBases(ctx context.Context, f exportFlags, roots []transfer.Source, o transfer.Options) (*exportBase, error) {
	b := &exportBase{}
	var all []func(digest.Digest) bool
	for _, reference := range f.bases {
		if filepath.Ext(reference) == ".json" {
			inventory, err := readInventory(reference)
			if err != nil {
				return nil, err
			}
			b.sites = append(b.sites, siteVersions{reference, inventory.Versions})
			all, b.names = append(all, inventory.ContainsFunc()), append(b.names, inventory.Roots...)
			if f.delta != deltaOff {
				if err := b.findRoots(ctx, inventory.Roots, roots, o); err != nil {
					return nil, err
				}
			}
			continue
		}
		plan, err := a.planAll(ctx, []string{reference}, o)
		if err != nil {
			return nil, fmt.Errorf("base %s: %w", reference, err)
		}
		b.sites = append(b.sites, siteVersions{reference, plan.HighestVersions()})
		all, b.names, b.plans = append(all, plan.ContainsFunc()), append(b.names, plan.Names()...), append(b.plans, plan)
	}
	if len(all) > 0 {
		b.has = func(d digest.Digest) bool {
			return slices.ContainsFunc(all, func(has func(digest.Digest) bool) bool { return has(d) })
		}
	}
	return b, nil
}

// findRoots plans the versions of an inventory that the source has too.
func (b *exportBase) findRoots(ctx context.Context, names []string, roots []transfer.Source, o transfer.Options) error {
	// What a delta makes is checked against the new version's digests: the old one needs no trust.
	o.Verify, o.Accepts, o.Attached = nil, nil, transfer.AttachedKnown
	for _, name := range names {
		_, wanted, _ := strings.Cut(name, "@")
		var found *transfer.Plan
		for _, root := range roots {
			desc, err := root.Store.Resolve(ctx, wanted)
			if errors.Is(err, errdef.ErrNotFound) {
				continue
			}
			if err == nil {
				found, err = transfer.NewPlan(ctx, []transfer.Source{{Store: root.Store, Root: desc}}, o)
			}
			if err != nil {
				return fmt.Errorf("base %s: %w", name, err)
			}
			break
		}
		if found == nil {
			b.unread = append(b.unread, name)
		} else {
			b.plans = append(b.plans, found)
		}
	}
	return nil
}

func readInventory(name string) (*transfer.Inventory, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	inventory, err := transfer.ReadInventory(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return inventory, nil
}

// planAll plans what references name, or all that is there where one names no version.
func (a *app) planAll(ctx context.Context, references []string, o transfer.Options) (*transfer.Plan, error) {
	sources, err := a.findSources(ctx, references)
	if err != nil {
		return nil, err
	}
	return transfer.NewPlan(ctx, sources, o)
}

// findSources returns the roots that references name: without a version, all of a place.
func (a *app) findSources(ctx context.Context, references []string) ([]transfer.Source, error) {
	var sources []transfer.Source
	for _, reference := range references {
		at, err := a.openPlace(ctx, reference)
		if err != nil {
			return nil, err
		}
		var found []transfer.Source
		if at.Tag == "" && at.Digest == "" {
			found, err = transfer.FindRoots(ctx, at.store)
		} else {
			at.root, err = at.Resolve(ctx, at.store)
			found = []transfer.Source{{Store: at.store, Root: at.root, Tags: []string{at.Tag}, Pinned: at.Digest != ""}}
		}
		if err != nil {
			return nil, err
		}
		sources = append(sources, found...)
	}
	return sources, nil
}
