package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/layers"
	"krtpkg.dev/krtpkg/pkg/result"
)

func (a *app) layersCheckCommand(model *modelFlag) *cobra.Command {
	var format ui.Format
	cmd := &cobra.Command{
		Use:   "check REFERENCE|DEFINITION",
		Short: "show how a runtime fills the categories, and which rules of the layers it breaks",
		Long: `Check shows for each category of the layers what fills it: a bundle of the runtime, several
bundles, a service, something outside (spec.provided of the runtime names the category, a product
of it, or what only its products provide), or nothing.

It fails if a rule is broken: two bundles provide what a runtime can have only once (a primary
network, a default storage class, an ingress class), nothing provides what every runtime needs, a
requirement is not met, or bundles require each other in a cycle.

A definition is read without fetching its sources.`,
		Example: `  krtpkg layers check runtime.yaml
  krtpkg layers check registry.example/krt/edge:1.0.0`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := model.loadModel()
			if err != nil {
				return err
			}
			view, err := a.checkCoverage(cmd.Context(), m, args[0])
			if err != nil {
				return err
			}
			return a.printResult(cmd.Context(), format, view, errors.Join(view.problems...), func(w io.Writer) { showCoverage(w, view) })
		},
	}
	outputFlag(cmd, &format)
	return cmd
}

// coverage is how a runtime fills the layers.
type coverage struct {
	result.LayersCheck
	problems []error
}

func (a *app) checkCoverage(ctx context.Context, model *layers.Model, at string) (*coverage, error) {
	all, err := readyBundles()
	if err != nil {
		return nil, err
	}
	outline, err := a.readOutline(ctx, at)
	if err != nil {
		return nil, err
	}
	if outline.Single {
		return nil, &usageError{fmt.Errorf("%s is a bundle: want a runtime", at)}
	}
	components := outline.Components()
	v := &coverage{LayersCheck: result.LayersCheck{
		Name: outline.Metadata.Name, Version: outline.Metadata.Version,
		Categories: model.CoverCategories(components, outline.Provided, all.productOf), Problems: []string{},
	}}
	v.problems = model.FindConflicts(components, outline.Exceptions...)
	for _, absent := range model.FindAbsent(components, outline.Provided) {
		v.problems = append(v.problems, fmt.Errorf("%w: add one of %s, or list %s in spec.provided if the platform provides it",
			absent, strings.Join(absent.Products, ", "), absent.Capability))
	}
	if _, err := layers.OrderBundles(components, outline.Provided...); err != nil {
		v.problems = append(v.problems, err)
	}
	for _, p := range v.problems {
		v.Problems = append(v.Problems, p.Error())
	}
	return v, nil
}

func showCoverage(w io.Writer, v *coverage) {
	count := map[layers.State]int{}
	ui.Fprintf(w, "LAYER\tCATEGORY\tSTATE\tBY\n")
	for _, c := range v.Categories {
		count[c.State]++
		ui.Fprintf(w, "%d %s\t%s\t%s\t%s\n", c.Layer, layers.LayerName(c.Layer), c.Category, c.State, strings.Join(c.By, ", "))
	}
	ui.Fprintf(w, "\n%d categories: %d with a bundle, %d with several, %d by a service, %d from outside, %d empty\n",
		len(v.Categories), count[layers.Filled], count[layers.Several], count[layers.Served], count[layers.Outside], count[layers.Empty])
}
