package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/catalog"
	"krtpkg.dev/krtpkg/pkg/result"
	"krtpkg.dev/krtpkg/pkg/sign"
)

func (a *app) inspectCommand() *cobra.Command {
	var format ui.Format
	cmd := &cobra.Command{
		Use:   "inspect REFERENCE",
		Short: "show what is in a bundle or a runtime",
		Long: `Inspect shows name, version, bundles by layer, sources, images, and what signatures and attestations
claim: their keys, identities and times. It does not verify them; use verify for that.`,
		Example: `  krtpkg inspect registry.example/krt/edge:1.0.0
  krtpkg inspect -o json oci:dist:1.0.0`,
		GroupID: groupLook,
		Args:    oneReference,
		RunE: func(cmd *cobra.Command, args []string) error {
			view, err := a.inspectRoot(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.printResult(cmd.Context(), format, view, nil, view.writeText)
		},
	}
	outputFlag(cmd, &format)
	return cmd
}

// inspection is what inspect and tree show.
type inspection struct{ result.Inspect }

func (a *app) inspectRoot(ctx context.Context, reference string) (*inspection, error) {
	at, err := a.openReference(ctx, reference)
	if err != nil {
		return nil, err
	}
	set, err := a.lookInto(ctx, at)
	if err != nil {
		return nil, err
	}
	found, err := sign.ListClaims(ctx, at.store, at.root)
	if err != nil {
		return nil, err
	}
	return &inspection{*catalog.DescribeRoot(set, at.pinnedReference(), found)}, nil
}

func (v *inspection) writeText(w io.Writer) {
	m := v.Metadata
	row := func(name, value string) {
		if value != "" {
			ui.Fprintf(w, "%s\t%s\n", name, value)
		}
	}
	row("Name", m.Name)
	row("Version", m.Version)
	row("Kind", v.Kind)
	row("Digest", v.Digest)
	row("Description", m.Description)
	row("Licenses", m.Licenses)
	row("Source", m.Source)
	row("Revision", m.Revision)
	row("Signatures", v.signatureForms())
	if claims := slices.Concat(v.Signatures, v.Attestations); len(claims) > 0 {
		ui.Fprintf(w, "\nATTACHED\tFORM\tTIME\tBY (CLAIMED, NOT VERIFIED)\n")
		for _, c := range claims {
			ui.Fprintf(w, "%s\t%s\t%s\t%s\n", claimType(c), c.Form, claimTime(c), claimant(c))
		}
	}
	ui.Fprintf(w, "\nLAYER\tBUNDLE\tVERSION\tDIGEST\tREQUIRES\tIMAGES\n")
	for _, b := range v.Bundles {
		ui.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%d\n", b.Layer, b.Name, b.Version, shortenDigest(b.Digest), strings.Join(b.Requires, ","), len(b.Images))
	}
	ui.Fprintf(w, "\nSOURCE\tVERSION\tSHA256\tBUNDLE\n")
	for _, b := range v.Bundles {
		for _, s := range b.Sources {
			ui.Fprintf(w, "%s\t%s\t%s\t%s\n", s.Name(), cmp.Or(s.Version, s.Commit, "-"), s.SHA256, b.Name)
		}
	}
	ui.Fprintf(w, "\nIMAGE\tLOCKED TO\tBUNDLE\n")
	for _, b := range v.Bundles {
		for _, i := range b.Images {
			ui.Fprintf(w, "%s\t%s\t%s\n", i.Reference, i.Digest, b.Name)
		}
	}
	if cargo := v.listCargo(); len(cargo) > 0 {
		ui.Fprintf(w, "\n")
		writeCargo(w, cargo)
	}
}

// listCargo returns the files and charts of all bundles.
func (v *inspection) listCargo() (all []result.Cargo) {
	for _, b := range v.Bundles {
		all = append(all, b.Cargo...)
	}
	return all
}

func (v *inspection) signatureForms() string {
	if len(v.Signatures) == 0 {
		return "none"
	}
	forms := make([]string, len(v.Signatures))
	for i, s := range v.Signatures {
		forms[i] = string(s.Form)
	}
	return fmt.Sprintf("%d (%s), not verified here", len(forms), strings.Join(forms, ", "))
}

// shortenDigest returns a digest that people can tell from others.
func shortenDigest(digest string) string {
	if i := strings.Index(digest, ":"); i >= 0 && len(digest) > i+13 {
		return digest[:i+13]
	}
	return digest
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
