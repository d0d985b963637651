package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/graph"
	"krtpkg.dev/krtpkg/pkg/layers"
	"krtpkg.dev/krtpkg/pkg/result"
	"krtpkg.dev/krtpkg/pkg/sign"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

// graphKinds are the forms of a graph for people and for programs that draw.
var graphKinds = []string{"text", "svg", "mermaid", "dot"}

func (a *app) graphCommand() *cobra.Command {
	kind := graphKinds[0]
	var format ui.Format
	var f clusterFlags
	var coloured bool
	cmd := &cobra.Command{
		Use:   "graph REFERENCE|DEFINITION",
		Short: "draw a runtime: its layers, the bundles in them, and what each requires",
		Long: `Graph draws the bundles of a runtime in their layers, with versions, the number of images, their
size if all are in the same place, whether there is a signature, and lines to what each requires.
It does not verify signatures; use verify for that.

A definition is drawn without fetching its sources, so without its images.

With --cluster it shows the health of each bundle on a cluster.`,
		Example: `  krtpkg graph registry.example/krt/edge:1.0.0
  krtpkg graph --format svg registry.example/krt/edge:1.0.0 > edge.svg
  krtpkg graph --format mermaid runtime.yaml
  krtpkg graph --cluster registry.example/krt/edge:1.0.0`,
		GroupID: groupLook,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var g *graph.Graph
			draw := map[string]func() string{
				"text": func() string { return g.Text() }, "svg": func() string { return g.SVG() },
				"mermaid": func() string { return g.Mermaid() }, "dot": func() string { return g.DOT() },
			}[kind]
			if draw == nil {
				return &usageError{fmt.Errorf("--format %s: want %s", kind, strings.Join(graphKinds, ", "))}
			}
			var err error
			if g, err = a.drawGraph(cmd.Context(), args[0]); err != nil {
				return err
			}
			if coloured {
				cluster, err := f.connectCluster(a)
				if err != nil {
					return err
				}
				if err := onCluster(cmd.Context(), g, cluster); err != nil {
					return err
				}
			}
			if format != "" {
				return a.printResult(cmd.Context(), format, &result.Graph{Graph: g}, nil, nil)
			}
			if kind == "text" {
				return a.ui.Result("", nil, func(w io.Writer) { io.WriteString(w, draw()) })
			}
			return a.ui.Data([]byte(draw()))
		},
	}
	cmd.Flags().StringVar(&kind, "format", kind, strings.Join(graphKinds, ", "))
	_ = cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions(graphKinds, cobra.ShellCompDirectiveNoFileComp))
	outputFlag(cmd, &format)
	cmd.MarkFlagsMutuallyExclusive("format", "output")
	cmd.Flags().BoolVar(&coloured, "cluster", false, "also show the health of each bundle on a cluster")
	f.addConnection(cmd)
	return cmd
}

// onCluster gives each node its health on a cluster.
func onCluster(ctx context.Context, g *graph.Graph, cluster *deploy.Cluster) error {
	all, err := cluster.Status(ctx, g.Name, deploy.Options{})
	if err != nil {
		return err
	}
	health := map[string]graph.Health{}
	for _, b := range all[0].Bundles {
		switch {
		case b.Health == deploy.Healthy && len(b.Drift) > 0:
			health[b.Bundle] = graph.Drifted
		case b.Health == deploy.Missing:
			health[b.Bundle] = graph.Drifted
		case b.Health == deploy.NotBegun:
			health[b.Bundle] = graph.Absent
		case b.Health == deploy.Unknown:
			health[b.Bundle] = "" // as for a cluster that nobody asked
		default:
			health[b.Bundle] = graph.Health(b.Health)
		}
	}
	for i := range g.Nodes {
		h, known := health[g.Nodes[i].Name]
		if !known {
			h = graph.Absent
		}
		g.Nodes[i].Health = h
	}
	return nil
}

func (a *app) drawGraph(ctx context.Context, at string) (*graph.Graph, error) {
	if isDefinition(at) {
		return a.definitionGraph(ctx, at)
	}
	o, err := a.openReference(ctx, at)
	if err != nil {
		return nil, err
	}
	set, err := a.lookInto(ctx, o)
	if err != nil {
		return nil, err
	}
	found, err := sign.Find(ctx, o.store, o.root)
	if err != nil {
		return nil, err
	}
	// One signature covers the root, which names all else by digest.
	signed := graph.WithoutSignature
	if len(found) > 0 {
		signed = graph.WithSignature
	}
	m := set.Root.Metadata()
	g := &graph.Graph{Name: m.Name, Version: m.Version, Signed: signed}
	weigh, err := sizeFunc(ctx, o)
	if err != nil {
		return nil, err
	}
	var components []layers.Component
	var all, everything []digest.Digest
	for _, b := range set.Bundles {
		components = append(components, b.Bundle.Component())
		node := newNode(b.Bundle)
		own := digestsOf(b.Images.Merge(b.Cargo).DistinctImages())
		node.Images, node.Signed, node.Bytes = countDistinct(digestsOf(b.Images.DistinctImages())), signed, weigh(append(own, b.Descriptor.Digest))
		everything = append(append(everything, own...), b.Descriptor.Digest)
		all = append(all, digestsOf(b.Images.DistinctImages())...)
		g.Nodes = append(g.Nodes, node)
	}
	g.Images, g.Bytes = countDistinct(all), weigh(append(everything, o.root.Digest))
	var provided []string
	if set.Root.Runtime != nil {
		provided = set.Root.Runtime.Provided
	}
	return g, connectNodes(g, components, provided, set.Root.Bundle != nil)
}

// sizeFunc returns the bytes of images and bundles, or nil where not all of them are in one place.
func sizeFunc(ctx context.Context, o *openedReference) (func([]digest.Digest) *int64, error) {
	source := transfer.Source{Store: o.store, Root: o.root}
	plan, err := transfer.NewPlan(ctx, []transfer.Source{source}, transfer.Options{Concurrency: 8, NoImageSignatures: true})
	var incomplete *transfer.IncompleteError
	if errors.As(err, &incomplete) {
		return func([]digest.Digest) *int64 { return nil }, nil
	}
	return func(items []digest.Digest) *int64 {
		size := plan.SizeOf(items...)
		return &size
	}, err
}

func digestsOf(images []name.Digest) (all []digest.Digest) {
	for _, image := range images {
		all = append(all, digest.Digest(image.DigestStr()))
	}
	return all
}

// countDistinct returns how many digests there are, each once.
func countDistinct(list []digest.Digest) *int {
	different := map[digest.Digest]bool{}
	for _, d := range list {
		different[d] = true
	}
	n := len(different)
	return &n
}

func (a *app) definitionGraph(ctx context.Context, at string) (*graph.Graph, error) {
	outline, err := a.readOutline(ctx, at)
	if err != nil {
		return nil, err
	}
	g := &graph.Graph{Name: outline.Metadata.Name, Version: outline.Metadata.Version}
	for _, b := range outline.Bundles {
		g.Nodes = append(g.Nodes, newNode(b))
	}
	return g, connectNodes(g, outline.Components(), outline.Provided, outline.Single)
}

func newNode(b *bundle.Bundle) graph.Node {
	return graph.Node{Name: b.Metadata.Name, Version: b.Metadata.Version, Layer: b.Spec.Layer, Category: b.Spec.Category}
}

// connectNodes gives each node the names of those that provide what it requires. What a bundle on
// its own requires is elsewhere.
func connectNodes(g *graph.Graph, components []layers.Component, provided []string, single bool) error {
	if single {
		return nil
	}
	needs, err := layers.RequiredIndexes(components, provided...)
	if err != nil {
		return err
	}
	for i, list := range needs {
		for _, on := range list {
			g.Nodes[i].Requires = append(g.Nodes[i].Requires, components[on].Name)
		}
	}
	return nil
}
