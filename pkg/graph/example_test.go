package graph_test

import (
	"fmt"

	"krtpkg.dev/krtpkg/pkg/graph"
)

func ExampleGraph_Text() {
	g := graph.Graph{Name: "edge", Version: "1.0.0", Nodes: []graph.Node{
		{Name: "cilium", Version: "1.16.0", Layer: 3},
		{Name: "web", Version: "2.0.0", Layer: 6, Requires: []string{"cilium"}},
	}}
	fmt.Print(g.Text())
	// Output:
	// edge 1.0.0
	// 2 bundles
	//
	// 6 applications
	//     web     2.0.0   → cilium
	//
	// 3 cluster services
	//     cilium  1.16.0
}
