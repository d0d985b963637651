package result

import (
	"krtpkg.dev/krtpkg/bundles"
	"krtpkg.dev/krtpkg/pkg/layers"
)

// Layers is the result of krtpkg layers: the whole model, or what was looked for.
type Layers struct {
	Outcome
	// Layers is the model, without an argument.
	Layers []layers.LayerModel `json:"layers,omitempty"`
	// Found are the places of the model that have the name.
	Found []FoundPlace `json:"found,omitempty"`
}

// FoundPlace is a layer with its categories, a category with its products, or a product.
type FoundPlace struct {
	Layer      int               `json:"layer"`
	LayerName  string            `json:"layerName"`
	Categories []layers.Category `json:"categories,omitempty"`
	Category   string            `json:"category,omitempty"`
	Product    *layers.Product   `json:"product,omitempty"`
	// Ready are the bundles for what was found.
	Ready []bundles.Ready `json:"ready"`
}

// LayersCheck is the result of krtpkg layers check.
type LayersCheck struct {
	Outcome
	Name    string `json:"name"`
	Version string `json:"version"`
	// Categories are those of the model, and what fills them.
	Categories []layers.Coverage `json:"categories"`
	// Problems are the rules that are broken.
	Problems []string `json:"problems"`
}
