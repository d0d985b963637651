package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/place"
	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/result"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

func (a *app) inventoryCommand() *cobra.Command {
	var f transferFlags
	cmd := &cobra.Command{
		Use:     "inventory REFERENCE...",
		Aliases: []string{"have"},
		Short:   "write the inventory of a site as the base of an export",
		Long: `Inventory writes what a site has as JSON to standard output: its versions by digest, and eleven
characters for each blob of 4 KiB and more. It is small enough to carry back to the connected side,
where export --base leaves out what it lists. A reference without a version means all versions.

It asks the site for every blob, without reading it. Lost blobs are reported and not listed.`,
		Example: `  krtpkg inventory site.example/krt/edge > have.json
  krtpkg export registry.example/krt/edge:1.1.0 --base have.json edge-1.1.0.tar`,
		GroupID: groupCarry,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runInventory(cmd.Context(), args, &f)
		},
	}
	cmd.Flags().IntVarP(&f.concurrency, "concurrency", "j", 4, "number of manifests to read in parallel")
	return cmd
}

func (a *app) runInventory(ctx context.Context, references []string, f *transferFlags) error {
	options, err := a.transferOptions(ctx, f, "inventory")
	if err != nil {
		return err
	}
	plan, err := a.planPlaced(ctx, references, options)
	if err != nil {
		return err
	}
	lost, err := plan.DropLost(ctx)
	if err != nil {
		return err
	}
	for _, item := range lost {
		a.ui.Note("warning: lost at the site, and not in the inventory: %s", item)
	}
	if len(lost) > 0 {
		a.ui.Note("hint: %s; the next export brings it as well", repairHint)
	}
	names := plan.Names()
	data, err := json.Marshal(plan.Inventory(names))
	if err != nil {
		return err
	}
	a.ui.Say("%s, %s", countNoun(len(names), "version"), ui.Bytes(int64(len(data)+1)))
	return a.ui.Data(append(data, '\n'))
}

// planPlaced plans what places have themselves: what a root there needs and they lack is lost.
func (a *app) planPlaced(ctx context.Context, references []string, o transfer.Options) (*transfer.Plan, error) {
	o.Origins = nil // only what is there counts
	sources, err := a.findSources(ctx, references)
	if err != nil {
		return nil, err
	}
	plan, err := transfer.NewPlan(ctx, sources, o)
	return plan, asLost(err)
}

func (a *app) checkCommand() *cobra.Command {
	var f transferFlags
	var repair repairFlags
	cmd := &cobra.Command{
		Use:   "check ARCHIVE|-|REFERENCE...",
		Short: "verify every byte of an archive or of a runtime against its digest",
		Long: `Check reads an archive, a single volume, or a bundle or runtime with all its images at any
place, and verifies every byte against its digest. It needs no key: it shows that the content is
complete, not who made it. For that, use verify. If several volumes of an
archive are given, none may be missing.

For an archive that was exported with --parity it reports how much is damaged, and whether that can be repaired.
--repair repairs it in place, --repair-to writes the repaired file into another folder. Both also restore lost
volumes from the others if there are enough parity volumes.

The exit code is 3 if something is damaged, 4 if something is missing.`,
		Example: `  krtpkg check edge-1.0.0.tar
  krtpkg check edge.*-of-4.tar
  krtpkg check --repair edge-1.0.0.tar
  krtpkg check --repair-to repaired edge.1-of-4.tar
  krtpkg check site.example/krt/edge:1.0.0`,
		GroupID: groupCarry,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runCheck(cmd.Context(), args, &f, &repair)
		},
	}
	cmd.Flags().IntVarP(&f.concurrency, "concurrency", "j", 4, "number of blobs to read in parallel")
	repair.addFlags(cmd.Flags())
	outputFlag(cmd, &f.format)
	return cmd
}

func (a *app) runCheck(ctx context.Context, references []string, f *transferFlags, repair *repairFlags) error {
	var places []checkedPlace
	var failures []error
	if repair.isSet() {
		options, err := a.transferOptions(ctx, f, "repair")
		if err != nil {
			return err
		}
		references, failures = a.repairArchives(ctx, references, repair, options.Progress)
		a.ui.EndProgress(nil)
	}
	found := &result.Check{Checked: []result.Checked{}}
	for _, reference := range references {
		one, err := a.checkOne(ctx, reference, f)
		if err != nil {
			failures = append(failures, fmt.Errorf("check %s: %w", reference, err))
			if ctx.Err() != nil {
				break
			}
			continue
		}
		places = append(places, *one)
	}
	if err := a.findSetStates(ctx, places); err != nil {
		failures = append(failures, err)
	}
	for _, v := range places {
		found.Checked = append(found.Checked, v.Checked)
	}
	if len(failures) == 0 { // which volume a damaged file is cannot be told
		if err := requireWholeSets(places); err != nil {
			failures = append(failures, fmt.Errorf("check %s: %w", strings.Join(references, ", "), err))
		}
	}
	markWholeSets(places)
	failed := errors.Join(failures...)
	return a.printResult(ctx, f.format, found, failed, func(w io.Writer) {
		for _, v := range places {
			ui.Fprintf(w, "%s\tintact\t%s, %s%s\n", v.Reference, countNoun(int(v.Items), "item"), ui.Bytes(v.Bytes), v.volumeText())
			for _, fact := range v.partFacts() {
				ui.Fprintf(w, "\t\t%s\n", fact)
			}
		}
	})
}

func (a *app) checkOne(ctx context.Context, reference string, f *transferFlags) (*checkedPlace, error) {
	options, err := a.transferOptions(ctx, f, "check")
	if err != nil {
		return nil, err
	}
	p, parseErr := place.Parse(reference)
	if reference != "-" && (parseErr != nil || p.File == "" || p.Tag != "" || p.Digest != "") {
		plan, err := a.planPlaced(ctx, []string{reference}, options)
		if err != nil {
			return nil, err
		}
		items, bytes, err := plan.CheckContent(ctx)
		return &checkedPlace{Checked: result.Checked{Reference: reference, Items: int64(items), Bytes: bytes, ForeignItems: plan.Foreign()}}, err
	}
	var c *archive.CheckResult
	if archive.IsParityVolume(p.File) {
		size, err := archive.CheckParityVolume(ctx, p.File, options.Progress)
		return &checkedPlace{Checked: result.Checked{Reference: reference, Items: 1, Bytes: size}}, err
	}
	if reference == "-" {
		c, err = archive.CheckStream(ctx, a.ui.In, options.Progress)
	} else {
		c, err = archive.CheckFile(ctx, p.File, options.Progress)
	}
	if err != nil {
		return nil, err
	}
	checked := &checkedPlace{set: c.Set, file: p.File, Checked: result.Checked{
		Reference: reference, Items: int64(c.Manifests + c.Blobs), Bytes: c.Bytes, AbsentItems: c.Absent,
		Volume: c.Volume, Volumes: c.Volumes, Base: c.Base, Platforms: c.Platforms, ForeignItems: c.Foreign, DeltaItems: c.Deltas,
	}}
	return checked, nil
}

// findSetStates adds to volumes what the parity volumes next to them restore, looking once for those of an archive. What
// cannot be found out is left out: the volumes are intact all the same.
func (a *app) findSetStates(ctx context.Context, places []checkedPlace) error {
	states := map[string]*archive.SetState{}
	for i, v := range places {
		siblings, isVolume := archive.Siblings(v.file)
		if v.Volumes == 0 || !isVolume {
			continue
		}
		state, isKnown := states[siblings[0]]
		if !isKnown {
			var err error
			if state, err = archive.InspectSet(ctx, v.file); ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				a.ui.Note("warning: look for parity volumes of %s: %v", v.file, err)
			}
			states[siblings[0]] = state
		}
		if state == nil || slices.Contains(state.Absent, slices.Index(siblings, v.file)+1) {
			continue // it is here, so the parity volumes are those of another export
		}
		places[i].ParityVolumes, places[i].LostVolumes, places[i].LackingFiles = state.Parity, state.Absent, state.Lacking
	}
	return nil
}

// checkedPlace is what was checked of one argument.
type checkedPlace struct {
	result.Checked
	// set is the same for all volumes of an archive.
	set string
	// file is the archive; empty for other places, and for standard input.
	file string
	// isWhole is set if all volumes of the archive were checked.
	isWhole bool
}

// volumeText returns which volume it is.
func (v checkedPlace) volumeText() string {
	if v.Volumes == 0 {
		return ""
	}
	return fmt.Sprintf(", volume %d of %d", v.Volume, v.Volumes)
}

// partFacts returns what an archive is a part of, and what it is not.
func (v checkedPlace) partFacts() (facts []string) {
	for _, base := range v.Base {
		name, digest, hasDigest := strings.Cut(base, "@")
		if hasDigest {
			name += "@" + shortDigest(digest)
		}
		facts = append(facts, "builds on "+name)
	}
	if len(v.Platforms) > 0 {
		facts = append(facts, "for "+strings.Join(v.Platforms, " and ")+" only")
	}
	if v.ForeignItems > 0 {
		facts = append(facts, countNoun(v.ForeignItems, "foreign layer")+" available only at their URLs")
	}
	if v.DeltaItems > 0 {
		facts = append(facts, "deltas of "+countNoun(v.DeltaItems, "layer"))
	}
	if v.ParityVolumes > 0 {
		facts = append(facts, v.parityFact())
	}
	if v.isWhole {
		facts = append(facts, fmt.Sprintf("all %d volumes are here", v.Volumes))
	}
	if absent := v.AbsentItems - v.DeltaItems; absent > 0 && (!v.isWhole || len(v.Base) > 0) {
		where := "in the base"
		if v.Volumes > 1 && len(v.Base) > 0 {
			where = "on other volumes or in the base"
		} else if v.Volumes > 1 {
			where = "on other volumes"
		}
		facts = append(facts, countNoun(absent, "blob")+" "+where)
	}
	return facts
}

// parityFact returns what parity volumes restore.
func (v checkedPlace) parityFact() string {
	here := countNoun(v.ParityVolumes, "parity volume") + " here: "
	lost := archive.FormatVolumes(v.LostVolumes)
	switch {
	case len(v.LostVolumes) == 0:
		return here + "any " + countNoun(v.ParityVolumes, "lost volume") + " can be restored"
	case v.LackingFiles == 0:
		return here + lost + " can be restored with --repair"
	}
	return here + countNoun(v.LackingFiles, "more file") + " needed to restore " + lost
}
