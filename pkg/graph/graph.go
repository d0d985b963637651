// Package graph draws a runtime as its layers with the bundles in them and what each stands on.
//
// Make a [Graph] and call [Graph.SVG] for a picture, [Graph.Text] for a terminal, and
// [Graph.Mermaid] or [Graph.DOT] for other programs that draw. The same graph gives the same
// bytes. Names and versions may hold anything: what cannot be shown is replaced.
package graph

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/dustin/go-humanize"

	"krtpkg.dev/krtpkg/pkg/layers"
)

// Graph is a runtime, or a bundle on its own.
type Graph struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Signed  Signed `json:"signed,omitempty"`
	// Images and Bytes are those of all nodes, each image once; nil where that is not known.
	Images *int   `json:"imageCount,omitempty"`
	Bytes  *int64 `json:"bytes,omitempty"`
	Nodes  []Node `json:"bundles"`
}

// Node is a bundle.
type Node struct {
	Name     string `json:"name"`
	Version  string `json:"version"`
	Layer    int    `json:"layer"`
	Category string `json:"category,omitempty"`
	// Requires are the names of the nodes that it stands on. Other names are passed over.
	Requires []string `json:"requires,omitempty"`
	Signed   Signed   `json:"signed,omitempty"`
	// Images is how many there are, and Bytes what the bundle takes with them; nil where that
	// is not known.
	Images *int   `json:"imageCount,omitempty"`
	Bytes  *int64 `json:"bytes,omitempty"`
	Health Health `json:"health,omitempty"`
}

// Signed reports whether there is a signature, not whether it is one to trust; "" is unknown.
type Signed string

// The states of signing.
const (
	WithSignature    Signed = "signed"
	WithoutSignature Signed = "not signed"
)

// Health is how a bundle does on a cluster; "" is unknown.
type Health string

// The states of health.
const (
	Healthy     Health = "healthy"
	Progressing Health = "progressing"
	Failing     Health = "failing"
	Drifted     Health = "drifted"
	Absent      Health = "absent"
)

// layerBand is a layer with its nodes, as indexes, in the order of their names.
type layerBand struct {
	layer int
	nodes []int
}

// layerBands returns the layers that have nodes, from the bottom up.
func (g *Graph) layerBands() []layerBand {
	order := make([]int, len(g.Nodes))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(g.Nodes[a].Layer, g.Nodes[b].Layer), cmp.Compare(g.Nodes[a].Name, g.Nodes[b].Name))
	})
	var all []layerBand
	for _, i := range order {
		if len(all) == 0 || all[len(all)-1].layer != g.Nodes[i].Layer {
			all = append(all, layerBand{layer: g.Nodes[i].Layer})
		}
		last := &all[len(all)-1]
		last.nodes = append(last.nodes, i)
	}
	return all
}

// requiredIndexes returns the indexes of the nodes that each node stands on, each once and never itself.
func (g *Graph) requiredIndexes() [][]int {
	at := map[string]int{}
	for i, n := range g.Nodes {
		if _, taken := at[n.Name]; !taken {
			at[n.Name] = i
		}
	}
	all := make([][]int, len(g.Nodes))
	for i, n := range g.Nodes {
		for _, name := range n.Requires {
			if on, found := at[name]; found && on != i && !slices.Contains(all[i], on) {
				all[i] = append(all[i], on)
			}
		}
	}
	return all
}

// titleText returns what the graph is of.
func (g *Graph) titleText() string { return CleanText(strings.TrimSpace(g.Name + " " + g.Version)) }

// summaryText returns the graph in a line.
func (g *Graph) summaryText() string {
	parts := []string{CountNoun(len(g.Nodes), "bundle")}
	if what := describeSize(g.Images, g.Bytes); what != "" {
		parts = append(parts, what)
	}
	if g.Signed != "" {
		parts = append(parts, CleanText(string(g.Signed)))
	}
	return strings.Join(parts, ", ")
}

// layerName returns the number of a layer and its name.
func layerName(number int) string {
	return strings.TrimSpace(fmt.Sprintf("%d %s", number, layers.LayerName(number)))
}

// describeSize returns a number of images and their size, or as much of it as is known.
func describeSize(images *int, bytes *int64) string {
	switch {
	case images == nil:
		return ""
	case *images == 0:
		return "no images"
	case bytes == nil:
		return CountNoun(*images, "image")
	}
	return CountNoun(*images, "image") + ", " + humanize.IBytes(uint64(max(*bytes, 0)))
}

// CountNoun returns a number of things, for people.
func CountNoun(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	if stem, is := strings.CutSuffix(what, "y"); is {
		return fmt.Sprintf("%d %sies", n, stem)
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// CleanText returns a text with what is not text replaced: control characters, which terminals obey and XML cannot hold,
// and those that turn the direction of what follows them.
func CleanText(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\ufffe' || r == '\uffff' ||
			r == '\u2028' || r == '\u2029' {
			return unicode.ReplacementChar
		}
		return r
	}, strings.ToValidUTF8(s, string(unicode.ReplacementChar)))
}
