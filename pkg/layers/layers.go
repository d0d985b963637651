// Package layers is the model of a Kubernetes runtime: seven layers, from the platform at
// the bottom to applications at the top, the categories and products of each, and the order in
// which the components that fill them go onto a cluster. It does no I/O.
//
// Call [LoadModel] for the model, which a site can extend by [Model.Extend]. Call [OrderBundles] with a
// runtime's components to get the order to apply them in, or the error that says why there is
// none.
package layers

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Layer is one of the seven layers of a runtime.
type Layer struct {
	Number  int    `json:"number"`
	Name    string `json:"name"`
	Purpose string `json:"purpose"`
}

// all is the same as in model/*.yaml, so that a name needs no model.
var all = []Layer{
	{0, "platform", "infrastructure and the external services that the runtime stands on"},
	{1, "orchestration", "scheduling, coordination and the container runtime"},
	{2, "lifecycle", "lifecycle management and configuration of clusters"},
	{3, "cluster services", "networking, storage, ingress, authentication and backup"},
	{4, "security and observability", "policy, certificates, keys, logs, metrics and traces"},
	{5, "platform services", "services that applications share: messaging, serverless, data"},
	{6, "applications", "what the runtime is there to run"},
}

// Top is the number of the highest layer; the lowest is 0.
const Top = 6

// ListLayers returns the layers from the bottom up.
func ListLayers() []Layer { return slices.Clone(all) }

// LayerName returns the name of a layer, or "" if the number is out of range.
func LayerName(number int) string {
	if number < 0 || number > Top {
		return ""
	}
	return all[number].Name
}

// Component is what order and rules need to know of a bundle. It provides its own name
// besides what it lists.
type Component struct {
	Name  string
	Layer int
	// Category is where the model has it. The order is the same without.
	Category string
	Provides []string
	Requires []string
}

// OrderBundles returns the indexes of components in the order to apply them: by layer, inside a
// layer what is required before what requires it, and otherwise by name, so that the
// order never depends on how the input was written down. provided names what the target
// has already, from outside the runtime.
//
// Errors: [*DuplicateError], [*MissingError], [*UpwardError], [*CycleError].
func OrderBundles(components []Component, provided ...string) ([]int, error) {
	needs, err := RequiredIndexes(components, provided...)
	if err != nil {
		return nil, err
	}
	return sortByNeeds(components, needs)
}

// RequiredIndexes returns, for each component, the indexes of those that provide what it requires, from
// its layer and below; those of the layers above are none of its business.
//
// Errors: as of [OrderBundles], but for cycles.
func RequiredIndexes(components []Component, provided ...string) ([][]int, error) {
	providers, err := indexProviders(components)
	if err != nil {
		return nil, err
	}
	needs := make([][]int, len(components))
	for i, c := range components {
		for _, r := range c.Requires {
			from, found := providers[r]
			if !found && !slices.Contains(provided, r) {
				return nil, &MissingError{Component: c.Name, Requirement: r}
			}
			// A provider above is too late, which matters only when there is no other.
			below := slices.DeleteFunc(slices.Clone(from), func(p int) bool { return components[p].Layer > c.Layer })
			if found && len(below) == 0 && !slices.Contains(provided, r) {
				return nil, &UpwardError{
					Component: c.Name, Layer: c.Layer, Requirement: r,
					Provider: components[from[0]].Name, ProviderLayer: components[from[0]].Layer,
				}
			}
			needs[i] = append(needs[i], slices.DeleteFunc(below, func(p int) bool { return p == i })...)
		}
	}
	return needs, nil
}

// indexProviders maps what is provided to the components that provide it.
func indexProviders(components []Component) (map[string][]int, error) {
	providers := map[string][]int{}
	names := map[string]bool{}
	for i, c := range components {
		if names[c.Name] {
			return nil, &DuplicateError{Component: c.Name}
		}
		names[c.Name] = true
		for _, p := range append([]string{c.Name}, c.Provides...) {
			if !slices.Contains(providers[p], i) {
				providers[p] = append(providers[p], i)
			}
		}
	}
	return providers, nil
}

// sortByNeeds takes, again and again, the first component by layer and name whose needs have
// all been taken.
func sortByNeeds(components []Component, needs [][]int) ([]int, error) {
	rest := make([]int, len(components))
	for i := range rest {
		rest[i] = i
	}
	slices.SortFunc(rest, func(a, b int) int {
		return cmp.Or(cmp.Compare(components[a].Layer, components[b].Layer), cmp.Compare(components[a].Name, components[b].Name))
	})
	taken := make([]bool, len(components))
	order := make([]int, 0, len(components))
	for len(rest) > 0 {
		// Lower layers come first even where nothing requires them: only the lowest
		// layer that is left is looked at.
		lowest := components[rest[0]].Layer
		next := slices.IndexFunc(rest, func(i int) bool {
			return components[i].Layer == lowest &&
				!slices.ContainsFunc(needs[i], func(p int) bool { return !taken[p] })
		})
		if next < 0 {
			return nil, findCycle(components, needs, rest[0], taken)
		}
		taken[rest[next]] = true
		order = append(order, rest[next])
		rest = slices.Delete(rest, next, next+1)
	}
	return order, nil
}

// findCycle walks from a component that cannot be taken along needs that cannot be taken until
// it meets one again.
func findCycle(components []Component, needs [][]int, at int, taken []bool) error {
	var path []int
	for !slices.Contains(path, at) {
		path = append(path, at)
		for _, p := range needs[at] {
			if !taken[p] {
				at = p
				break
			}
		}
	}
	path = path[slices.Index(path, at):]
	names := make([]string, len(path))
	for i, p := range path {
		names[i] = components[p].Name
	}
	return &CycleError{Components: names}
}

// DuplicateError says that two components have one name.
type DuplicateError struct{ Component string }

func (e *DuplicateError) Error() string {
	return fmt.Sprintf("duplicate bundle %q", e.Component)
}

// MissingError says that nothing provides what a component requires.
type MissingError struct{ Component, Requirement string }

func (e *MissingError) Error() string {
	return fmt.Sprintf("bundle %q requires %q, which no bundle provides", e.Component, e.Requirement)
}

// UpwardError says that a component requires something of a higher layer.
type UpwardError struct {
	Component     string
	Layer         int
	Requirement   string
	Provider      string
	ProviderLayer int
}

func (e *UpwardError) Error() string {
	return fmt.Sprintf("bundle %q of layer %d requires %q, which %q provides only in layer %d above it",
		e.Component, e.Layer, e.Requirement, e.Provider, e.ProviderLayer)
}

// CycleError says that components require each other in a ring, each the next one and
// the last one the first.
type CycleError struct{ Components []string }

func (e *CycleError) Error() string {
	return fmt.Sprintf("bundles require each other in a cycle: %s",
		strings.Join(append(slices.Clone(e.Components), e.Components[0]), " → "))
}
