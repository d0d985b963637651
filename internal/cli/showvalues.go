package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/render"
)

func (a *app) showCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "show",
		Short:   "show the values that a bundle or a runtime takes",
		Example: "  krtpkg show values registry.example/krt/edge:1.0.0 > site.yaml",
		GroupID: groupLook,
		Args:    knownCommand,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "values REFERENCE",
		Short: "print the values that apply takes, with their defaults, as YAML to start from",
		Long: `Values prints what a site can set, by bundle, as a file for apply --values: each value with its
type, its description and its default, in comments. Remove the # of what you change.

krtpkg schema prints the same for programs, krtpkg values what a cluster was given.`,
		Example: `  krtpkg show values registry.example/krt/edge:1.0.0 > site.yaml
  krtpkg apply --key cosign.pub registry.example/krt/edge:1.0.0 --values site.yaml`,
		Args: oneReference,
		RunE: func(cmd *cobra.Command, args []string) error { return a.showValues(cmd.Context(), args[0]) },
	})
	return cmd
}

func (a *app) showValues(ctx context.Context, reference string) error {
	at, err := a.openReference(ctx, reference)
	if err != nil {
		return err
	}
	set, err := a.openSet(ctx, at)
	if err != nil {
		return err
	}
	schemas, err := valuesSchemas(ctx, set)
	if err != nil {
		return err
	}
	if len(schemas) == 0 {
		if set.Root.Bundle == nil {
			return fmt.Errorf("%s takes no values: none of its bundles is a template that the site renders", reference)
		}
		return fmt.Errorf("%s takes no values: %s", reference, render.ExplainNoValues(set.Root.Bundle))
	}
	var text bytes.Buffer
	for _, name := range set.BundleNames() { // in the order of apply
		schema := schemas[name]
		if schema == nil {
			continue
		}
		if text.Len() > 0 {
			text.WriteString("\n")
		}
		ui.Fprintf(&text, "%s:\n", name)
		if err := writeSchemaValues(&text, schema, 1, 0); err != nil {
			return fmt.Errorf("bundle %s: %w", name, err)
		}
	}
	return a.ui.Data(text.Bytes())
}

// maxSchemaLevels is how deep values are shown, since a schema can contain itself.
const maxSchemaLevels = 20

// writeSchemaValues writes the values of an object's schema as comments.
func writeSchemaValues(w *bytes.Buffer, schema *yaml.Node, indent, level int) error {
	if schema.Kind == yaml.AliasNode {
		schema = schema.Alias
	}
	if level > maxSchemaLevels {
		return errors.New("schema has too many levels")
	}
	for _, part := range sequenceOf(manifest.GetValue(schema, "allOf")) {
		if err := writeSchemaValues(w, part, indent, level+1); err != nil {
			return err
		}
	}
	properties := manifest.GetValue(schema, "properties")
	if properties == nil || properties.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(properties.Content); i += 2 {
		if err := writeSchemaValue(w, properties.Content[i].Value, properties.Content[i+1], indent, level); err != nil {
			return err
		}
	}
	return nil
}

// writeSchemaValue writes one value with what its schema says of it.
func writeSchemaValue(w *bytes.Buffer, name string, schema *yaml.Node, indent, level int) error {
	margin := strings.Repeat("  ", indent)
	if text := scalarOf(schema, "description"); text != "" {
		for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
			ui.Fprintf(w, "%s# %s\n", margin, line)
		}
	}
	if notes := schemaNotes(schema); notes != "" {
		ui.Fprintf(w, "%s# (%s)\n", margin, notes)
	}
	key, err := encodeInline(&yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: name})
	if err != nil {
		return err
	}
	properties := manifest.GetValue(schema, "properties")
	if properties != nil && len(properties.Content) > 0 {
		ui.Fprintf(w, "%s# %s:\n", margin, key)
		return writeSchemaValues(w, schema, indent+1, level+1)
	}
	text := "null"
	if value := manifest.GetValue(schema, "default"); value != nil {
		if text, err = encodeInline(value); err != nil {
			return fmt.Errorf("default of %s: %w", key, err)
		}
	}
	ui.Fprintf(w, "%s# %s: %s\n", margin, key, text)
	return nil
}

// schemaNotes returns the type of a value, and what it may be.
func schemaNotes(schema *yaml.Node) string {
	var notes []string
	if kind := scalarOf(schema, "type"); kind != "" && kind != "object" {
		notes = append(notes, kind)
	}
	var choices []string
	for _, one := range sequenceOf(manifest.GetValue(schema, "enum")) {
		choices = append(choices, one.Value)
	}
	if len(choices) > 0 {
		notes = append(notes, "one of "+strings.Join(choices, ", "))
	}
	for _, limit := range []string{"minimum", "maximum", "minLength", "maxLength", "pattern"} {
		if value := scalarOf(schema, limit); value != "" {
			notes = append(notes, limit+" "+value)
		}
	}
	if scalarOf(schema, "nullable") == "true" {
		notes = append(notes, "or null")
	}
	return strings.Join(notes, ", ")
}

func scalarOf(node *yaml.Node, key string) string {
	if value := manifest.GetValue(node, key); value != nil && value.Kind == yaml.ScalarNode {
		return value.Value
	}
	return ""
}

func sequenceOf(node *yaml.Node) []*yaml.Node {
	if node == nil || node.Kind != yaml.SequenceNode {
		return nil
	}
	return node.Content
}

// encodeInline returns a node as YAML on one line.
func encodeInline(node *yaml.Node) (string, error) {
	inline, ok := manifest.ExpandAliases(node)
	if !ok {
		return "", fmt.Errorf("more than %d parts with its aliases expanded", manifest.MaxValues)
	}
	setInlineStyle(inline)
	data, err := yaml.Marshal(inline)
	return strings.TrimSuffix(string(data), "\n"), err
}

// setInlineStyle takes away what needs lines of its own. Where text is escaped when it is printed, it is quoted.
func setInlineStyle(node *yaml.Node) {
	node.HeadComment, node.LineComment, node.FootComment = "", "", ""
	switch {
	case node.Kind != yaml.ScalarNode:
		node.Style |= yaml.FlowStyle
	case ui.EscapeLine(node.Value) != node.Value:
		node.Style = yaml.DoubleQuotedStyle
	default:
		node.Style &^= yaml.LiteralStyle | yaml.FoldedStyle
	}
	for _, child := range node.Content {
		setInlineStyle(child)
	}
}
