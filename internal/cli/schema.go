package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/layers"
	"krtpkg.dev/krtpkg/pkg/render"
)

// definitionKinds are the words that schema takes for a kind of definition.
var definitionKinds = []string{"bundle", "runtime", "model"}

func definitionSchema(kind string) ([]byte, error) {
	if kind == "model" {
		return layers.ExtensionSchema(), nil
	}
	return bundle.DefinitionSchema(kind)
}

func (a *app) schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema bundle|runtime|model|REFERENCE",
		Short: "print the schema of definitions, or of the values that an artifact takes",
		Long: `Schema prints the JSON schema of definitions, or of a site's extension of the layers, for editors.
For a reference it prints the OpenAPI v3 schema of the site's values: of a bundle, or of a runtime
by bundle, as in the file for apply --values.`,
		Example:   "  krtpkg schema bundle > bundle.schema.json\n  krtpkg schema registry.example/krt/edge:1.0.0",
		GroupID:   groupLook,
		ValidArgs: definitionKinds,
		Args:      cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains(definitionKinds, args[0]) {
				return a.valuesSchema(cmd.Context(), args[0])
			}
			schema, err := definitionSchema(args[0])
			if err != nil {
				return err
			}
			return a.ui.Data(schema)
		},
	}
}

// valuesSchema prints what a bundle or a runtime takes as values.
func (a *app) valuesSchema(ctx context.Context, reference string) error {
	at, err := a.openReference(ctx, reference)
	if err != nil {
		return err
	}
	set, err := a.openSet(ctx, at)
	if err != nil {
		return err
	}
	properties := map[string]*yaml.Node{}
	for _, b := range set.Bundles {
		schema, err := render.ValuesSchemas(ctx, &b.Content)
		if err != nil {
			return fmt.Errorf("bundle %s: %w", b.Metadata().Name, err)
		}
		if schema != nil {
			properties[b.Metadata().Name] = schema
		}
	}
	var whole any = map[string]any{"type": "object", "additionalProperties": false, "properties": properties}
	if set.Root.Bundle != nil {
		own, takes := properties[set.Root.Metadata().Name]
		if !takes {
			return fmt.Errorf("%s takes no values", reference)
		}
		whole = own
	}
	var text bytes.Buffer
	encoder := yaml.NewEncoder(&text)
	encoder.SetIndent(2)
	if err := errors.Join(encoder.Encode(whole), encoder.Close()); err != nil {
		return err
	}
	return a.ui.Data(text.Bytes())
}
