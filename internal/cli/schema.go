package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/layers"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/render"
	"krtpkg.dev/krtpkg/pkg/result"
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
		Use:   "schema bundle|runtime|model|REFERENCE|events|catalog|result VERB",
		Short: "print the schema of definitions, of an artifact's values, or of what -o json prints",
		Long: `Schema prints the JSON schema of definitions, or of a site's extension of the layers, for editors.
For a reference it prints the OpenAPI v3 schema of the site's values: of a bundle, or of a runtime
by bundle, as in the file for apply --values.

Schema result prints the JSON schema of what a command prints with -o json, schema events that of
a line of --progress json, schema catalog that of the catalog.json of krtpkg catalog. Fields are only
ever added.`,
		Example: `  krtpkg schema bundle > bundle.schema.json
  krtpkg schema registry.example/krt/edge:1.0.0
  krtpkg schema result build
  krtpkg schema result layers check`,
		GroupID:           groupLook,
		ValidArgsFunction: completeSchema,
		Args:              cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			schema, err := printedSchema(args)
			if err == nil && schema == nil {
				return a.valuesSchema(cmd.Context(), args[0])
			}
			if err != nil {
				return err
			}
			return a.ui.Data(schema)
		},
	}
}

// printedSchema returns a schema of the program's own, or nil for a reference.
func printedSchema(args []string) ([]byte, error) {
	if args[0] == "result" {
		schema, err := result.Schema(strings.Join(args[1:], " "))
		if err != nil {
			return nil, &usageError{err}
		}
		return schema, nil
	}
	switch {
	case len(args) > 1:
		return nil, &usageError{fmt.Errorf("%d arguments: want one, or result VERB", len(args))}
	case args[0] == "events":
		return result.EventSchema()
	case args[0] == "catalog":
		return result.CatalogSchema()
	case slices.Contains(definitionKinds, args[0]):
		return definitionSchema(args[0])
	}
	return nil, nil
}

// completeSchema completes the words that are not references.
func completeSchema(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	switch {
	case len(args) == 0:
		return slices.Concat(definitionKinds, []string{"events", "catalog", "result"}), cobra.ShellCompDirectiveNoFileComp
	case args[0] == "result":
		return result.Verbs(), cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
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
	properties, err := valuesSchemas(ctx, set)
	if err != nil {
		return err
	}
	var whole any = map[string]any{"type": "object", "additionalProperties": false, "properties": properties}
	if set.Root.Bundle != nil {
		own, takes := properties[set.Root.Metadata().Name]
		if !takes {
			return fmt.Errorf("%s takes no values: %s", reference, render.ExplainNoValues(set.Root.Bundle))
		}
		whole = own
	}
	text, err := manifest.EncodeYAML(whole)
	if err != nil {
		return err
	}
	return a.ui.Data(text)
}

// valuesSchemas returns the schemas of values by bundle, of those that take any.
func valuesSchemas(ctx context.Context, set *bundle.Set) (map[string]*yaml.Node, error) {
	schemas := map[string]*yaml.Node{}
	for _, b := range set.Bundles {
		schema, err := render.DescribeValues(ctx, &b.Content)
		if err != nil {
			return nil, fmt.Errorf("bundle %s: %w", b.Metadata().Name, err)
		}
		if schema != nil {
			schemas[b.Metadata().Name] = schema
		}
	}
	return schemas, nil
}
