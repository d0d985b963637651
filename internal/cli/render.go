package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/render"
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

// valuesFlags are a site's values: a file, and single values over it.
type valuesFlags struct {
	file         string
	texts, yamls []string
}

func (f *valuesFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.file, "values", "", "file of the site's values: a mapping from bundle names to their values")
	flags.StringArrayVar(&f.texts, "data-value", nil, "a value over those of the file, a string, as BUNDLE.KEY=VALUE")
	flags.StringArrayVar(&f.yamls, "data-value-yaml", nil, "a value over those of the file, as BUNDLE.KEY=YAML")
}

// read gives the values, which have to be for bundles that there are.
func (f *valuesFlags) read(set *bundle.Set) (*render.Values, error) {
	var values *render.Values
	if f.file != "" {
		data, err := os.ReadFile(f.file)
		if err != nil {
			return nil, fmt.Errorf("values: %w", err)
		}
		if values, err = render.ParseValues(f.file, data); err != nil {
			return nil, err
		}
	}
	var assignments []render.Assignment
	for i, text := range slices.Concat(f.texts, f.yamls) {
		one, err := render.ParseAssignment(text, i >= len(f.texts))
		if err != nil {
			return nil, &usageError{err}
		}
		assignments = append(assignments, one)
	}
	values, err := values.With(assignments...)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(set.Bundles))
	for i, b := range set.Bundles {
		names[i] = b.Metadata().Name
	}
	return values, values.Check(names)
}

func (a *app) render(ctx context.Context, reference string, values valuesFlags, t *trustFlags) error {
	at, err := a.open(ctx, reference)
	if err != nil {
		return err
	}
	if err := a.verifiedIf(ctx, at, t); err != nil {
		return err
	}
	rendered, err := a.renderSet(ctx, at, values)
	if err != nil {
		return err
	}
	return a.ui.Result("", nil, func(w io.Writer) {
		for _, b := range rendered.bundles {
			for _, f := range b.files {
				fmt.Fprintf(w, "---\n# %s/%s\n%s", b.Metadata().Name, f.Path, f.Data)
				if n := len(f.Data); n > 0 && f.Data[n-1] != '\n' {
					fmt.Fprintln(w)
				}
			}
		}
	})
}

// rendering is a root with every bundle's manifests as they go onto the cluster, in order.
type rendering struct {
	root    *bundle.Artifact
	bundles []renderedBundle
}

type renderedBundle struct {
	*bundle.Artifact
	files []bundle.File
}

// renderSet opens what a reference leads to and renders every bundle.
func (a *app) renderSet(ctx context.Context, at *opened, flags valuesFlags) (*rendering, error) {
	set, err := bundle.OpenSet(ctx, at.store, at.root)
	if err != nil {
		return nil, err
	}
	values, err := flags.read(set)
	if err != nil {
		return nil, err
	}
	locate, err := a.locator(ctx, at, set)
	if err != nil {
		return nil, err
	}
	rendered := &rendering{root: set.Root}
	for _, b := range set.Bundles {
		files, err := render.Bundle(&b.Content, values, locate)
		if err != nil {
			return nil, fmt.Errorf("bundle %s: %w", b.Metadata().Name, err)
		}
		rendered.bundles = append(rendered.bundles, renderedBundle{b, files})
	}
	return rendered, nil
}

// locator finds out where the images are: in the repository of the root, where push and
// copy put them (the rule of imgpkg, so that kapp-controller comes to the same references),
// or else at their origin, which is said.
func (a *app) locator(ctx context.Context, at *opened, set *bundle.Set) (func(name.Digest) string, error) {
	if !at.IsRegistry() {
		return name.Digest.Name, nil
	}
	var wanted []name.Digest
	for _, b := range set.Bundles {
		wanted = append(wanted, b.Images.Digests()...)
	}
	beside := make([]bool, len(wanted))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for i, image := range wanted {
		group.Go(func() error {
			_, err := at.store.Resolve(ctx, image.DigestStr())
			beside[i] = err == nil
			if errors.Is(err, errdef.ErrNotFound) {
				return nil
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	here := map[string]bool{}
	for i, image := range wanted {
		here[image.DigestStr()] = beside[i]
		if !beside[i] {
			a.ui.Note("note: image %s is not in %s, it runs from its origin", image.Name(), at.Repository)
		}
	}
	return func(image name.Digest) string {
		if here[image.DigestStr()] {
			return at.Repository + "@" + image.DigestStr()
		}
		return image.Name()
	}, nil
}
