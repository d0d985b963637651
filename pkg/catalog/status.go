package catalog

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"

	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/graph"
	"krtpkg.dev/krtpkg/pkg/result"
)

// ClusterState is what a page shows of a cluster.
type ClusterState struct {
	// Cluster is what the page calls it; may be empty.
	Cluster string
	Status  result.Status
	// Histories are the revisions of runtimes.
	Histories []result.History
	// Graphs are the pictures of runtimes by their names, without health. One that is not known is drawn without lines.
	Graphs map[string]*graph.Graph
	// Receipts are what krtpkg receipts verify printed; nil for none.
	Receipts *result.Receipts
}

// statusPage is what its template gets.
type statusPage struct {
	Title, Cluster string
	Policy         string
	Favicon        template.URL
	Style          template.CSS
	Runtimes       []clusterRuntime
	Receipts       *result.Receipts
}

// clusterRuntime is a runtime on a cluster.
type clusterRuntime struct {
	result.RuntimeStatus
	Picture   template.HTML
	Revisions []deploy.Revision
	Receipts  []result.ReceiptStatus
}

// WriteStatus writes a page of what runs on a cluster: one file, which needs no other. The same state gives the same bytes.
func WriteStatus(w io.Writer, state *ClusterState) error {
	clean, err := copyClean(state)
	if err != nil {
		return err
	}
	style, err := styleSheet()
	if err != nil {
		return err
	}
	sum := sha256.Sum256(style)
	page := &statusPage{
		Title: strings.TrimSpace("Status " + clean.Cluster), Cluster: clean.Cluster, Style: template.CSS(style), Favicon: "data:,", Receipts: clean.Receipts,
		Policy: fmt.Sprintf("default-src 'none'; style-src 'sha256-%s'; img-src data:; base-uri 'none'; form-action 'none'", base64.StdEncoding.EncodeToString(sum[:])),
	}
	for i, s := range clean.Status.Runtimes {
		one := clusterRuntime{RuntimeStatus: s}
		picture := graphHealth(&s, clean.Graphs[s.Name])
		one.Picture = template.HTML(picture.DrawSVG(graph.SVGOptions{NoStyle: true, ID: fmt.Sprintf("picture-%d-", i), Link: func(n *graph.Node) string {
			return fmt.Sprintf("#bundle-%d-%s", i, slugText(n.Name))
		}}))
		for _, h := range clean.Histories {
			if h.Name == s.Name {
				one.Revisions = h.Revisions
			}
		}
		if clean.Receipts != nil {
			for _, receipt := range clean.Receipts.Receipts {
				if receipt.Name == s.Name {
					one.Receipts = append(one.Receipts, receipt)
				}
			}
		}
		page.Runtimes = append(page.Runtimes, one)
	}
	return parseTemplates().ExecuteTemplate(w, "status.html", page)
}

// graphHealth returns the picture of a runtime with the health of its bundles; known is the one without, nil if it is not known.
func graphHealth(s *result.RuntimeStatus, known *graph.Graph) *graph.Graph {
	g := &graph.Graph{Name: s.Name, Version: s.Version}
	if known != nil && slices.ContainsFunc(known.Nodes, func(n graph.Node) bool {
		return slices.ContainsFunc(s.Bundles, func(b result.BundleStatus) bool { return b.Name == n.Name })
	}) {
		copied := *known
		copied.Nodes = slices.Clone(known.Nodes)
		g = &copied
	}
	for _, b := range s.Bundles {
		if !slices.ContainsFunc(g.Nodes, func(n graph.Node) bool { return n.Name == b.Name }) {
			g.Nodes = append(g.Nodes, graph.Node{Name: b.Name, Version: cmp.Or(b.Version, b.Target), Layer: b.Layer})
		}
	}
	SetHealth(g, s)
	return g
}

// SetHealth gives each node of a picture its health on a cluster.
func SetHealth(g *graph.Graph, s *result.RuntimeStatus) {
	health := map[string]graph.Health{}
	for _, b := range s.Bundles {
		switch {
		case b.Health == deploy.Healthy && len(b.Drift) > 0, b.Health == deploy.Missing:
			health[b.Name] = graph.Drifted
		case b.Health == deploy.NotBegun:
			health[b.Name] = graph.Absent
		case b.Health == deploy.Unknown:
			health[b.Name] = "" // as for a cluster that nobody asked
		default:
			health[b.Name] = graph.Health(b.Health)
		}
	}
	for i := range g.Nodes {
		h, known := health[g.Nodes[i].Name]
		if !known {
			h = graph.Absent
		}
		g.Nodes[i].Health = h
	}
}
