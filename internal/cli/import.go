package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/place"
	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/result"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

func (a *app) importCommand() *cobra.Command {
	var f transferFlags
	cmd := &cobra.Command{
		Use:   "import ARCHIVE...|- TARGET",
		Short: "import an archive into a site's registry",
		Long: `Import copies the content of an archive to a repository of a registry or to a folder
(oci:FOLDER), and sets the tags last. If the archive builds on a base that the target lacks, the
import fails before anything is written and names the base. Use - for standard input.

With trusted signers in flags or a policy, nothing is written before it is verified, even from a
stream or a single volume: signatures come first in the archive. In archives of earlier versions they
can be anywhere: such a file is read twice, and up to --max-unverified of such a stream is held in memory.

The volumes of an archive can be imported together or one by one, in any order: volumes next to the
named one are imported with it, and the last one sets the tags. Until then the exit code is 4.

An archive with parity is read once before anything is written, and damage is repaired while it is read. If
the damage is more than parity can repair, nothing is written.

To resume an interrupted import, or to repair a registry that lost content, run it again: it asks
the target for every item, or sends it without asking if it is small. A tag of the target moves only
to a newer version, unless you pass --allow-downgrade or --move-tags.`,
		Example: `  krtpkg import edge-1.0.0.tar site.example/krt/edge
  krtpkg import --key cosign.pub edge.1-of-2.tar edge.2-of-2.tar site.example/krt/edge
  krtpkg export registry.example/krt/edge:1.0.0 - | krtpkg import - site.example/krt/edge`,
		GroupID: groupCarry,
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			last := len(args) - 1
			return a.importArchives(cmd.Context(), args[:last], args[last], &f)
		},
	}
	f.addAttached(cmd)
	f.addSpeed(cmd)
	f.trust.addUnsigned(cmd, "import even if a policy file would refuse it")
	cmd.Flags().StringVar(&f.maxUnverified, "max-unverified", "32MiB", "how much of a stream to hold in memory until its signatures arrive; current archives begin with them")
	cmd.Flags().BoolVar(&f.unverifiedVolumes, "allow-unverified-volumes", false, "import a volume unverified if its signatures are on another one; the last volume is verified before tags are set")
	f.addPaths(cmd)
	f.addDryRun(cmd)
	f.addMoving(cmd)
	f.addDowngrade(cmd)
	return cmd
}

func (a *app) importArchives(ctx context.Context, archives []string, target string, f *transferFlags) error {
	to, err := place.Parse(target)
	if err != nil {
		return &usageError{err}
	}
	if to.Tag != "" || to.Digest != "" {
		return &usageError{fmt.Errorf("%s: an import keeps the tags of the archive: name the target without a tag", to)}
	}
	maxUnverified, err := humanize.ParseBytes(f.maxUnverified)
	if err != nil || maxUnverified == 0 || maxUnverified > 1<<40 {
		return &usageError{fmt.Errorf("--max-unverified %q: want a size such as 256MiB", f.maxUnverified)}
	}
	options, err := a.transferOptions(ctx, f, "import")
	if err != nil {
		return err
	}
	options.MaxUnverified, options.UnverifiedVolumes = int64(maxUnverified), f.unverifiedVolumes
	options.Origins = nil // an archive holds everything, or its base does
	client, err := a.newClient()
	if err != nil {
		return err
	}
	dst, err := to.Create(ctx, client)
	if err != nil {
		return err
	}
	if options.Preserve, err = f.preserveNames(to, client); err != nil {
		return err
	}
	if archives, err = a.findVolumes(ctx, archives); err != nil {
		return err
	}
	if f.dryRun {
		return a.compareImport(ctx, archives, to, dst, options, f.format)
	}
	imported, err := a.importFrom(ctx, archives, dst, options)
	if err != nil {
		return fmt.Errorf("import %s: %w", nameArchives(archives), err)
	}
	if len(imported.Absent) > 0 {
		r := describeCopy(to, imported.Report)
		r.AbsentVolumes, r.Volumes = imported.Absent, imported.Volumes
		failed := fmt.Errorf("import %s: %w", nameArchives(archives), imported.AbsentError())
		return a.printResult(ctx, f.format, r, failed, func(w io.Writer) {
			ui.Fprintf(w, "%s (%s) copied\n", countNoun(int(imported.Copied), "item"), ui.Bytes(imported.CopiedBytes))
		})
	}
	a.sayCopied(imported.Report)
	r := describeCopy(to, imported.Report)
	return a.printResult(ctx, f.format, r, nil, func(w io.Writer) { writeTransfer(w, r, to.Location()) })
}

func (a *app) importFrom(ctx context.Context, archives []string, dst place.Target, o transfer.Options) (*transfer.Imported, error) {
	if len(archives) == 1 && (archives[0] == "-" || strings.HasSuffix(archives[0], ".zst")) {
		in := a.ui.In
		if archives[0] != "-" {
			file, err := os.Open(archives[0])
			if err != nil {
				return nil, err
			}
			defer file.Close()
			if info, err := file.Stat(); err == nil && info.Mode().IsRegular() {
				return transfer.ImportFile(ctx, file, dst, o)
			}
			in = file
		}
		stream, err := archive.OpenStream(ctx, in)
		if err != nil {
			return nil, err
		}
		defer stream.Close()
		return transfer.ImportStream(ctx, stream, dst, o)
	}
	for _, name := range archives {
		if name == "-" {
			return nil, &usageError{fmt.Errorf("- (standard input) cannot be used with other archives")}
		}
	}
	store, err := archive.Open(ctx, archives...)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	if err := a.healArchive(ctx, store, a.ui.Progress("check")); err != nil {
		return nil, err
	}
	return transfer.Import(ctx, store, dst, o)
}

// compareImport shows what an import would copy.
func (a *app) compareImport(ctx context.Context, archives []string, to place.Place, dst place.Target, o transfer.Options, format ui.Format) error {
	for _, name := range archives {
		if name == "-" {
			return &usageError{errors.New("import -: --dry-run requires an archive file that is not compressed: save the stream to a file first")}
		}
	}
	r, err := planImport(ctx, archives, to, dst, o)
	if errors.Is(err, archive.ErrCompressed) {
		return &usageError{fmt.Errorf("import %s: --dry-run requires an archive file that is not compressed: unpack it first with zstd -d", nameArchives(archives))}
	}
	if err != nil {
		return fmt.Errorf("import %s: %w", nameArchives(archives), err)
	}
	return a.printResult(ctx, format, r, nil, func(w io.Writer) { writeTransfer(w, r, to.Location()) })
}

// planImport returns what an import would do.
func planImport(ctx context.Context, archives []string, to place.Place, dst place.Target, o transfer.Options) (*result.Transfer, error) {
	store, err := archive.Open(ctx, archives...)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	plan, err := transfer.PlanImport(ctx, store, dst, o)
	var absent *archive.AbsentVolumesError
	if errors.As(err, &absent) {
		absent.Near = archives
	}
	if err != nil {
		return nil, err
	}
	return comparePlan(ctx, plan, to, dst)
}

// findVolumes adds the volumes next to those that are named. One that does not open with them is left out with a note: it
// may still be on its way, or be of another export. What is read as a stream stays alone.
func (a *app) findVolumes(ctx context.Context, archives []string) ([]string, error) {
	if slices.ContainsFunc(archives, func(name string) bool { return name == "-" || strings.HasSuffix(name, ".zst") }) {
		return archives, nil
	}
	if len(archives) > 1 { // parity volumes are found next to the others
		if others := slices.DeleteFunc(slices.Clone(archives), archive.IsParityVolume); len(others) > 0 {
			archives = others
		}
	}
	all, err := archive.AddSiblings(archives...)
	switch {
	case err != nil, len(all) == len(archives), tryVolumes(ctx, all) == nil:
		return all, err
	case tryVolumes(ctx, archives) != nil:
		return archives, nil // the import says why
	}
	usable := slices.Clone(archives)
	for _, sibling := range all[len(archives):] {
		err := tryVolumes(ctx, append(slices.Clone(archives), sibling))
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			a.ui.Note("note: skipped volume %s: %v", sibling, err)
			continue
		}
		usable = append(usable, sibling)
	}
	return usable, nil
}

// tryVolumes reports why volumes cannot be opened together.
func tryVolumes(ctx context.Context, names []string) error {
	s, err := archive.Open(ctx, names...)
	if err != nil {
		return err
	}
	return s.Close()
}

// nameArchives names what is imported in an error, which names the volume that it is about.
func nameArchives(archives []string) string {
	if len(archives) == 1 {
		return archives[0]
	}
	return fmt.Sprintf("%d volumes", len(archives))
}
