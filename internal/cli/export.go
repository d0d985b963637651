package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/place"
	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/progress"
	"krtpkg.dev/krtpkg/pkg/result"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

type exportFlags struct {
	transferFlags
	bases      []string
	volumeSize string
	zstd       bool
}

func (a *app) exportCommand() *cobra.Command {
	var f exportFlags
	cmd := &cobra.Command{
		Use:   "export REFERENCE... FILE.tar|-",
		Short: "write bundles and runtimes with all their images into an archive",
		Long: `Export writes an archive of bundles and runtimes with everything that they need and what is
attached to them: an OCI image layout in a tar. The same content gives the same bytes. Use - for
standard output.

With --base the archive leaves out what a site already has: a version that it runs, an earlier
archive, or the inventory that "krtpkg have" wrote there. With --volume-size it is split into
files that can be checked and imported one by one, in any order.

To resume an interrupted export, run it again.`,
		Example: `  krtpkg export registry.example/krt/edge:1.0.0 edge-1.0.0.tar
  krtpkg export registry.example/krt/edge:1.1.0 --base registry.example/krt/edge:1.0.0 edge-1.1.0.tar
  krtpkg export registry.example/krt/edge:1.0.0 --volume-size 4GB edge.tar
  krtpkg export registry.example/krt/edge:1.0.0 - | ssh site krtpkg import - site.example/krt/edge`,
		GroupID: groupCarry,
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			last := len(args) - 1
			return a.runExport(cmd.Context(), args[:last], args[last], f)
		},
	}
	f.addTransferFlags(cmd)
	f.trust.addUnsigned(cmd, "export even if a policy file would refuse it")
	f.addDryRun(cmd)
	cmd.Flags().StringArrayVar(&f.bases, "base", nil, "leave out the content of a reference, an archive or an inventory (*.json); can be repeated")
	cmd.Flags().StringVar(&f.volumeSize, "volume-size", "", "write files of at most this size, such as 4GB or 700MiB")
	cmd.Flags().BoolVar(&f.zstd, "zstd", false, "compress the whole archive; it can then only be imported (layers are compressed anyway)")
	return cmd
}

func (a *app) runExport(ctx context.Context, references []string, file string, f exportFlags) error {
	r, err := a.exportTo(ctx, references, file, f)
	if err != nil || file == "-" {
		return err
	}
	return a.printResult(ctx, f.format, r, nil, func(w io.Writer) { writeTransfer(w, r) })
}

// exportTo writes an archive of what references lead to, as one file or several, or as a stream.
func (a *app) exportTo(ctx context.Context, references []string, file string, f exportFlags) (*result.Transfer, error) {
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
	has, base, err := a.readBases(ctx, f.bases, options)
	if err != nil {
		return nil, err
	}
	contents := plan.ArchiveContents(has, base)
	if file == "-" {
		options.Progress.Emit(plannedEvent(contents))
		return nil, archive.Write(ctx, a.ui.Out, contents, plan, archive.Options{Compress: f.zstd, Progress: options.Progress})
	}
	volumes, names := []archive.Contents{contents}, []string{file}
	if limit > 0 {
		if volumes, err = contents.Split(limit); err != nil {
			return nil, err
		}
		names = archive.VolumeNames(file, len(volumes))
	}
	r := &result.Transfer{DryRun: f.dryRun, Base: base, Bytes: plan.Size()}
	for _, c := range volumes {
		planned := plannedEvent(c)
		r.CopiedItems, r.CopiedBytes = r.CopiedItems+int64(planned.Items), r.CopiedBytes+planned.Bytes
	}
	r.Items = int64(plan.Len())
	r.PresentItems, r.PresentBytes = max(0, r.Items-r.CopiedItems), max(0, r.Bytes-r.CopiedBytes)
	for i, name := range names {
		written, err := a.writeArchive(ctx, name, volumes[i], plan, f, options.Progress)
		if err != nil {
			return nil, err
		}
		r.Files = append(r.Files, *written)
	}
	r.Roots = describeRoots(place.Place{File: names[0]}, plan.Roots())
	return r, nil
}

func (f *exportFlags) checkValues(file string) (limit int64, err error) {
	if strings.HasSuffix(file, ".zst") {
		f.zstd = true
	}
	if p, err := place.Parse(file); file != "-" && (err != nil || p.File == "") {
		return 0, &usageError{fmt.Errorf("%q: %w", file, errNoArchive)}
	}
	if f.volumeSize == "" {
		return 0, nil
	}
	size, err := humanize.ParseBytes(f.volumeSize)
	switch {
	case err != nil || size == 0 || size > 1<<62:
		return 0, &usageError{fmt.Errorf("--volume-size %q: want a size such as 4GB or 700MiB", f.volumeSize)}
	case file == "-" || f.zstd:
		return 0, &usageError{fmt.Errorf("--volume-size does not work with compression: sizes must be known in advance")}
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

func (a *app) writeArchive(ctx context.Context, name string, c archive.Contents, plan *transfer.Plan, f exportFlags, report progress.Func) (*result.File, error) {
	if f.dryRun {
		size, err := c.Size()
		return &result.File{Name: name, Bytes: size}, err
	}
	report.Emit(plannedEvent(c))
	written, err := archive.WriteFile(ctx, name, c, plan, archive.Options{Compress: f.zstd, Progress: report})
	if err != nil {
		return nil, err
	}
	if written.Kept > 0 {
		a.ui.Say("%s: %s of %s were already written", name, ui.Bytes(written.Kept), ui.Bytes(written.Size))
	}
	return &result.File{Name: name, Bytes: written.Size, KeptBytes: written.Kept}, nil
}

// readBases returns what a site has: a function that says of a blob whether it is there, and the names
// of the roots.
func (a *app) readBases(ctx context.Context, bases []string, o transfer.Options) (func(digest.Digest) bool, []string, error) {
	var all []func(digest.Digest) bool
	var names []string
	for _, b := range bases {
		if filepath.Ext(b) == ".json" {
			inventory, err := readInventory(b)
			if err != nil {
				return nil, nil, err
			}
			all, names = append(all, inventory.ContainsFunc()), append(names, inventory.Roots...)
			continue
		}
		plan, err := a.planAll(ctx, []string{b}, o)
		if err != nil {
			return nil, nil, fmt.Errorf("base %s: %w", b, err)
		}
		all, names = append(all, plan.ContainsFunc()), append(names, plan.Names()...)
	}
	if len(all) == 0 {
		return nil, nil, nil
	}
	return func(d digest.Digest) bool {
		for _, has := range all {
			if has(d) {
				return true
			}
		}
		return false
	}, names, nil
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
			found = []transfer.Source{{Store: at.store, Root: at.root, Tags: []string{at.Tag}}}
		}
		if err != nil {
			return nil, err
		}
		sources = append(sources, found...)
	}
	return transfer.NewPlan(ctx, sources, o)
}
