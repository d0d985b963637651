package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/place"
	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

func (a *app) pushCommand() *cobra.Command {
	var format ui.Format
	cmd := &cobra.Command{
		Use:   "push oci:FOLDER[:TAG] REGISTRY/REPOSITORY[:TAG]",
		Short: "publish what was built, with all its images",
		Long: `Push publishes a bundle or a runtime with its nested bundles, every workload image in all
its platforms, and what is attached to it. Images that the folder does not hold come from
their own registries, or from where --image-mirror says.

The tag moves last: who follows it never finds half a runtime. A push that was interrupted
goes on where it stopped when it is run again.`,
		Example: "  krtpkg push oci:dist:1.0.0 registry.example/krt/edge:1.0.0",
		GroupID: groupMake,
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.copy(cmd.Context(), "push", args[0], args[1], format)
		},
	}
	outputFlag(cmd, &format)
	return cmd
}

func (a *app) copyCommand() *cobra.Command {
	var format ui.Format
	cmd := &cobra.Command{
		Use:   "copy SOURCE TARGET",
		Short: "copy a bundle or a runtime, with all its images, from any place to any other",
		Long: `Copy brings a bundle or a runtime with its nested bundles, images, signatures and other
referrers from one place to another: to mirror, to promote, or to carry it into a folder.`,
		Example: `  krtpkg copy registry.example/krt/edge:1.0.0 site.example/krt/edge:1.0.0
  krtpkg copy registry.example/krt/edge:1.0.0 oci:media`,
		GroupID: groupMake,
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.copy(cmd.Context(), "copy", args[0], args[1], format)
		},
	}
	outputFlag(cmd, &format)
	return cmd
}

func (a *app) copy(ctx context.Context, verb, source, target string, format ui.Format) error {
	to, err := place.Parse(target)
	if err != nil {
		return &usageError{err}
	}
	if to.Digest != "" {
		return &usageError{fmt.Errorf("%s: a target has a tag, not a digest", to)}
	}
	from, err := a.open(ctx, source)
	if err != nil {
		return err
	}
	if to.Tag == "" {
		if to.Tag, err = from.version(ctx); err != nil {
			return err
		}
	}
	dst, err := to.Create(ctx, from.client)
	if err != nil {
		return err
	}
	report, err := transfer.Copy(ctx, []transfer.Source{{Store: from.store, Root: from.root, Tags: []string{to.Tag}}}, dst, transfer.Options{
		Origins: from.client, Progress: a.ui.Progress(verb),
	})
	if err != nil {
		return err
	}
	a.ui.Say("%s", summary(report))
	to.Digest = from.root.Digest
	return a.ui.Result(format, newCopyView(to, report), func(w io.Writer) { fmt.Fprintln(w, to) })
}

func summary(r *transfer.Report) string {
	return fmt.Sprintf("%s, %s, %s; %s (%s) copied, %d mounted, %d there already",
		plural(r.Roots[0].Bundles, "nested bundle"), plural(r.Roots[0].Images, "image"), plural(len(r.Attached), "signature or other referrer"),
		plural(int(r.Copied), "item"), ui.Bytes(r.CopiedBytes), r.Mounted, r.Present)
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// copyView is the result of push and copy for programs.
type copyView struct {
	Reference   string   `json:"reference"`
	Digest      string   `json:"digest"`
	Closure     string   `json:"closure"`
	Bundles     int      `json:"bundles"`
	Images      int      `json:"images"`
	Attached    []string `json:"attached"`
	Copied      int64    `json:"copied"`
	CopiedBytes int64    `json:"copiedBytes"`
	Mounted     int64    `json:"mounted"`
	Present     int64    `json:"present"`
}

func newCopyView(to place.Place, r *transfer.Report) copyView {
	v := copyView{
		Reference: to.String(), Digest: r.Roots[0].Root.Digest.String(), Closure: r.Roots[0].Closure.Digest.String(),
		Bundles: r.Roots[0].Bundles, Images: r.Roots[0].Images, Attached: []string{},
		Copied: r.Copied, CopiedBytes: r.CopiedBytes, Mounted: r.Mounted, Present: r.Present,
	}
	for _, d := range r.Attached {
		v.Attached = append(v.Attached, d.Digest.String())
	}
	return v
}
