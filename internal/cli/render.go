package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

func (a *app) renderCommand() *cobra.Command {
	var values valuesFlags
	var t trustFlags
	cmd := &cobra.Command{
		Use:   "render REFERENCE",
		Short: "print the manifests that apply would send",
		Long: `Render prints the manifests of every bundle in the order of apply, with the site's values
filled in and the images relocated to where they are. With --key, --certificate-identity or
--policy the signature is verified first.`,
		Example: `  krtpkg render registry.example/krt/edge:1.0.0 --values site.yaml
  krtpkg render oci:dist:1.0.0 --data-value hello.greeting=hi`,
		GroupID: groupLook,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.render(cmd.Context(), args[0], values, &t)
		},
	}
	values.add(cmd)
	t.add(cmd)
	return cmd
}

func (a *app) render(ctx context.Context, reference string, values valuesFlags, t *trustFlags) error {
	at, err := a.open(ctx, reference)
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
	given, err := values.read(a, set)
	if err != nil {
		return err
	}
	images, err := a.locate(ctx, at, set)
	if err != nil {
		return err
	}
	rendered, err := renderSet(set, given, images)
	if err != nil {
		return err
	}
	for _, b := range rendered.bundles {
		for _, h := range b.Hooks {
			a.ui.Note("note: %s: hook %s is not among what is applied", b.Metadata().Name, h)
		}
	}
	return a.ui.Result("", nil, func(w io.Writer) {
		for _, b := range rendered.bundles {
			for _, f := range b.Manifests.Files {
				fmt.Fprintf(w, "---\n# %s/%s\n%s", b.Metadata().Name, f.Path, f.Data)
				if n := len(f.Data); n > 0 && f.Data[n-1] != '\n' {
					fmt.Fprintln(w)
				}
			}
		}
	})
}
