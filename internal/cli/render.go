package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/assemble"
)

func (a *app) renderCommand() *cobra.Command {
	var values valuesFlags
	var t trustFlags
	var definition string
	cmd := &cobra.Command{
		Use:   "render REFERENCE | -f DEFINITION",
		Short: "print the manifests that apply would send",
		Long: `Render prints the manifests of every bundle in the order of apply, with the site's values and
relocated images. With --key, --certificate-identity or --policy it verifies the signature first.

With -f it prints the manifests of a bundle's definition without building it, with default values
and images as written; build may still refuse some of them.`,
		Example: `  krtpkg render registry.example/krt/edge:1.0.0 --values site.yaml
  krtpkg render oci:dist:1.0.0 --data-value hello.greeting=hi
  krtpkg render -f bundle.yaml`,
		GroupID: groupLook,
		Args:    oneReferenceAtMost,
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) > 0) == (definition != "") {
				if len(args) > 0 {
					return &usageError{fmt.Errorf("-f names a definition, and %s is a reference: pass values with --values %s", args[0], definition)}
				}
				return &usageError{errors.New("want a reference, or a definition with -f")}
			}
			if definition != "" {
				return a.renderDefinition(cmd.Context(), definition)
			}
			return a.runRender(cmd.Context(), args[0], values, &t)
		},
	}
	cmd.Flags().StringVarP(&definition, "file", "f", "", "the definition of a bundle, or its folder")
	values.addValuesFlags(cmd)
	t.addTrustFlags(cmd)
	for _, flag := range []string{"values", "data-value", "data-value-file", "key", "policy"} {
		if cmd.Flags().Lookup(flag) != nil {
			cmd.MarkFlagsMutuallyExclusive("file", flag)
		}
	}
	t.addUnsigned(cmd, "render even if a policy file would refuse it")
	return cmd
}

// renderDefinition prints the manifests of a definition that nothing was built of.
func (a *app) renderDefinition(ctx context.Context, at string) error {
	o, err := a.buildOptions()
	if err != nil {
		return err
	}
	files, err := assemble.RenderManifests(ctx, at, o)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	for _, f := range files {
		writeManifest(&text, f.Path, f.Data)
	}
	return a.ui.Data(text.Bytes())
}

func writeManifest(w *bytes.Buffer, name string, data []byte) {
	// A byte order mark belongs to the beginning of a file, which this is not a longer.
	data = bytes.TrimPrefix(data, []byte("\uFEFF"))
	ui.Fprintf(w, "---\n# %s\n", name)
	w.Write(data)
	if n := len(data); n > 0 && data[n-1] != '\n' {
		w.WriteByte('\n')
	}
}

func (a *app) runRender(ctx context.Context, reference string, values valuesFlags, t *trustFlags) error {
	at, err := a.openReference(ctx, reference)
	if err != nil {
		return err
	}
	if err := a.verifiedIf(ctx, at, t); err != nil {
		return err
	}
	set, err := a.openSet(ctx, at)
	if err != nil {
		return err
	}
	given, err := values.readValues(a, set)
	if err != nil {
		return err
	}
	images, err := a.locateImages(ctx, at, set)
	if err != nil {
		return err
	}
	rendered, err := a.renderSet(ctx, set, given, images)
	if err != nil {
		return err
	}
	for _, b := range rendered.Bundles {
		for _, h := range b.Hooks {
			a.ui.Note("note: %s: hook %s is not applied", b.Metadata().Name, h)
		}
	}
	var text bytes.Buffer
	for _, b := range rendered.Bundles {
		for _, f := range b.Manifests.Files {
			writeManifest(&text, b.Metadata().Name+"/"+f.Path, f.Data)
		}
	}
	return a.ui.Data(text.Bytes())
}
