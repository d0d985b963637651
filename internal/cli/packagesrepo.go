package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/pkgrepo"
	"krtpkg.dev/krtpkg/pkg/site"
)

type repoOptions struct {
	from   controllerFlags
	to     pkgrepo.Site
	tag    string
	period time.Duration
}

func (a *app) packagesRepoCommand() *cobra.Command {
	var o repoOptions
	cmd := &cobra.Command{
		Use:   "repo REFERENCE... --tag TAG --key KEY",
		Short: "put the packages of several versions into one repository for kapp-controller",
		Long: `Repo verifies versions of a runtime in one repository of a registry, and pushes their packages there
as a catalogue under a tag. It writes the PackageRepository with the catalogue's digest; krtpkg
packages install --without-repository writes the rest.

The same versions give the same catalogue, wherever they are.`,
		Example: `  krtpkg packages repo --key cosign.pub --tag packages site.example/krt/edge:1.0.0 site.example/krt/edge:1.1.0 | kubectl apply -f -`,
		Args:    cobra.MinimumNArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.packagesRepo(cmd.Context(), args, o) },
	}
	o.from.addControllerFlags(cmd, "continue without verifying signatures")
	flags := cmd.Flags()
	flags.StringVar(&o.tag, "tag", "packages", "tag of the catalogue")
	flags.StringVarP(&o.to.Namespace, "namespace", "n", "default", "namespace of the repository")
	flags.DurationVar(&o.period, "sync-period", 0, "sync period of the controller (default: its own, 10 minutes)")
	flags.StringVar(&o.to.PullSecret, "pull-secret", "", "name of a Secret in the namespace with the login of the registry")
	return cmd
}

func (a *app) packagesRepo(ctx context.Context, references []string, o repoOptions) error {
	if err := syncPeriod(o.period, &o.to); err != nil {
		return err
	}
	var first *preparedRoot
	var runtimes []*bundle.Artifact
	for _, reference := range references {
		p, _, err := a.prepareForController(ctx, reference, site.KappController, &o.from)
		if err != nil {
			return err
		}
		if first == nil {
			first = p
		}
		if p.Repository != first.Repository {
			return &usageError{fmt.Errorf("%s is not in the repository of %s, from which the cluster fetches the packages: copy it there", p.Place, first.Place)}
		}
		runtimes = append(runtimes, p.set.Root)
	}
	catalogue, err := pkgrepo.BuildCatalogue(runtimes)
	if err != nil {
		return err
	}
	store, err := first.Create(ctx, first.client)
	if err != nil {
		return err
	}
	if err := o.checkTagFree(ctx, first); err != nil {
		return err
	}
	desc, err := catalogue.Pack(ctx, store, time.Time{})
	if err != nil {
		return err
	}
	if err := store.Tag(ctx, desc, o.tag); err != nil {
		return fmt.Errorf("tag %s: %w", o.tag, err)
	}
	o.to.Reference = first.Repository + "@" + desc.Digest.String()
	a.ui.Say("the packages of %s are in %s:%s@%s", countNoun(len(runtimes), "version"), first.Repository, o.tag, desc.Digest)
	return a.writeDocuments(&o.from, []pkgrepo.Document{pkgrepo.RepositoryDocument(catalogue.Metadata().Name, o.to)})
}

// checkTagFree makes sure that the tag is that of a catalogue, or of nothing.
func (o *repoOptions) checkTagFree(ctx context.Context, p *preparedRoot) error {
	desc, err := p.store.Resolve(ctx, o.tag)
	if errors.Is(err, errdef.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	var m ocispec.Manifest
	if desc.Size <= oci.MaxManifest {
		data, err := content.FetchAll(ctx, p.store, desc)
		if err != nil {
			return err
		}
		if err := oci.UnmarshalJSON(data, &m); err != nil {
			return fmt.Errorf("%s:%s: %w", p.Repository, o.tag, err)
		}
	}
	if m.ArtifactType != bundle.TypeCatalogue {
		return &usageError{fmt.Errorf("--tag %s: %s:%s exists and is not a catalogue: choose another tag", o.tag, p.Repository, o.tag)}
	}
	return nil
}

// syncPeriod sets how often kapp-controller looks.
func syncPeriod(period time.Duration, to *pkgrepo.Site) error {
	if period != 0 && period < 30*time.Second {
		return &usageError{fmt.Errorf("--sync-period %s: want at least 30s", period)}
	}
	if period > 0 {
		to.SyncPeriod = period.String()
	}
	return nil
}
