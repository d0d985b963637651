package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/catalog"
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
	view := describeStatus(cluster.Namespace(), all[0], nil)
	catalog.SetHealth(g, &view)
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
	weigh, err := sizeFunc(ctx, o)
	if err != nil {
		return nil, err
	}
	return catalog.DrawGraph(set, signed, weigh)
}

// sizeFunc returns the bytes of images and bundles, or nil where not all of them are in one place.
func sizeFunc(ctx context.Context, o *openedReference) (func(...string) *int64, error) {
	source := transfer.Source{Store: o.store, Root: o.root}
	plan, err := transfer.NewPlan(ctx, []transfer.Source{source}, transfer.Options{Concurrency: 8, NoImageSignatures: true})
	var incomplete *transfer.IncompleteError
	if errors.As(err, &incomplete) {
		return func(...string) *int64 { return nil }, nil
	}
	return func(items ...string) *int64 {
		digests := make([]digest.Digest, len(items))
		for i, item := range items {
			digests[i] = digest.Digest(item)
		}
		size := plan.SizeOf(digests...)
		return &size
	}, err
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
