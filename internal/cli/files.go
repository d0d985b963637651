package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/catalog"
	"krtpkg.dev/krtpkg/pkg/compare"
	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/result"
)

func (a *app) filesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "files",
		Short: "list and fetch the files and charts that a bundle or a runtime carries",
		Long: `Bundles carry files for nodes, such as binaries, packages and disk images, and whole Helm charts.
These commands list and fetch them, from a registry, a folder, an archive or the volumes of one.`,
		Example: `  krtpkg files list registry.example/krt/edge:1.0.0
  krtpkg files get --key cosign.pub ./edge-1.0.0.tar kubelet --platform linux/arm64 -d /usr/local/bin`,
		GroupID: groupLook,
		Args:    knownCommand,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.filesListCommand(), a.filesGetCommand())
	return cmd
}

func (a *app) filesListCommand() *cobra.Command {
	var o struct {
		platform string
		trust    trustFlags
		format   ui.Format
	}
	cmd := &cobra.Command{
		Use:   "list REFERENCE",
		Short: "list the files and charts that a bundle or a runtime carries",
		Long: `List shows the files and charts of all bundles, with their platforms, sizes and digests. For charts
in a registry it shows the reference that helm pull takes.`,
		Example: `  krtpkg files list registry.example/krt/edge:1.0.0
  krtpkg files list ./edge-1.0.0.tar --platform linux/arm64 -o json`,
		Args: oneReference,
		RunE: func(cmd *cobra.Command, args []string) error {
			want, err := parseCargoPlatform(o.platform)
			if err != nil {
				return err
			}
			at, set, err := a.openForFiles(cmd.Context(), args[0], &o.trust)
			if err != nil {
				return err
			}
			items := listSetCargo(set)
			if want != nil {
				items = slices.DeleteFunc(items, func(i bundle.CargoItem) bool { return !isForPlatform(i, *want) })
			}
			r := newFilesResult(at, set, items)
			return a.printResult(cmd.Context(), o.format, r, nil, func(w io.Writer) { writeCargo(w, r.Cargo) })
		},
	}
	platformFlag(cmd, &o.platform, "list what is for this platform or for any, as os/arch[/variant]")
	o.trust.addTrustFlags(cmd)
	o.trust.addUnsigned(cmd, "list even if a policy file would refuse it")
	outputFlag(cmd, &o.format)
	return cmd
}

// platformFlag adds --platform for one platform.
func platformFlag(cmd *cobra.Command, platform *string, usage string) {
	cmd.Flags().StringVar(platform, "platform", "", usage)
}

// parseCargoPlatform parses --platform; nil if it is not set.
func parseCargoPlatform(text string) (*platform, error) {
	if text == "" {
		return nil, nil
	}
	parsed, err := oci.ParsePlatform(text)
	if err != nil {
		return nil, &usageError{fmt.Errorf("--platform: %w", err)}
	}
	return &parsed, nil
}

// openForFiles verifies and opens what a reference leads to.
func (a *app) openForFiles(ctx context.Context, reference string, t *trustFlags) (*openedReference, *bundle.Set, error) {
	at, err := a.openReference(ctx, reference)
	if err != nil {
		return nil, nil, err
	}
	if err := a.verifiedIf(ctx, at, t); err != nil {
		return nil, nil, err
	}
	set, err := a.openSet(ctx, at)
	return at, set, err
}

// listSetCargo returns the files and charts of all bundles of a set.
func listSetCargo(set *bundle.Set) (all []bundle.CargoItem) {
	for _, b := range set.Bundles {
		all = append(all, b.ListCargo()...)
	}
	return all
}

func newFilesResult(at *openedReference, set *bundle.Set, items []bundle.CargoItem) *result.Files {
	r := &result.Files{Artifact: catalog.DescribeArtifact(&set.Root.Content, at.root.Digest, at.pinnedReference()), Cargo: []result.Cargo{}}
	for _, item := range items {
		c := catalog.DescribeCargo(item)
		if item.Chart != nil && at.IsRegistry() {
			c.Helm = "oci://" + at.Repository + "@" + c.Artifact
		}
		r.Cargo = append(r.Cargo, c)
	}
	return r
}

// writeCargo writes files and charts as a table, and after it what helm takes.
func writeCargo(w io.Writer, cargo []result.Cargo) {
	ui.Fprintf(w, "FILE\tPLATFORM\tSIZE\tMODE\tSHA256\tBUNDLE\n")
	for _, c := range cargo {
		ui.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", c.Name, cmp.Or(c.Platform, "any"), ui.Bytes(c.Size), c.Mode, c.SHA256, c.Bundle)
	}
	isHead := true
	for _, c := range cargo {
		if c.Helm == "" {
			continue
		}
		if isHead {
			ui.Fprintf(w, "\nCHART\tVERSION\tFOR HELM PULL\n")
		}
		isHead = false
		ui.Fprintf(w, "%s\t%s\t%s\n", c.Chart, c.Version, c.Helm)
	}
}

// describeCargoLine returns a file or a chart in one line of a tree.
func describeCargoLine(c result.Cargo) string {
	name := strings.TrimSpace(c.Name + " " + c.Platform)
	if c.Chart != "" {
		name = "chart " + c.Chart + " " + c.Version
	}
	return fmt.Sprintf("%s  %s  %s", name, ui.Bytes(c.Size), shortenDigest("sha256:"+c.SHA256))
}

// isForPlatform reports whether a file or a chart is for a platform, or for any.
func isForPlatform(item bundle.CargoItem, want platform) bool {
	if item.Platform == "" {
		return true
	}
	have, err := oci.ParsePlatform(item.Platform)
	return err == nil && oci.MatchesPlatform(want, have)
}

func describeCargoChange(c compare.CargoChange) string {
	text := fmt.Sprintf("%s: %s", c.Bundle, strings.TrimSpace(c.Name+" "+c.Platform))
	switch {
	case c.Old == nil:
		return text + "  " + describeCargoState(c.New)
	case c.New == nil:
		return text + "  " + describeCargoState(c.Old)
	}
	return fmt.Sprintf("%s  %s → %s", text, describeCargoState(c.Old), describeCargoState(c.New))
}

func describeCargoState(s *compare.CargoState) string {
	size := ui.Bytes(s.Size)
	if s.Mode != "" {
		size += ", " + s.Mode
	}
	return strings.TrimSpace(fmt.Sprintf("%s %s (%s)", s.Version, shortenDigest(s.Digest), size))
}
