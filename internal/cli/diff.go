package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/compare"
	"krtpkg.dev/krtpkg/pkg/render"
	"krtpkg.dev/krtpkg/pkg/result"
	"krtpkg.dev/krtpkg/pkg/site"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

type diffFlags struct {
	values         valuesFlags
	oldFiles       []string
	newFiles       []string
	bases          []string
	trust          trustFlags
	format         ui.DocumentFormat
	full, exitCode bool
}

func (a *app) diffCommand() *cobra.Command {
	var f diffFlags
	cmd := &cobra.Command{
		Use:   "diff REFERENCE REFERENCE",
		Short: "show how two versions differ, for whoever approves the change",
		Long: `Diff compares two versions of a runtime or a bundle, the old one first. It needs no cluster.

It begins with what deserves a look first: roles that allow more, workloads that get more rights,
changes of CustomResourceDefinitions that lose data (as "krtpkg plan" reports them), values that a
site has to set, and platforms that are no longer supported. Then come the values, bundles, images
by digest, and resources with their differences, rendered with the values given. The content of
Secrets is never shown. With --base it also shows how much a site that has that content still needs.

-o markdown prints it for a pull request or a change board, cut to what a comment on GitHub can hold.`,
		Example: `  krtpkg diff registry.example/krt/edge:1.0.0 registry.example/krt/edge:1.1.0
  krtpkg diff --key cosign.pub registry.example/krt/edge:1.0.0 edge-1.1.0.tar --values site.yaml
  krtpkg diff oci:dist:1.0.0 oci:dist:1.1.0 -o markdown > change.md
  krtpkg diff registry.example/krt/edge:1.0.0 registry.example/krt/edge:1.1.0 --base have.json --exit-code`,
		GroupID: groupLook,
		Args:    cobra.ExactArgs(2),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.runDiff(cmd.Context(), args[0], args[1], &f) },
	}
	f.values.addValuesFlags(cmd)
	flags := cmd.Flags()
	flags.StringArrayVar(&f.oldFiles, "values-a", nil, "file of values for the old version only, merged over --values")
	flags.StringArrayVar(&f.newFiles, "values-b", nil, "file of values for the new version only, merged over --values")
	flags.StringArrayVar(&f.bases, "base", nil, "show how much a site still needs that has the content of this reference, archive or inventory (*.json); can be repeated")
	flags.BoolVar(&f.full, "full", false, "print all differences, also of created and deleted resources")
	flags.BoolVar(&f.exitCode, "exit-code", false, "end with exit code 5 if anything differs")
	documentFlag(cmd, &f.format)
	f.trust.addTrustFlags(cmd)
	f.trust.addUnsigned(cmd, "compare even if a policy file would refuse it")
	return cmd
}

func (a *app) runDiff(ctx context.Context, oldReference, newReference string, f *diffFlags) error {
	policy, err := a.loadTrust(ctx, &f.trust)
	if err != nil {
		return err
	}
	r := &result.Diff{}
	var versions [2]compare.Version
	var places [2]*openedReference
	for i, side := range []struct {
		reference string
		described *result.DiffVersion
	}{{oldReference, &r.Old}, {newReference, &r.New}} {
		at, err := a.openReference(ctx, side.reference)
		if err != nil {
			return err
		}
		root, err := a.openVerified(ctx, at, policy)
		if err != nil {
			return err
		}
		places[i] = at
		versions[i] = compare.Version{Set: root.Set, Platforms: platformsAt(at)}
		*side.described = result.DiffVersion{Artifact: describeArtifact(&root.Set.Root.Content, at.root.Digest, at.pinnedReference()), Verified: root.Verified != nil}
	}
	bundles := slices.Concat(versions[0].Set.BundleNames(), versions[1].Set.BundleNames())
	slices.Sort(bundles)
	bundles = slices.Compact(bundles)
	common, err := f.values.readSources(a) // once: a pipe has nothing to read the second time
	if err != nil {
		return err
	}
	for i, files := range [][]string{f.oldFiles, f.newFiles} {
		if versions[i].Values, err = a.mergeValues(common, files, bundles); err != nil {
			return err
		}
	}
	compared, err := compare.Compare(ctx, versions[0], versions[1])
	if err != nil {
		return err
	}
	r.Comparison = *compared
	r.Changes = compared.HasChanges() || r.Old.Digest != r.New.Digest
	for _, notes := range [][]compare.Note{r.Notes, r.Unrendered} {
		for i := range notes {
			notes[i].Text = a.ui.ErrorText(notes[i].Text)
		}
	}
	if len(f.bases) > 0 {
		if r.Carry, err = a.measureCarry(ctx, places[1], f.bases); err != nil {
			return err
		}
	}
	var failed error
	switch {
	case len(r.Unrendered) > 0:
		failed = unrenderedError(r.Unrendered)
	case f.exitCode && r.Changes:
		failed = errChanges
	}
	return a.printResult(ctx, f.format.Format, r, failed, func(w io.Writer) {
		if f.format.Markdown {
			io.WriteString(w, writeMarkdownDiff(r))
			return
		}
		diffWriter{w, f.full}.writeDiff(r)
	})
}

// mergeValues returns the values of sources with more files over theirs, for any of some bundles.
func (a *app) mergeValues(common *site.ValueSources, files, bundles []string) (*render.Values, error) {
	own, err := (&valuesFlags{files: files}).readSources(a)
	if err != nil {
		return nil, err
	}
	sources := *common
	sources.Files = slices.Concat(common.Files, own.Files)
	values, err := sources.Merge(bundles)
	a.ui.HideInErrors(values.ConfidentialTexts()...)
	return values, err
}

// platformsAt returns the platforms of images as far as they are at a place.
func platformsAt(at *openedReference) func(context.Context, string) ([]string, error) {
	return func(ctx context.Context, digest string) ([]string, error) {
		found, err := site.ListPlatforms(ctx, at.store, digest)
		if errors.Is(err, errdef.ErrNotFound) {
			return nil, nil
		}
		return found, err
	}
}

// unrenderedError returns why a comparison is not whole.
func unrenderedError(all []compare.Note) error {
	errs := make([]error, len(all))
	for i, n := range all {
		flag := "--values-b"
		if n.Side == compare.SideOld {
			flag = "--values-a"
		}
		errs[i] = fmt.Errorf("render bundle %s of the %s version with the values of --values and %s: %s", n.Bundle, n.Side, flag, n.Text)
	}
	return errors.Join(errs...)
}

// measureCarry returns how much of a version a site lacks that has the bases.
func (a *app) measureCarry(ctx context.Context, at *openedReference, bases []string) (*result.Carry, error) {
	export := exportFlags{transferFlags: transferFlags{concurrency: 4}, bases: bases, delta: deltaOff}
	options, err := a.transferOptions(ctx, &export.transferFlags, "diff")
	if err != nil {
		return nil, err
	}
	tag, err := at.versionTag(ctx)
	if err != nil {
		return nil, err
	}
	roots := []transfer.Source{{Store: at.store, Root: at.root, Tags: []string{tag}, From: at.Tag, Pinned: at.Digest != "", Where: at.Repository}}
	plan, err := transfer.NewPlan(ctx, roots, options)
	if err != nil {
		return nil, err
	}
	base, err := a.readBases(ctx, export, roots, options)
	if err != nil {
		return nil, err
	}
	wanted := plannedEvent(plan.ArchiveContents(base.has, base.names))
	return &result.Carry{
		Base: base.names, Items: int64(plan.Len()), Bytes: plan.Size(), CopiedItems: int64(wanted.Items), CopiedBytes: wanted.Bytes,
	}, nil
}
