package layers_test

import (
	"fmt"
	"log"

	"krtpkg.dev/krtpkg/pkg/layers"
)

// The order depends on layers and requirements, not on how the input was written down.
func ExampleOrderBundles() {
	components := []layers.Component{
		{Name: "web", Layer: 6, Requires: []string{"database"}},
		{Name: "postgres", Layer: 5, Provides: []string{"database"}},
		{Name: "network", Layer: 3},
	}
	order, err := layers.OrderBundles(components)
	if err != nil {
		log.Fatal(err)
	}
	for _, i := range order {
		fmt.Println(components[i].Layer, components[i].Name)
	}
	// Output:
	// 3 network
	// 5 postgres
	// 6 web
}

func ExampleOrderBundles_missing() {
	_, err := layers.OrderBundles([]layers.Component{{Name: "web", Layer: 6, Requires: []string{"database"}}})
	fmt.Println(err)
	_, err = layers.OrderBundles([]layers.Component{{Name: "web", Layer: 6, Requires: []string{"database"}}}, "database")
	fmt.Println(err)
	// Output:
	// bundle "web" requires "database", which no bundle provides
	// <nil>
}

func ExampleModel_FindPlaces() {
	model, err := layers.LoadModel()
	if err != nil {
		log.Fatal(err)
	}
	places, err := model.FindPlaces("argocd")
	if err != nil {
		log.Fatal(err)
	}
	for _, p := range places {
		fmt.Println(p.Layer.Number, p.Category.ID, p.Product.Name)
	}
	// Output:
	// 0 continuous-integration-and-delivery Argo CD
	// 4 build-service Argo CD
	// 4 gitops-and-registryops Argo CD
}
