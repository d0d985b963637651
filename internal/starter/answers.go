// Package starter makes the beginning of a runtime out of decisions: which products fill the
// categories of the layers, what comes from outside, what is left for later. It gives the
// definition, with the ready bundles that it names, and a record of the decisions.
package starter

import (
	"fmt"
	"slices"
	"strings"

	"krtpkg.dev/krtpkg/pkg/layers"
	"krtpkg.dev/krtpkg/pkg/manifest"
)

// Answers are the decisions about a runtime.
type Answers struct {
	// Name and Version are the runtime's.
	Name    string `yaml:"name"`
	Version string `yaml:"version"`
	// From is the ready runtime to start from, or "" for none.
	From string `yaml:"from"`
	// Decisions are by the id of their category. What a category of From has stays where
	// there is none.
	Decisions map[string]Decision `yaml:"decisions"`
}

// Decision is what was decided about a category: products, from outside, or later.
type Decision struct {
	// Products are ids or names of products of the category.
	Products []string `yaml:"products"`
	// Outside says where it comes from, if not from the runtime.
	Outside string `yaml:"outside"`
	// Later says that nothing fills it for now.
	Later bool `yaml:"later"`
	// Why is the reason.
	Why string `yaml:"why"`
	// Answers are those to the category's questions, in their order. An empty one is open.
	Answers []string `yaml:"answers"`
}

// ParseAnswers reads answers, strictly. Errors are [*manifest.Error] with their places.
func ParseAnswers(name string, data []byte, model *layers.Model) (*Answers, error) {
	var a Answers
	file, err := manifest.ParseStrict(name, data, &a)
	if err != nil {
		return nil, err
	}
	for id, d := range a.Decisions {
		if err := d.checkModel(id, model); err != nil {
			return nil, file.Errorf(manifest.GetValue(manifest.GetValue(file.Documents[0], "decisions"), id), "%v", err)
		}
	}
	return &a, nil
}

// AddChoice adds a decision written as CATEGORY=PRODUCT[,PRODUCT], CATEGORY=outside or
// CATEGORY=none, which is for later.
func (a *Answers) AddChoice(text string, model *layers.Model) error {
	category, what, found := strings.Cut(text, "=")
	if !found || what == "" {
		return fmt.Errorf("%q: want CATEGORY=PRODUCT[,PRODUCT], CATEGORY=outside or CATEGORY=none", text)
	}
	d := a.Decisions[category]
	d.Products, d.Outside, d.Later = nil, "", false
	switch what {
	case "outside":
		d.Outside = "the platform"
	case "none":
		d.Later = true
	default:
		d.Products = strings.Split(what, ",")
	}
	if err := d.checkModel(category, model); err != nil {
		return err
	}
	a.setDecision(category, d)
	return nil
}

// AddReason adds the reason of a decision, written as CATEGORY=TEXT.
func (a *Answers) AddReason(text string, model *layers.Model) error {
	category, why, found := strings.Cut(text, "=")
	if !found {
		return fmt.Errorf("%q: want CATEGORY=TEXT", text)
	}
	d := a.Decisions[category]
	d.Why = why
	if err := d.checkModel(category, model); err != nil {
		return err
	}
	a.setDecision(category, d)
	return nil
}

func (a *Answers) setDecision(category string, d Decision) {
	if a.Decisions == nil {
		a.Decisions = map[string]Decision{}
	}
	a.Decisions[category] = d
}

// isDecided reports whether it says more than a reason and answers.
func (d Decision) isDecided() bool { return len(d.Products) > 0 || d.Outside != "" || d.Later }

// checkModel holds a decision against the model, and turns the names of its products into ids.
func (d *Decision) checkModel(id string, model *layers.Model) error {
	category, _, found := model.FindCategory(id)
	if !found {
		var ids []string
		for _, l := range model.Layers {
			for _, c := range l.Categories {
				ids = append(ids, c.ID)
			}
		}
		return fmt.Errorf("no category named %q%s", id, didYouMean(id, ids))
	}
	ways := 0
	for _, said := range []bool{len(d.Products) > 0, d.Outside != "", d.Later} {
		if said {
			ways++
		}
	}
	if ways > 1 {
		return fmt.Errorf("%s: want only one of products, outside and later", id)
	}
	if len(d.Answers) > len(category.Questions) {
		return fmt.Errorf("%s: %d answers to %d questions", id, len(d.Answers), len(category.Questions))
	}
	for i, text := range d.Products {
		p, err := findProduct(category, text)
		if err != nil {
			return err
		}
		d.Products[i] = p.ID
	}
	return nil
}

// findProduct finds a product of a category by its id, name or alias.
func findProduct(c layers.Category, text string) (layers.Product, error) {
	var names []string
	for _, p := range c.Products {
		called := append([]string{p.ID, p.Name}, p.Aliases...)
		if slices.ContainsFunc(called, func(s string) bool { return strings.EqualFold(s, strings.TrimSpace(text)) }) {
			if p.Delivery == layers.Retired {
				return p, fmt.Errorf("%s: %s is retired: %s", c.ID, p.Name, p.Note)
			}
			return p, nil
		}
		names = append(names, p.ID)
	}
	return layers.Product{}, fmt.Errorf("category %s has no product %q%s", c.ID, text, didYouMean(text, names))
}

func didYouMean(text string, names []string) string {
	if near := manifest.NearestName(text, names); near != "" {
		return fmt.Sprintf(" (did you mean %q?)", near)
	}
	return ""
}
