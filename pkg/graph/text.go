package graph

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Text returns the graph for a terminal: the layers from the top down, and below each its bundles
// with what they require.
func (g *Graph) Text() string {
	var out strings.Builder
	fmt.Fprintf(&out, "%s\n%s\n", g.titleText(), g.summaryText())
	bands, required := g.layerBands(), g.requiredIndexes()
	rows := map[int][]string{} // the cells of each node
	var widths []int
	for i, n := range g.Nodes {
		cells := []string{CleanText(n.Name), CleanText(n.Version), describeSize(n.Images, n.Bytes), CleanText(string(n.Signed)), CleanText(string(n.Health))}
		for len(widths) < len(cells) {
			widths = append(widths, 0)
		}
		for c, cell := range cells {
			widths[c] = max(widths[c], utf8.RuneCountInString(cell))
		}
		rows[i] = cells
	}
	for _, b := range slices.Backward(bands) {
		fmt.Fprintf(&out, "\n%s\n", layerName(b.layer))
		for _, i := range b.nodes {
			line := "   "
			for c, cell := range rows[i] {
				if widths[c] > 0 {
					line += " " + cell + strings.Repeat(" ", widths[c]-utf8.RuneCountInString(cell)+1)
				}
			}
			if len(required[i]) > 0 {
				line += " → " + strings.Join(g.sortedNames(required[i]), ", ")
			}
			out.WriteString(strings.TrimRight(line, " ") + "\n")
		}
	}
	return out.String()
}

// sortedNames returns what nodes are called, sorted.
func (g *Graph) sortedNames(nodes []int) []string {
	names := make([]string, len(nodes))
	for i, n := range nodes {
		names[i] = CleanText(g.Nodes[n].Name)
	}
	slices.Sort(names)
	return names
}

// labelLines returns the lines of a node below its name.
func (n *Node) labelLines() []string {
	var lines []string
	for _, line := range []string{n.Version, describeSize(n.Images, n.Bytes), string(n.Signed), string(n.Health)} {
		if line != "" {
			lines = append(lines, CleanText(line))
		}
	}
	return lines
}
