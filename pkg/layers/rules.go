package layers

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Capability is a name that bundles provide and require and that the model has a rule for.
type Capability struct {
	Name    string `json:"name" yaml:"name" jsonschema:"pattern=^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"`
	Purpose string `json:"purpose" yaml:"purpose"`
	// Exclusive says that one bundle of a runtime provides it at most.
	Exclusive bool `json:"exclusive,omitempty" yaml:"exclusive"`
	// Expected says that a runtime stands on it: some bundle provides it, or the platform.
	Expected bool `json:"expected,omitempty" yaml:"expected"`
	// Named says that there are several, told apart by what follows the name and a dash:
	// the rule holds for each. Of ingress-class, ingress-class-nginx is one.
	Named bool `json:"named,omitempty" yaml:"named"`
}

// coversName reports whether the capability's rule is about what a bundle provides.
func (c Capability) coversName(provided string) bool {
	if c.Named {
		return strings.HasPrefix(provided, c.Name+"-")
	}
	return provided == c.Name
}

// FindCapability returns the rule about what a bundle provides.
func (m *Model) FindCapability(provided string) (Capability, bool) {
	for _, l := range m.Layers {
		for _, c := range l.Capabilities {
			if c.coversName(provided) {
				return c, true
			}
		}
	}
	return Capability{}, false
}

// ConflictError says that several components provide what only one can.
type ConflictError struct {
	Capability, Purpose string
	Components          []string
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("bundles %s all provide %s, which a runtime can have only once: %s",
		strings.Join(e.Components, ", "), e.Capability, lowerFirst(e.Purpose))
}

// UnusedExceptionError says that exception matches no conflict.
type UnusedExceptionError struct{ Capability string }

func (e *UnusedExceptionError) Error() string {
	return fmt.Sprintf("exception matches no conflict: %q is not provided twice, or may be", e.Capability)
}

// FindConflicts returns an error for each capability that several components provide and only one
// can, but for those of the exceptions, and for each exception that excepts nothing:
// [*ConflictError] and [*NeedlessError].
func (m *Model) FindConflicts(components []Component, exceptions ...string) (problems []error) {
	by := map[string][]string{}
	for _, c := range components {
		for _, p := range c.Provides {
			if rule, found := m.FindCapability(p); found && rule.Exclusive && !slices.Contains(by[p], c.Name) {
				by[p] = append(by[p], c.Name)
			}
		}
	}
	for _, p := range slices.Sorted(maps.Keys(by)) {
		if len(by[p]) > 1 && !slices.Contains(exceptions, p) {
			rule, _ := m.FindCapability(p)
			slices.Sort(by[p])
			problems = append(problems, &ConflictError{Capability: p, Purpose: rule.Purpose, Components: by[p]})
		}
	}
	for _, e := range exceptions {
		if len(by[e]) < 2 {
			problems = append(problems, &UnusedExceptionError{Capability: e})
		}
	}
	return problems
}

// AbsentError says that nothing provides what a runtime stands on.
type AbsentError struct {
	Capability, Purpose string
	// Category is the first one that has a product which provides it.
	Category string
	// Products provide it.
	Products []string
}

func (e *AbsentError) Error() string {
	return fmt.Sprintf("nothing provides %s: %s", e.Capability, lowerFirst(e.Purpose))
}

// FindAbsent returns an [*AbsentError] for each capability that a runtime stands on and that neither
// its components nor what comes from outside provide.
func (m *Model) FindAbsent(components []Component, provided []string) (absent []*AbsentError) {
	for _, l := range m.Layers {
		for _, c := range l.Capabilities {
			there := slices.ContainsFunc(provided, c.coversName) || slices.ContainsFunc(components, func(b Component) bool {
				return slices.ContainsFunc(b.Provides, c.coversName)
			})
			if c.Expected && !there {
				category, products := m.findProviders(c)
				absent = append(absent, &AbsentError{Capability: c.Name, Purpose: c.Purpose, Category: category, Products: products})
			}
		}
	}
	return absent
}

// findProviders returns the products that provide a capability and are not retired, and the category
// of the first.
func (m *Model) findProviders(c Capability) (category string, ids []string) {
	for _, l := range m.Layers {
		for _, at := range l.Categories {
			for _, p := range at.Products {
				if p.Delivery != Retired && slices.ContainsFunc(p.Provides, c.coversName) && !slices.Contains(ids, p.ID) {
					category, ids = cmp.Or(category, at.ID), append(ids, p.ID)
				}
			}
		}
	}
	return category, ids
}

// State is how a category is filled.
type State string

// The states of a category.
const (
	Empty   State = "empty"
	Filled  State = "bundle"  // by a bundle
	Several State = "several" // by more than one bundle
	Served  State = "service" // by a service elsewhere, which a bundle configures
	Outside State = "outside" // by what the runtime says comes from outside
)

// Coverage is how a runtime fills a category.
type Coverage struct {
	Layer    int    `json:"layer"`
	Category string `json:"category"`
	State    State  `json:"state"`
	// By are the bundles, or the names of what comes from outside.
	By []string `json:"by,omitempty"`
}

// CoverCategories returns how components and what comes from outside fill each category: those of the
// model, and those that only the components have. A component fills its own category, and
// those whose products alone provide what it provides. What comes from outside fills a category
// whose id it is, whose product it is, or whose products alone provide it. product gives the
// product that a component of that name is, if it is one.
func (m *Model) CoverCategories(components []Component, provided []string, product func(component string) string) (all []Coverage) {
	var others []Component
	for _, b := range components {
		if _, layer, found := m.FindCategory(b.Category); !found || layer != b.Layer {
			others = append(others, b)
		}
	}
	for number, l := range m.Layers {
		for _, c := range l.Categories {
			all = append(all, m.coverCategory(number, c, components, provided, product))
		}
	}
	all = append(all, ownCategories(others)...)
	slices.SortStableFunc(all, func(a, b Coverage) int { return cmp.Compare(a.Layer, b.Layer) })
	return all
}

func (m *Model) coverCategory(layer int, c Category, components []Component, provided []string, product func(string) string) Coverage {
	row := Coverage{Layer: layer, Category: c.ID, State: Empty}
	service := false
	for _, b := range components {
		if b.Layer == layer && b.Category == c.ID {
			row.By, service = append(row.By, b.Name), c.isService(product(b.Name))
		}
	}
	if len(row.By) == 0 {
		for _, b := range components {
			if slices.ContainsFunc(b.Provides, func(p string) bool { return m.isOnlyProvider(p, c) }) {
				row.By = append(row.By, b.Name)
			}
		}
	}
	slices.Sort(row.By)
	switch {
	case len(row.By) > 1:
		row.State = Several
	case service:
		row.State = Served
	case len(row.By) == 1:
		row.State = Filled
	default:
		row.By = slices.DeleteFunc(slices.Clone(provided), func(p string) bool { return !c.hasID(p) && !m.isOnlyProvider(p, c) })
		if len(row.By) > 0 {
			row.State = Outside
		}
	}
	return row
}

// ownCategories returns the categories that the model does not have.
func ownCategories(components []Component) (all []Coverage) {
	for _, b := range components {
		i := slices.IndexFunc(all, func(c Coverage) bool { return c.Layer == b.Layer && c.Category == b.Category })
		if i < 0 {
			all = append(all, Coverage{Layer: b.Layer, Category: b.Category, State: Filled, By: []string{b.Name}})
			continue
		}
		all[i].State, all[i].By = Several, append(all[i].By, b.Name)
	}
	for i := range all {
		slices.Sort(all[i].By)
	}
	slices.SortFunc(all, func(a, b Coverage) int { return cmp.Compare(a.Category, b.Category) })
	return all
}

// isService reports whether a product of the category is a service.
func (c Category) isService(product string) bool {
	return slices.ContainsFunc(c.Products, func(p Product) bool { return p.ID == product && p.Delivery == Service })
}

// hasID reports whether an id is the category's, or that of a product of it.
func (c Category) hasID(id string) bool {
	return c.ID == id || slices.ContainsFunc(c.Products, func(p Product) bool { return p.ID == id })
}

func (c Category) providesCapability(capability string) bool {
	return slices.ContainsFunc(c.Products, func(p Product) bool { return slices.Contains(p.Provides, capability) })
}

// isOnlyProvider reports whether the products of a category, and of no other, provide a capability.
func (m *Model) isOnlyProvider(capability string, c Category) bool {
	if !c.providesCapability(capability) {
		return false
	}
	for _, l := range m.Layers {
		for _, other := range l.Categories {
			if other.ID != c.ID && (other.hasID(capability) || other.providesCapability(capability)) {
				return false
			}
		}
	}
	return true
}

// lowerFirst makes a sentence a part of another one.
func lowerFirst(s string) string {
	s = strings.TrimSuffix(s, ".")
	return strings.ToLower(s[:1]) + s[1:]
}
