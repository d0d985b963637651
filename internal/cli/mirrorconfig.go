package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

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
		Long: `Mirror-config writes what the nodes' container runtime needs to pull images, by upstream's
own names, from where "copy --paths preserve" and "import --paths preserve" put them. The
registries are those of the images of the references, or given by --registry.

Images that a bundle names need none of it: they are relocated when it is applied. It is for
operators that make up image names when they run.`,
		Example: `  krtpkg mirror-config --for containerd --mirror site.example/krt/edge site.example/krt/edge:1.0.0 -o certs.d
  krtpkg mirror-config --for k3s --mirror site.example/krt/edge --registry quay.io --registry docker.io`,
		GroupID: groupCarry,
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.mirrorConfig(cmd.Context(), o.runtime, o.config, args, o.dir, o.force)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.runtime, "for", "", "the runtime: "+strings.Join(runtimes, ", "))
	flags.StringVar(&o.config.Mirror, "mirror", "", "the repository below which upstream's names are")
	flags.StringArrayVar(&o.config.Registries, "registry", nil, "a registry to mirror, as in quay.io; may be given more than once")
	flags.StringVar(&o.config.CAFile, "ca", "", "file on the nodes with the authority of the mirror's certificate")
	flags.BoolVar(&o.config.PlainHTTP, "mirror-plain-http", false, "the mirror has no TLS")
	flags.BoolVar(&o.config.Fallback, "fallback", false, "nodes may ask upstream for what the mirror lacks")
	flags.StringVarP(&o.dir, "output-dir", "o", "", "folder to write into; without, one file goes to standard output")
	flags.BoolVar(&o.force, "force", false, "write over files of the folder that are others")
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
		c.Registries = append(c.Registries, found...)
	}
	files, err := mirror.ConfigFiles(runtime, c)
	if err != nil {
		return &usageError{err}
	}
	if dir == "" && len(files) > 1 {
		return &usageError{fmt.Errorf("there are %d files: say where to with --output-dir", len(files))}
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
