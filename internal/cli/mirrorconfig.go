package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/internal/starter"
	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/mirror"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

func (a *app) mirrorConfigCommand() *cobra.Command {
	var o struct {
		config  mirror.Config
		runtime string
		dir     string
		force   bool
	}
	runtimes := slices.Sorted(maps.Keys(mirror.Runtimes))
	cmd := &cobra.Command{
		Use:   "mirror-config --for RUNTIME --mirror REGISTRY/PATH [REFERENCE...]",
		Short: "write the configuration of nodes that pull images from a site's mirror",
		Long: `Mirror-config writes the configuration for the nodes' container runtime to pull images, by their
upstream names, from a mirror that "copy --paths preserve" or "import --paths preserve" filled. It
mirrors the registries of the references' images, or those given by --registry.

Images that a bundle names do not need it: apply relocates them. It is for operators that compute
image names when they run.`,
		Example: `  krtpkg mirror-config --for containerd --mirror site.example/krt/edge site.example/krt/edge:1.0.0 -d certs.d
  krtpkg mirror-config --for k3s --mirror site.example/krt/edge --registry quay.io --registry docker.io`,
		GroupID: groupCarry,
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.mirrorConfig(cmd.Context(), o.runtime, o.config, args, o.dir, o.force)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.runtime, "for", "", "the runtime: "+strings.Join(runtimes, ", "))
	flags.StringVar(&o.config.Mirror, "mirror", "", "the repository that holds upstream's names below it")
	flags.StringArrayVar(&o.config.Registries, "registry", nil, "a registry to mirror, such as quay.io; can be repeated")
	flags.StringVar(&o.config.CAFile, "ca", "", "file on the nodes with the CA of the mirror's certificate")
	flags.BoolVar(&o.config.PlainHTTP, "mirror-plain-http", false, "the mirror does not use TLS")
	flags.BoolVar(&o.config.Fallback, "fallback", false, "let nodes ask upstream for images that the mirror lacks")
	outputDirFlag(cmd, &o.dir, "folder to write to (default: one file to standard output)")
	flags.BoolVar(&o.force, "force", false, "overwrite files in the folder")
	_ = cmd.RegisterFlagCompletionFunc("for", cobra.FixedCompletions(runtimes, cobra.ShellCompDirectiveNoFileComp))
	requireFlags(cmd, "for", "mirror")
	return cmd
}

func (a *app) mirrorConfig(ctx context.Context, runtime string, c mirror.Config, references []string, dir string, force bool) error {
	for _, reference := range references {
		found, err := a.registriesOf(ctx, reference)
		if err != nil {
			return err
		}
		if err := a.noteUnmirrored(ctx, c.Mirror, reference); err != nil {
			return err
		}
		c.Registries = append(c.Registries, found...)
	}
	files, err := mirror.ConfigFiles(runtime, c)
	if err != nil {
		return &usageError{err}
	}
	if dir == "" && len(files) > 1 {
		return &usageError{fmt.Errorf("the configuration has %d files: pass --output-dir", len(files))}
	}
	if dir == "" {
		a.ui.Say("%s belongs to %s", files[0].Name, mirror.Runtimes[runtime])
		return a.ui.Data(files[0].Data)
	}
	var written []starter.File
	for _, f := range files {
		written = append(written, starter.File{Path: f.Name, Data: f.Data})
	}
	if err := writeFolder(dir, written, 0o644, force); err != nil {
		return err
	}
	a.ui.Say("the files belong to %s", mirror.Runtimes[runtime])
	return a.ui.Result("", nil, func(w io.Writer) {
		for _, f := range files {
			ui.Fprintln(w, filepath.Join(dir, filepath.FromSlash(f.Name)))
		}
	})
}

// noteUnmirrored notes the images of a reference that a mirror does not have under their own names. A mirror
// that cannot be asked from here is left alone: nodes may reach it.
func (a *app) noteUnmirrored(ctx context.Context, mirrored, reference string) error {
	at, err := a.openReference(ctx, reference)
	if err != nil {
		return err
	}
	set, err := a.openSet(ctx, at)
	if err != nil {
		return err
	}
	var absent []string
	for _, b := range set.Bundles {
		for _, locked := range b.Images {
			ref, err := images.ParseReference(locked.Reference)
			if err != nil {
				continue // it has no name of its own
			}
			repository := mirrored + "/" + transfer.UpstreamRegistry(ref.Context()) + "/" + ref.Context().RepositoryStr()
			store, err := at.client.Repository(ctx, repository)
			if err == nil {
				_, err = store.Resolve(ctx, locked.Image.DigestStr())
			}
			if errors.Is(err, errdef.ErrNotFound) && !slices.Contains(absent, repository) {
				absent = append(absent, repository)
			}
		}
	}
	if len(absent) > 0 {
		a.ui.Note("note: the mirror lacks %s: fill it with copy --paths preserve or import --paths preserve", nameSome(absent, "repository"))
	}
	return ctx.Err()
}

// registriesOf returns the registries of the images in the locks of what a reference names.
func (a *app) registriesOf(ctx context.Context, reference string) ([]string, error) {
	at, err := a.openReference(ctx, reference)
	if err != nil {
		return nil, err
	}
	set, err := a.openSet(ctx, at)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, b := range set.Bundles {
		for _, locked := range b.Images {
			repository := locked.Image.Context()
			if ref, err := images.ParseReference(locked.Reference); err == nil {
				repository = ref.Context()
			}
			found = append(found, transfer.UpstreamRegistry(repository))
		}
	}
	return found, nil
}
