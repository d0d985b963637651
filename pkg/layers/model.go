package layers

import (
	"embed"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode"

	"krtpkg.dev/krtpkg/pkg/manifest"
)

// Model is the layers with what can fill them: categories and their products. It is for one
// goroutine at a time while it is extended.
type Model struct {
	// Layers are in order from the bottom up; a layer's number is its index.
	Layers []LayerModel `json:"layers"`
}

// LayerModel is a layer with its categories.
type LayerModel struct {
	Layer
	// Open says that the categories are only examples of what belongs into the layer.
	Open bool `json:"open,omitempty"`
	// Capabilities are the rules about what bundles of the layer provide.
	Capabilities []Capability `json:"capabilities,omitempty"`
	Categories   []Category   `json:"categories"`
}

// Category is one thing that a runtime needs, for example a service proxy. No other category
// of any layer has its id or title.
type Category struct {
	ID string `json:"id" yaml:"id" jsonschema:"pattern=^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"`
	// Title and Purpose are those of the model where it has the category already.
	Title   string `json:"title,omitempty" yaml:"title"`
	Purpose string `json:"purpose,omitempty" yaml:"purpose"`
	// Questions are what has to be decided before a product is chosen.
	Questions []string  `json:"questions,omitempty" yaml:"questions"`
	Products  []Product `json:"products,omitempty" yaml:"products"`
}

// Product is something that fills a category. A product of several categories has one id and
// one name in all of them; how it is delivered and the rest may differ.
type Product struct {
	ID   string `json:"id" yaml:"id" jsonschema:"pattern=^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"`
	Name string `json:"name" yaml:"name"`
	// Aliases are other names under which it is looked for.
	Aliases  []string `json:"aliases,omitempty" yaml:"aliases"`
	Delivery Delivery `json:"delivery" yaml:"delivery" jsonschema:"enum=manifests,enum=chart,enum=node,enum=service,enum=client,enum=standard,enum=retired"`
	// Provides are capabilities that others can require, as in [Component].
	Provides []string `json:"provides,omitempty" yaml:"provides"`
	// Note says what remains in the cluster, why it is retired and the like.
	Note string `json:"note,omitempty" yaml:"note"`
}

// Delivery is how a product reaches a runtime.
type Delivery string

// The ways of delivery.
const (
	Manifests Delivery = "manifests" // a bundle of manifests
	Chart     Delivery = "chart"     // a bundle with a Helm chart
	Node      Delivery = "node"      // software of the node or its image
	Service   Delivery = "service"   // runs elsewhere; only its configuration is in the cluster
	Client    Delivery = "client"    // a tool of those who work with the cluster
	Standard  Delivery = "standard"  // an interface that products implement
	Retired   Delivery = "retired"   // not to be chosen any more
)

// Deliveries are all ways of delivery.
var Deliveries = []Delivery{Manifests, Chart, Node, Service, Client, Standard, Retired}

//go:embed model/*.yaml
var modelFiles embed.FS

// layerFile is how a layer is written down.
type layerFile struct {
	Number       int          `yaml:"number"`
	Name         string       `yaml:"name"`
	Purpose      string       `yaml:"purpose"`
	Open         bool         `yaml:"open"`
	Capabilities []Capability `yaml:"capabilities"`
	Categories   []Category   `yaml:"categories"`
}

var embeddedModel = sync.OnceValues(func() (*Model, error) {
	m := &Model{}
	for number := range Top + 1 {
		name := fmt.Sprintf("model/%d.yaml", number)
		data, err := modelFiles.ReadFile(name)
		if err != nil {
			return nil, err
		}
		var l layerFile
		file, err := manifest.ParseStrict(name, data, &l)
		if err != nil {
			return nil, err
		}
		if l.Number != number {
			return nil, file.Errorf(manifest.GetValue(file.Documents[0], "number"), "number is %d, want %d", l.Number, number)
		}
		m.Layers = append(m.Layers, LayerModel{Layer: Layer{l.Number, l.Name, l.Purpose}, Open: l.Open})
		if err := m.addToLayer(file, file.Documents[0], number, l.Capabilities, l.Categories); err != nil {
			return nil, err
		}
	}
	return m, nil
})

// LoadModel returns the model that is built in. It is the caller's own, to be extended.
func LoadModel() (*Model, error) {
	m, err := embeddedModel()
	if err != nil {
		return nil, err
	}
	return m.cloneLayers(), nil
}

// cloneLayers copies all that [Model.Extend] changes.
func (m *Model) cloneLayers() *Model {
	c := &Model{Layers: slices.Clone(m.Layers)}
	for i := range c.Layers {
		c.Layers[i].Categories = slices.Clone(c.Layers[i].Categories)
		c.Layers[i].Capabilities = slices.Clone(c.Layers[i].Capabilities)
		for j := range c.Layers[i].Categories {
			category := &c.Layers[i].Categories[j]
			category.Products = slices.Clone(category.Products)
		}
	}
	return c
}

// FindLayer returns the layer of a number.
func (m *Model) FindLayer(number int) (LayerModel, bool) {
	if number < 0 || number >= len(m.Layers) {
		return LayerModel{}, false
	}
	return m.Layers[number], true
}

// FindCategory returns the category of an id, and the number of its layer.
func (m *Model) FindCategory(id string) (category Category, layer int, found bool) {
	if c, number := m.categoryByID(id); c != nil {
		return *c, number, true
	}
	return Category{}, 0, false
}

func (m *Model) categoryByID(id string) (*Category, int) {
	for number := range m.Layers {
		for i := range m.Layers[number].Categories {
			if c := &m.Layers[number].Categories[i]; c.ID == id {
				return c, number
			}
		}
	}
	return nil, 0
}

// ModelPlace is a place of the model: a layer, a category of it, or a product of that.
type ModelPlace struct {
	Layer    LayerModel
	Category *Category // nil for a layer
	Product  *Product  // nil for a layer and a category
}

// FindPlaces returns every place that a text names: layers by number and name, categories by id and
// title, products by id, name and alias, in this order. A product has a place in each of its
// categories. Only letters and digits count, in upper or lower case: argocd is Argo CD.
//
// Errors: [*UnknownError].
func (m *Model) FindPlaces(text string) ([]ModelPlace, error) {
	want := foldName(text)
	var inLayers, inCategories, inProducts []ModelPlace
	var names []string
	matches := func(called ...string) bool {
		names = append(names, called...)
		return slices.ContainsFunc(called, func(s string) bool { return foldName(s) == want })
	}
	for _, l := range m.Layers {
		// Folders of bundles are called 3-cluster-services.
		if matches(l.Name) || want == strconv.Itoa(l.Number) || want == foldName(fmt.Sprint(l.Number, l.Name)) {
			inLayers = append(inLayers, ModelPlace{Layer: l})
		}
		for i := range l.Categories {
			c := l.Categories[i]
			if matches(c.ID, c.Title) {
				inCategories = append(inCategories, ModelPlace{Layer: l, Category: &c})
			}
			for j := range c.Products {
				p := c.Products[j]
				if matches(p.ID, p.Name) || matches(p.Aliases...) {
					inProducts = append(inProducts, ModelPlace{Layer: l, Category: &c, Product: &p})
				}
			}
		}
	}
	all := slices.Concat(inLayers, inCategories, inProducts)
	if len(all) == 0 || want == "" {
		return nil, &UnknownError{Text: text, Nearest: manifest.NearestName(text, names)}
	}
	return all, nil
}

// foldName reduces a name to what counts when it is looked for.
func foldName(name string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, name)
}

// UnknownError says that the model has nothing of a name.
type UnknownError struct {
	Text string
	// Nearest is the name that may have been meant, or empty.
	Nearest string
}

func (e *UnknownError) Error() string {
	problem := fmt.Sprintf("no layer, category or product named %q", e.Text)
	if e.Nearest != "" {
		problem += fmt.Sprintf(" (did you mean %q?)", e.Nearest)
	}
	return problem
}
