package layers

import (
	_ "embed" // the schema
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/manifest"
)

// extension is a site's own part of the model.
type extension struct {
	Layers []layerExtension `json:"layers" yaml:"layers"`
}

// layerExtension is what a site adds to a layer.
type layerExtension struct {
	// Number is the layer's, 0 to 6.
	Number *int `json:"number" yaml:"number" jsonschema:"minimum=0,maximum=6"`
	// Capabilities are rules about what bundles provide.
	Capabilities []Capability `json:"capabilities,omitempty" yaml:"capabilities"`
	// Categories are new ones, and those of the model that get products.
	Categories []Category `json:"categories,omitempty" yaml:"categories"`
}

// ExtensionSchema returns the JSON schema (draft 2020-12) of what [Model.Extend] takes.
func ExtensionSchema() []byte { return schema }

//go:embed schema.json
var schema []byte

//go:generate go test -run TestSchemaIsCurrent -update .

// Extend adds a site's own categories, products and rules, written as
//
//	layers:
//	  - number: 3
//	    capabilities:
//	      - {name: time, purpose: The one source of time., exclusive: true}
//	    categories:
//	      - id: networking          # of the model: gets products
//	        products: [{id: acme-net, name: Acme Net, delivery: chart}]
//	      - id: time                # of the site
//	        title: Time
//	        purpose: Keeps the clocks of the nodes together.
//
// Nothing is replaced: what is there already, under its id or its name, is an error. Errors are
// [*manifest.Error] with their places, several are joined, and the model stays as it was.
func (m *Model) Extend(name string, data []byte) error {
	var e extension
	file, err := manifest.ParseStrict(name, data, &e)
	if err != nil {
		return err
	}
	next := m.cloneLayers()
	var problems []error
	for i, l := range e.Layers {
		node := manifest.GetValue(file.Documents[0], "layers").Content[i]
		switch {
		case l.Number == nil:
			problems = append(problems, file.Errorf(node, "number is missing"))
		case *l.Number < 0 || *l.Number >= len(next.Layers):
			problems = append(problems, file.Errorf(manifest.GetValue(node, "number"), "number is %d, want 0 to %d", *l.Number, len(next.Layers)-1))
		default:
			problems = append(problems, next.addToLayer(file, node, *l.Number, l.Capabilities, l.Categories))
		}
	}
	if err := errors.Join(problems...); err != nil {
		return err
	}
	m.Layers = next.Layers
	return nil
}

// idRule is the pattern of ids and capabilities, as in definitions.
var idRule = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)

const wantedID = "want lower-case letters, digits and dashes"

// extensionReader is what is being added, and what is wrong with it.
type extensionReader struct {
	model    *Model
	file     *manifest.File
	problems []error

	categories map[string]string // ids by what a category is called, folded
	names, ids map[string]string // names of products by their ids, and ids by their names, folded
}

// addToLayer puts what node has in its fields of that name into a layer.
func (m *Model) addToLayer(file *manifest.File, node *yaml.Node, layer int, capabilities []Capability, categories []Category) error {
	a := &extensionReader{model: m, file: file, categories: map[string]string{}, names: map[string]string{}, ids: map[string]string{}}
	for _, l := range m.Layers {
		for _, c := range l.Categories {
			a.categories[foldName(c.ID)], a.categories[foldName(c.Title)] = c.ID, c.ID
			for _, p := range c.Products {
				a.names[p.ID], a.ids[foldName(p.Name)] = p.Name, p.ID
			}
		}
	}
	for i, c := range capabilities {
		a.addCapability(manifest.GetValue(node, "capabilities").Content[i], layer, c)
	}
	for i, c := range categories {
		a.addCategory(manifest.GetValue(node, "categories").Content[i], layer, c)
	}
	return errors.Join(a.problems...)
}

// recordError notes a problem at a field of a mapping, or at the mapping where it is missing.
func (a *extensionReader) recordError(mapping *yaml.Node, field, format string, args ...any) *manifest.Error {
	node := manifest.GetValue(mapping, field)
	if node == nil {
		node = mapping
	}
	problem := a.file.Errorf(node, format, args...)
	a.problems = append(a.problems, problem)
	return problem
}

func (a *extensionReader) addCapability(node *yaml.Node, layer int, c Capability) {
	for _, l := range a.model.Layers {
		if slices.ContainsFunc(l.Capabilities, func(other Capability) bool { return other.Name == c.Name }) {
			a.recordError(node, "name", "capability %q already exists in layer %d", c.Name, l.Number)
			return
		}
	}
	switch {
	case c.Name == "":
		a.recordError(node, "name", "name is missing")
	case !idRule.MatchString(c.Name):
		a.recordError(node, "name", "capability %q: %s", c.Name, wantedID)
	case strings.TrimSpace(c.Purpose) == "":
		a.recordError(node, "purpose", "capability %q has no purpose", c.Name)
	case !c.Exclusive && !c.Expected:
		a.recordError(node, "name", "capability %q has no rule: want exclusive or expected", c.Name)
	default:
		a.model.Layers[layer].Capabilities = append(a.model.Layers[layer].Capabilities, c)
	}
}

func (a *extensionReader) addCategory(node *yaml.Node, layer int, c Category) {
	if !a.checkID(node, c.ID) {
		return
	}
	products := manifest.GetValue(node, "products")
	if there, in := a.model.categoryByID(c.ID); there != nil {
		if in != layer {
			a.recordError(node, "id", "category %q already exists in layer %d", c.ID, in)
			return
		}
		for _, field := range []string{"title", "purpose", "questions"} {
			if manifest.GetValue(node, field) != nil {
				a.recordError(node, field, "category %q already exists, only products can be added to it", c.ID)
				return
			}
		}
		for i, p := range c.Products {
			a.addProduct(products.Content[i], there, p)
		}
		return
	}
	if foldName(c.Title) == "" {
		problem := a.recordError(node, "title", "new category %q has no title", c.ID)
		if near := manifest.NearestName(c.ID, a.model.categoryIDs(layer)); near != "" {
			problem.Hint = fmt.Sprintf("did you mean %q?", near)
		}
		return
	}
	if c.Purpose == "" {
		a.recordError(node, "purpose", "category %q has no purpose", c.ID)
	}
	a.checkTexts(node, "questions", c.Questions)
	for _, called := range [][2]string{{"id", c.ID}, {"title", c.Title}} {
		if other, taken := a.categories[foldName(called[1])]; taken {
			_, in := a.model.categoryByID(other)
			a.recordError(node, called[0], "%s %q already names category %q, in layer %d", called[0], called[1], other, in)
			return
		}
	}
	a.categories[foldName(c.ID)], a.categories[foldName(c.Title)] = c.ID, c.ID
	added := c
	added.Products = nil
	for i, p := range c.Products {
		a.addProduct(products.Content[i], &added, p)
	}
	a.model.Layers[layer].Categories = append(a.model.Layers[layer].Categories, added)
}

// checkID checks an id's spelling.
func (a *extensionReader) checkID(node *yaml.Node, id string) bool {
	switch {
	case id == "":
		a.recordError(node, "id", "id is missing")
	case !idRule.MatchString(id):
		a.recordError(node, "id", "id %q: %s", id, wantedID)
	default:
		return true
	}
	return false
}

// checkTexts checks that no text of a list is empty.
func (a *extensionReader) checkTexts(node *yaml.Node, field string, list []string) {
	for i, text := range list {
		if strings.TrimSpace(text) == "" {
			a.problems = append(a.problems, a.file.Errorf(manifest.GetValue(node, field).Content[i], "%s has an empty text", field))
		}
	}
}

func (a *extensionReader) addProduct(node *yaml.Node, category *Category, p Product) {
	if !a.checkID(node, p.ID) {
		return
	}
	if foldName(p.Name) == "" {
		a.recordError(node, "name", "product %q has no name", p.ID)
		return
	}
	a.checkDelivery(node, p)
	a.checkTexts(node, "aliases", p.Aliases)
	for i, capability := range p.Provides {
		if !idRule.MatchString(capability) {
			a.problems = append(a.problems, a.file.Errorf(manifest.GetValue(node, "provides").Content[i], "capability %q: %s", capability, wantedID))
		}
	}
	for _, other := range category.Products {
		if other.ID == p.ID {
			a.recordError(node, "id", "product %q already exists in category %q", p.ID, category.ID)
			return
		}
	}
	name, sameID := a.names[p.ID]
	id, sameName := a.ids[foldName(p.Name)]
	switch {
	case sameID && foldName(name) != foldName(p.Name):
		a.recordError(node, "name", "product %q is called %q elsewhere, not %q", p.ID, name, p.Name)
		return
	case sameName && id != p.ID:
		a.recordError(node, "id", "product %q already exists with the id %q", p.Name, id)
		return
	}
	a.names[p.ID], a.ids[foldName(p.Name)] = p.Name, p.ID
	category.Products = append(category.Products, p)
}

func (a *extensionReader) checkDelivery(node *yaml.Node, p Product) {
	var ways []string
	for _, way := range Deliveries {
		if way == p.Delivery {
			return
		}
		ways = append(ways, string(way))
	}
	if p.Delivery == "" {
		a.recordError(node, "delivery", "product %q has no delivery", p.ID).Hint = "one of " + strings.Join(ways, ", ")
		return
	}
	a.recordError(node, "delivery", "delivery %q: want one of %s", p.Delivery, strings.Join(ways, ", "))
}

// categoryIDs returns the ids of a layer's categories.
func (m *Model) categoryIDs(layer int) (ids []string) {
	for _, c := range m.Layers[layer].Categories {
		ids = append(ids, c.ID)
	}
	return ids
}
