package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/graph"
	"krtpkg.dev/krtpkg/pkg/layers"
	"krtpkg.dev/krtpkg/pkg/sign"
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
		Long: `Graph draws the bundles of a runtime in their layers, with versions, the number of images,
whether there is a signature, and lines to what each requires. It verifies no signature: that
is what verify does.

A definition is drawn without fetching its sources, so nothing is known of its images.

With --cluster it shows how each bundle is on a cluster.`,
		Example: `  krtpkg graph registry.example/krt/edge:1.0.0
  krtpkg graph --format svg registry.example/krt/edge:1.0.0 > edge.svg
  krtpkg graph --format mermaid runtime.yaml
  krtpkg graph --cluster registry.example/krt/edge:1.0.0`,
		GroupID: groupLook,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if format != "" && cmd.Flags().Changed("format") {
				return &usageError{errors.New("--format and --output contradict each other")}
			}
			var g *graph.Graph
			draw := map[string]func() string{
				"text": func() string { return g.Text() }, "svg": func() string { return g.SVG() },
				"mermaid": func() string { return g.Mermaid() }, "dot": func() string { return g.DOT() },
			}[kind]
			if draw == nil {
				return &usageError{fmt.Errorf("--format %s: want %s", kind, strings.Join(graphKinds, ", "))}
			}
			var err error
			if g, err = a.graph(cmd.Context(), args[0]); err != nil {
				return err
			}
			if coloured {
				if err := onCluster(cmd.Context(), g, f.Config); err != nil {
					return err
				}
			}
			if format != "" {
				return a.ui.Result(format, g, nil)
			}
			a.ui.End(nil)
			_, err = io.WriteString(a.ui.Out, draw())
			return err
		},
	}
	cmd.Flags().StringVar(&kind, "format", kind, strings.Join(graphKinds, ", "))
	_ = cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions(graphKinds, cobra.ShellCompDirectiveNoFileComp))
	outputFlag(cmd, &format)
	cmd.Flags().BoolVar(&coloured, "cluster", false, "show how each bundle is on a cluster, too")
	f.addConnection(cmd)
	return cmd
}

// onCluster gives each node its health on a cluster.
func onCluster(ctx context.Context, g *graph.Graph, at deploy.Config) error {
	cluster, err := deploy.Connect(at)
	if err != nil {
		return err
	}
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
		default:
			health[b.Bundle] = graph.Health(b.Health)
		}
	}
	for i := range g.Nodes {
		g.Nodes[i].Health = cmp.Or(health[g.Nodes[i].Name], graph.Absent)
	}
	return nil
}

func (a *app) graph(ctx context.Context, at string) (*graph.Graph, error) {
	if isDefinition(at) {
		return a.definitionGraph(ctx, at)
	}
	o, err := a.open(ctx, at)
	if err != nil {
		return nil, err
	}
	set, err := bundle.OpenSet(ctx, o.store, o.root)
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
	var components []layers.Component
	all := map[digest.Digest]bool{}
	for _, b := range set.Bundles {
		components = append(components, b.Bundle.Component())
		node := newNode(b.Bundle)
		own := map[digest.Digest]bool{}
		for _, image := range b.Images.Digests() {
			own[digest.Digest(image.DigestStr())], all[digest.Digest(image.DigestStr())] = true, true
		}
		count := len(own)
		node.Images, node.Signed = &count, signed
		g.Nodes = append(g.Nodes, node)
	}
	count := len(all)
	g.Images = &count
	var provided []string
	if set.Root.Runtime != nil {
		provided = set.Root.Runtime.Provided
	}
	return g, connect(g, components, provided, set.Root.Bundle != nil)
}

func (a *app) definitionGraph(ctx context.Context, at string) (*graph.Graph, error) {
	outline, err := a.outline(ctx, at)
	if err != nil {
		return nil, err
	}
	g := &graph.Graph{Name: outline.Metadata.Name, Version: outline.Metadata.Version}
	for _, b := range outline.Bundles {
		g.Nodes = append(g.Nodes, newNode(b))
	}
	return g, connect(g, outline.Components(), outline.Provided, outline.Single)
}

func newNode(b *bundle.Bundle) graph.Node {
	return graph.Node{Name: b.Metadata.Name, Version: b.Metadata.Version, Layer: b.Spec.Layer, Category: b.Spec.Category}
}

// connect gives each node the names of those that provide what it requires. What a bundle on
// its own requires is elsewhere.
func connect(g *graph.Graph, components []layers.Component, provided []string, single bool) error {
	if single {
		return nil
	}
	needs, err := layers.Needs(components, provided...)
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
