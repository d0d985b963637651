package graph

import (
	"fmt"
	"slices"
	"strings"
)

// Mermaid returns the graph as a flowchart of Mermaid, which code hosts draw in Markdown.
func (g *Graph) Mermaid() string {
	var out strings.Builder
	fmt.Fprintf(&out, "%%%% %s: %s\nflowchart TB\n", g.titleText(), g.summaryText())
	for at, b := range slices.Backward(g.layerBands()) {
		fmt.Fprintf(&out, "  subgraph layer%d[\"%s\"]\n", at, mermaidText(layerName(b.layer)))
		for _, i := range b.nodes {
			text := "<b>" + mermaidText(CleanText(g.Nodes[i].Name)) + "</b>"
			for _, line := range g.Nodes[i].labelLines() {
				text += "<br>" + mermaidText(line)
			}
			fmt.Fprintf(&out, "    n%d[\"%s\"]\n", i, text)
		}
		out.WriteString("  end\n")
	}
	g.eachEdge(func(from, to int) { fmt.Fprintf(&out, "  n%d --> n%d\n", from, to) })
	return out.String()
}

// mermaidText writes what has a meaning in labels by the numbers of its characters.
func mermaidText(s string) string {
	var out strings.Builder
	for _, r := range s {
		if strings.ContainsRune("\"#&<>;`\\[](){}|*_~@:/$%", r) {
			fmt.Fprintf(&out, "#%d;", r)
			continue
		}
		out.WriteRune(r)
	}
	return out.String()
}

// DOT returns the graph in the language of Graphviz.
func (g *Graph) DOT() string {
	var out strings.Builder
	fmt.Fprintf(&out, "digraph {\n  label=%s; labelloc=t; rankdir=TB; compound=true;\n  node [shape=box, style=rounded];\n", quoteDOT(g.titleText(), g.summaryText()))
	for at, b := range slices.Backward(g.layerBands()) {
		fmt.Fprintf(&out, "  subgraph cluster_layer%d {\n    label=%s;\n", at, quoteDOT(layerName(b.layer)))
		for _, i := range b.nodes {
			n := &g.Nodes[i]
			fmt.Fprintf(&out, "    n%d [label=%s];\n", i, quoteDOT(append([]string{CleanText(n.Name)}, n.labelLines()...)...))
		}
		out.WriteString("  }\n")
	}
	g.eachEdge(func(from, to int) { fmt.Fprintf(&out, "  n%d -> n%d;\n", from, to) })
	out.WriteString("}\n")
	return out.String()
}

// quoteDOT is lines as one string of DOT.
func quoteDOT(lines ...string) string {
	escaped := make([]string, len(lines))
	for i, line := range lines {
		escaped[i] = strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(line)
	}
	return `"` + strings.Join(escaped, `\n`) + `"`
}

// eachEdge calls f for what each node requires, by layer and name.
func (g *Graph) eachEdge(f func(from, to int)) {
	required := g.requiredIndexes()
	for _, b := range slices.Backward(g.layerBands()) {
		for _, from := range b.nodes {
			for _, to := range required[from] {
				f(from, to)
			}
		}
	}
}
