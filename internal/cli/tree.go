package cli

import (
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/layers"
	"krtpkg.dev/krtpkg/pkg/result"
)

func (a *app) treeCommand() *cobra.Command {
	var format ui.Format
	cmd := &cobra.Command{
		Use:     "tree REFERENCE",
		Short:   "show a runtime as a tree of layers, bundles, images, files and charts",
		Example: `  krtpkg tree registry.example/krt/edge:1.0.0`,
		GroupID: groupLook,
		Args:    oneReference,
		RunE: func(cmd *cobra.Command, args []string) error {
			view, err := a.inspectRoot(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.printResult(cmd.Context(), format, view, nil, view.writeTree)
		},
	}
	outputFlag(cmd, &format)
	return cmd
}

func (v *inspection) writeTree(w io.Writer) {
	ui.Fprintf(w, "%s %s  %s\n", v.Metadata.Name, v.Metadata.Version, shortenDigest(v.Digest))
	byLayer := map[int][]result.Bundle{}
	for _, b := range v.Bundles {
		byLayer[b.Layer] = append(byLayer[b.Layer], b)
	}
	numbers := slices.Sorted(maps.Keys(byLayer))
	for i, number := range numbers {
		stem := drawBranch(w, "", i == len(numbers)-1, fmt.Sprintf("%d %s", number, layers.LayerName(number)))
		for j, b := range byLayer[number] {
			inner := drawBranch(w, stem, j == len(byLayer[number])-1, fmt.Sprintf("%s %s  %s", b.Name, b.Version, shortenDigest(b.Digest)))
			for k, image := range b.Images {
				drawBranch(w, inner, k == len(b.Images)+len(b.Cargo)-1, fmt.Sprintf("%s  %s", image.Reference, shortenDigest(image.Digest)))
			}
			for k, item := range b.Cargo {
				drawBranch(w, inner, k == len(b.Cargo)-1, describeCargoLine(item))
			}
		}
	}
}

// drawBranch draws a line of a tree and gives the stem of what hangs on it.
func drawBranch(w io.Writer, stem string, last bool, text string) string {
	if last {
		ui.Fprintf(w, "%s└── %s\n", stem, text)
		return stem + "    "
	}
	ui.Fprintf(w, "%s├── %s\n", stem, text)
	return stem + "│   "
}
