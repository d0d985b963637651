package starter

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"krtpkg.dev/krtpkg/bundles"
	"krtpkg.dev/krtpkg/pkg/layers"
)

// Start is the beginning of a runtime.
type Start struct {
	Answers *Answers
	// Bundles are the ready ones, in the order of their paths.
	Bundles []bundles.Use
	// Outside is what the runtime says comes from outside, with the reason of each.
	Outside []Outside
	// Wanting are products that were chosen and have no ready bundle: theirs must be written.
	Wanting []Chosen

	model *layers.Model
	ready []bundles.Ready
}

// Outside is something that comes from outside the runtime.
type Outside struct {
	// Capability is what others may require, or the id of a category or a product.
	Capability, Why string
}

// Chosen is a product that was chosen for a category.
type Chosen struct {
	Category layers.Category
	Layer    int
	Product  layers.Product
	Why      string
}

// StartRuntime works out what follows from answers. Bundles that others require are added where one
// alone provides what is missing. Errors say what must be decided first.
func StartRuntime(model *layers.Model, ready []bundles.Ready, a *Answers) (*Start, error) {
	s := &Start{Answers: a, model: model, ready: ready}
	if err := s.addReadyRuntime(); err != nil {
		return nil, err
	}
	for number, l := range model.Layers {
		for _, c := range l.Categories {
			s.applyDecision(number, c, a.Decisions[c.ID])
		}
	}
	if err := s.addRequired(); err != nil {
		return nil, err
	}
	slices.SortStableFunc(s.Bundles, func(x, y bundles.Use) int { return cmp.Compare(x.Path, y.Path) })
	if len(s.Bundles) == 0 {
		return nil, errors.New("none of the chosen products has a ready bundle: a runtime needs at least one")
	}
	return s, s.checkRules()
}

// addReadyRuntime takes the bundles of the ready runtime, but for those whose category was decided.
func (s *Start) addReadyRuntime() error {
	if s.Answers.From == "" {
		return nil
	}
	names, err := bundles.Runtimes()
	if err != nil {
		return err
	}
	if !slices.Contains(names, s.Answers.From) {
		return fmt.Errorf("no ready runtime named %q: want one of %s", s.Answers.From, strings.Join(names, ", "))
	}
	s.Bundles, err = bundles.Runtime(s.Answers.From, s.ready)
	s.Bundles = slices.DeleteFunc(s.Bundles, func(u bundles.Use) bool {
		category, _, _ := s.model.FindCategory(u.Category)
		if !s.Answers.Decisions[u.Category].isDecided() {
			return false
		}
		// What is not a product of the category goes with any of them.
		_, err := findProduct(category, u.Product)
		return err == nil
	})
	return err
}

// applyDecision adds what was chosen for a category.
func (s *Start) applyDecision(layer int, c layers.Category, d Decision) {
	if d.Outside != "" {
		why := cmp.Or(d.Why, "from "+d.Outside)
		s.addOutside(c.ID, why)
		for _, p := range c.Products {
			for _, provided := range p.Provides {
				if rule, found := s.model.FindCapability(provided); found && rule.Expected {
					s.addOutside(provided, why)
				}
			}
		}
	}
	for _, id := range d.Products {
		p, _ := findProduct(c, id)
		why := cmp.Or(d.Why, fmt.Sprintf("%s, for %s.", p.Name, strings.ToLower(c.Title)))
		at := slices.IndexFunc(s.ready, func(r bundles.Ready) bool {
			return r.Layer == layer && r.Category == c.ID && r.Product == id
		})
		switch {
		case at >= 0:
			s.Bundles = append(s.Bundles, bundles.Use{Ready: s.ready[at], Why: cmp.Or(d.Why, s.ready[at].Description, why)})
		case p.Delivery == layers.Manifests || p.Delivery == layers.Chart:
			s.Wanting = append(s.Wanting, Chosen{Category: c, Layer: layer, Product: p, Why: why})
		default:
			s.addOutside(p.ID, why)
			for _, provided := range p.Provides {
				s.addOutside(provided, why)
			}
		}
	}
}

func (s *Start) addOutside(capability, why string) {
	if !slices.ContainsFunc(s.Outside, func(o Outside) bool { return o.Capability == capability }) {
		s.Outside = append(s.Outside, Outside{Capability: capability, Why: why})
	}
}

// addRequired adds what bundles require, until nothing is missing.
func (s *Start) addRequired() error {
	for i := 0; i < len(s.Bundles); i++ {
		for _, requirement := range s.Bundles[i].Requires {
			if err := s.supplyRequirement(s.Bundles[i].Ready, requirement); err != nil {
				return err
			}
		}
	}
	return nil
}

func providesCapability(r bundles.Ready, capability string) bool {
	return r.Name == capability || slices.Contains(r.Provides, capability)
}

// supplyRequirement sees to it that what a bundle requires is there.
func (s *Start) supplyRequirement(by bundles.Ready, requirement string) error {
	if slices.ContainsFunc(s.Bundles, func(u bundles.Use) bool { return providesCapability(u.Ready, requirement) }) {
		return nil
	}
	if slices.ContainsFunc(s.Outside, func(o Outside) bool { return o.Capability == requirement }) {
		return nil
	}
	var can []bundles.Ready
	for _, r := range s.ready {
		if r.Layer <= by.Layer && providesCapability(r, requirement) {
			can = append(can, r)
		}
	}
	// A category that is outside, or whose product must be written, brings what its products do.
	for number, l := range s.model.Layers {
		for _, c := range l.Categories {
			for _, p := range c.Products {
				if slices.Contains(p.Provides, requirement) && s.isProvidedElsewhere(number, c, p) {
					s.addOutside(requirement, "required by "+by.Name+", of "+c.Title)
					return nil
				}
			}
		}
	}
	if len(can) == 1 {
		s.Bundles = append(s.Bundles, bundles.Use{Ready: can[0], Why: fmt.Sprintf("Required by %s.", by.Name)})
		return nil
	}
	var choices []string
	for _, r := range can {
		choices = append(choices, fmt.Sprintf("--choose %s=%s", r.Category, r.Product))
	}
	if len(choices) == 0 {
		return fmt.Errorf("%s requires %s, which no ready bundle provides: choose another product, or declare that the category comes from outside", by.Name, requirement)
	}
	return fmt.Errorf("%s requires %s, which several provide: %s", by.Name, requirement, strings.Join(choices, " or "))
}

// isProvidedElsewhere reports whether a decision brings a product's capabilities without a ready bundle.
func (s *Start) isProvidedElsewhere(layer int, c layers.Category, p layers.Product) bool {
	return s.Answers.Decisions[c.ID].Outside != "" || slices.ContainsFunc(s.Wanting, func(w Chosen) bool {
		return w.Layer == layer && w.Category.ID == c.ID && w.Product.ID == p.ID
	})
}

// checkRules holds the beginning against the rules of the layers.
func (s *Start) checkRules() error {
	problems := s.model.FindConflicts(s.listComponents())
	if _, err := layers.OrderBundles(s.listComponents(), s.providedOutside()...); err != nil {
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}

// listComponents returns the bundles as order and rules need them.
func (s *Start) listComponents() (all []layers.Component) {
	for _, u := range s.Bundles {
		all = append(all, layers.Component{Name: u.Name, Layer: u.Layer, Category: u.Category, Provides: u.Provides, Requires: u.Requires})
	}
	return all
}

func (s *Start) providedOutside() (names []string) {
	for _, o := range s.Outside {
		names = append(names, o.Capability)
	}
	return names
}

// AbsentCapabilities returns what every runtime stands on and nothing brings yet.
func (s *Start) AbsentCapabilities() []*layers.AbsentError {
	components := s.listComponents()
	for _, w := range s.Wanting {
		components = append(components, layers.Component{Name: w.Product.ID, Layer: w.Layer, Provides: w.Product.Provides})
	}
	return s.model.FindAbsent(components, s.providedOutside())
}
