package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/internal/place"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/pkgrepo"
	"krtpkg.dev/krtpkg/pkg/registry"
	"krtpkg.dev/krtpkg/pkg/site"
)

type argoCDOptions struct {
	from   controllerFlags
	to     pkgrepo.ArgoCDSite
	follow bool
	leave  bool
}

func (a *app) packagesArgoCDCommand() *cobra.Command {
	var o argoCDOptions
	cmd := &cobra.Command{
		Use:   "argocd REFERENCE --key KEY",
		Short: "write the manifests that make Argo CD install a runtime",
		Long: `Argocd verifies a runtime and writes the Application that makes Argo CD install it, with an
Application for each bundle, by digest, in waves by layer, with the images of the site.

Argo CD does not accept the media type of layers that other clients need, so the command adds a second
manifest of about 1 KB with the same layer next to the runtime and each of its bundles. These are
attached to the runtime and copied with it.

Argo CD does not verify signatures and uses the digest verified here. With --follow it uses the tag
TAG.argocd, which this command moves to TAG after verifying it.`,
		Example: `  krtpkg packages argocd --key cosign.pub site.example/krt/edge:1.0.0 | kubectl apply -f -
  krtpkg packages argocd --key cosign.pub site.example/krt/edge:stable --follow -d apps`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.packagesArgoCD(cmd.Context(), args[0], o) },
	}
	o.from.addControllerFlags(cmd, "continue without verifying signatures")
	flags := cmd.Flags()
	flags.StringVarP(&o.to.Namespace, "namespace", "n", "argocd", "namespace of Argo CD")
	flags.StringVar(&o.to.Project, "project", "default", "project of the Applications")
	flags.StringVar(&o.to.Server, "server", "https://kubernetes.default.svc", "API server of the cluster, as Argo CD knows it")
	flags.BoolVar(&o.follow, "follow", false, "follow the tag TAG.argocd of the reference's TAG, and move it")
	flags.BoolVar(&o.leave, "leave-out", false, "leave out bundles that Argo CD cannot apply, for krtpkg apply --left-out-by")
	return cmd
}

func (a *app) packagesArgoCD(ctx context.Context, reference string, o argoCDOptions) error {
	p, _, err := a.prepareForController(ctx, reference, site.ArgoCD, &o.from)
	if err != nil {
		return err
	}
	if o.follow && p.Tag == "" {
		return &usageError{fmt.Errorf("--follow: %s has no tag", p.Place)}
	}
	if err := requireRelocated(p); err != nil {
		return err
	}
	if _, err := a.leaveOut(ctx, p.set, site.ArgoCD, o.leave); err != nil {
		return err
	}
	store, err := p.Create(ctx, p.client)
	if err != nil {
		return err
	}
	second, err := attachForArgoCD(ctx, store, p)
	if err != nil {
		return err
	}
	o.to.Repository, o.to.Revision = p.Repository, second.Digest.String()
	if o.follow {
		o.to.Revision = p.Tag + ".argocd"
		if err := store.Tag(ctx, second, o.to.Revision); err != nil {
			return fmt.Errorf("tag %s: %w", o.to.Revision, err)
		}
	}
	if r, is := p.store.(*registry.Repository); is {
		o.to.Insecure = r.PlainHTTP
	}
	return a.writeDocuments(&o.from, pkgrepo.ArgoCDDocuments(p.set.Root.Runtime, o.to))
}

// attachForArgoCD puts the second manifests next to a runtime, as far as they are not there, and gives
// that of the runtime itself.
func attachForArgoCD(ctx context.Context, store place.Target, p *preparedRoot) (root ocispec.Descriptor, err error) {
	var all []ocispec.Descriptor
	put := func(desc ocispec.Descriptor, data []byte) error {
		there, err := store.Exists(ctx, desc)
		if err != nil || there {
			return err
		}
		if err := store.Push(ctx, desc, bytes.NewReader(data)); err != nil && !errors.Is(err, errdef.ErrAlreadyExists) {
			return fmt.Errorf("write the manifest for Argo CD: %w", err)
		}
		return nil
	}
	for _, artifact := range append([]*bundle.Artifact{p.set.Root}, p.set.Bundles...) {
		desc, data, err := bundle.ForArgoCD(&artifact.Manifest)
		if err != nil {
			return root, err
		}
		if err := put(desc, data); err != nil {
			return root, err
		}
		all = append(all, desc)
	}
	index, data, err := bundle.ArgoCDIndex(p.root, all)
	if err != nil {
		return root, err
	}
	return all[0], put(index, data)
}
