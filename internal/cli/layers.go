package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"krtpkg.dev/krtpkg/bundles"
	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/layers"
	"krtpkg.dev/krtpkg/pkg/result"
)

func (a *app) layersCommand() *cobra.Command {
	var format ui.Format
	var model modelFlag
	var tables bool
	cmd := &cobra.Command{
		Use:   "layers [LAYER|CATEGORY|PRODUCT]",
		Short: "show the layers of a runtime, their categories, and the products that fill them",
		Long: `Layers prints the model of a Kubernetes runtime: seven layers from the platform up to
applications, the categories of each with the questions to decide, and the products that fill
them, with how each is delivered and its ready bundle in the folder bundles/.`,
		Example: `  krtpkg layers
  krtpkg layers 3
  krtpkg layers service-proxy
  krtpkg layers contour
  krtpkg layers check runtime.yaml`,
		GroupID: groupLook,
		Args:    cobra.MaximumNArgs(1),

		ValidArgsFunction: completePlaces,
		RunE: func(cmd *cobra.Command, args []string) error {
			model, err := model.loadModel()
			if err != nil {
				return err
			}
			ready, err := readyBundles()
			if err != nil {
				return err
			}
			if tables && (len(args) > 0 || format != "") {
				return &usageError{errors.New("--markdown prints the whole model: it takes no argument and no --output")}
			}
			if tables {
				a.ui.EndProgress(nil)
				writeMarkdown(a.ui.Out, model, ready)
				return nil
			}
			if len(args) == 0 {
				return a.printResult(cmd.Context(), format, &result.Layers{Layers: model.Layers}, nil, func(w io.Writer) { writeOverview(w, model, ready) })
			}
			found, err := model.FindPlaces(args[0])
			if err != nil {
				return &usageError{err}
			}
			r := &result.Layers{}
			for _, f := range found {
				r.Found = append(r.Found, describePlace(f, ready))
			}
			return a.printResult(cmd.Context(), format, r, nil, func(w io.Writer) {
				for _, f := range found {
					showFound(w, f, ready)
				}
			})
		},
	}
	outputFlag(cmd, &format)
	cmd.Flags().BoolVar(&tables, "markdown", false, "print the whole model as tables in Markdown")
	model.addFlag(cmd.PersistentFlags())
	cmd.AddCommand(a.layersCheckCommand(&model))
	return cmd
}

// modelFlag is a site's own part of the model.
type modelFlag struct{ file string }

func (f *modelFlag) addFlag(flags *pflag.FlagSet) {
	flags.StringVar(&f.file, "model", "", "file with a site's own categories, products and rules, added to the built-in ones")
}

func (f *modelFlag) loadModel() (*layers.Model, error) {
	model, err := layers.LoadModel()
	if err != nil || f.file == "" {
		return model, err
	}
	data, err := os.ReadFile(f.file)
	if err != nil {
		return nil, err
	}
	return model, model.Extend(f.file, data)
}

// readyList are the ready bundles by layer, category and product.
type readyList []bundles.Ready

func readyBundles() (readyList, error) { return bundles.All() }

// filterBy returns those of a place of the model.
func (r readyList) filterBy(layer int, category, product string) readyList {
	found := readyList{}
	for _, b := range r {
		if b.Layer == layer && (category == "" || b.Category == category) && (product == "" || b.Product == product) {
			found = append(found, b)
		}
	}
	return found
}

// productOf returns the product that the ready bundle of a name is.
func (r readyList) productOf(name string) string {
	for _, b := range r {
		if b.Name == name {
			return b.Product
		}
	}
	return name
}

// String lists them for people.
func (r readyList) String() string {
	names := make([]string, len(r))
	for i, b := range r {
		names[i] = fmt.Sprintf("bundles/%s (%s)", b.Path, b.Version)
	}
	return strings.Join(names, ", ")
}

func describePlace(f layers.ModelPlace, all readyList) result.FoundPlace {
	category, product := "", ""
	if f.Category != nil {
		category = f.Category.ID
	}
	if f.Product != nil {
		product = f.Product.ID
	}
	v := result.FoundPlace{Layer: f.Layer.Number, LayerName: f.Layer.Name, Ready: all.filterBy(f.Layer.Number, category, product)}
	switch {
	case f.Product != nil:
		v.Category, v.Product = f.Category.ID, f.Product
	case f.Category != nil:
		v.Category, v.Categories = f.Category.ID, []layers.Category{*f.Category}
	default:
		v.Categories = f.Layer.Categories
	}
	return v
}

// writeOverview is a row for each category.
func writeOverview(w io.Writer, model *layers.Model, all readyList) {
	ui.Fprintf(w, "LAYER\tCATEGORY\tREADY\tPRODUCTS\n")
	for _, l := range model.Layers {
		for _, c := range l.Categories {
			ui.Fprintf(w, "%d %s\t%s\t%s\t%s\n", l.Number, l.Name, c.ID, all.filterBy(l.Number, c.ID, "").productNames(), byDelivery(c))
		}
	}
}

// writeMarkdown is the overview as tables, one a layer.
func writeMarkdown(w io.Writer, model *layers.Model, all readyList) {
	for _, l := range model.Layers {
		ui.Fprintf(w, "\n## %d %s\n\n%s.\n\n| category | products, by delivery | ready bundles |\n|---|---|---|\n", l.Number, l.Name, upperFirst(l.Purpose))
		for _, c := range l.Categories {
			ui.Fprintf(w, "| %s | %s | %s |\n", c.Title, byDelivery(c), all.filterBy(l.Number, c.ID, "").productNames())
		}
	}
}

func upperFirst(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// byDelivery lists a category's products by how they are delivered.
func byDelivery(c layers.Category) string {
	var parts []string
	for _, way := range layers.Deliveries {
		var names []string
		for _, p := range c.Products {
			if p.Delivery == way {
				names = append(names, p.Name)
			}
		}
		if len(names) > 0 {
			parts = append(parts, string(way)+": "+strings.Join(names, ", "))
		}
	}
	return strings.Join(parts, "; ")
}

// productNames lists the products of bundles.
func (r readyList) productNames() string {
	var names []string
	for _, b := range r {
		if !slices.Contains(names, b.Product) {
			names = append(names, b.Product)
		}
	}
	return strings.Join(names, ", ")
}

func showFound(w io.Writer, f layers.ModelPlace, all readyList) {
	switch {
	case f.Product != nil:
		p := f.Product
		ui.Fprintf(w, "%s\t%s of layer %d, %s\tdelivered as %s\n", p.Name, f.Category.ID, f.Layer.Number, f.Layer.Name, p.Delivery)
		if p.Note != "" {
			ui.Fprintf(w, "\t%s\t\n", p.Note)
		}
		if r := all.filterBy(f.Layer.Number, f.Category.ID, p.ID); len(r) > 0 {
			ui.Fprintf(w, "\tready: %s\t\n", r)
		}
	case f.Category != nil:
		showCategory(w, f.Layer.Number, f.Category, all)
	default:
		ui.Fprintf(w, "%d %s: %s\n", f.Layer.Number, f.Layer.Name, f.Layer.Purpose)
		for i := range f.Layer.Categories {
			showCategory(w, f.Layer.Number, &f.Layer.Categories[i], all)
		}
	}
}

func showCategory(w io.Writer, layer int, c *layers.Category, all readyList) {
	ui.Fprintf(w, "\n%s: %s\n", c.ID, c.Purpose)
	for _, question := range c.Questions {
		ui.Fprintf(w, "  ? %s\n", question)
	}
	for _, p := range c.Products {
		ui.Fprintf(w, "  %s\t%s\t%s\t%s\n", p.Name, p.Delivery, all.filterBy(layer, c.ID, p.ID), p.Note)
	}
}
