package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/pkg/pkgrepo"
	"krtpkg.dev/krtpkg/pkg/registry"
	"krtpkg.dev/krtpkg/pkg/site"
	"krtpkg.dev/krtpkg/pkg/trust"
	"krtpkg.dev/krtpkg/pkg/trust/export"
)

type fluxOptions struct {
	from        controllerFlags
	to          pkgrepo.FluxSite
	interval    time.Duration
	follow      bool
	constraints string
	leave       bool
}

func (a *app) packagesFluxCommand() *cobra.Command {
	var o fluxOptions
	cmd := &cobra.Command{
		Use:   "flux REFERENCE --key KEY",
		Short: "write the manifests that make Flux install a runtime",
		Long: `Flux verifies a runtime and writes the manifests that make Flux install it: an OCIRepository that
Flux verifies with the same keys or identities, and a Kustomization of the runtime's folder for
Flux, which holds an OCIRepository and a Kustomization for each bundle, by digest, in the order of
the layers, with the site's images.

It names the verified digest. With --follow Flux follows the reference's tag, and with --constraints
the newest version of a range: it accepts what those keys or identities have signed. A trust policy
with further requirements is refused, since Flux would not check them.`,
		Example: `  krtpkg packages flux --key cosign.pub site.example/krt/edge:1.0.0 | kubectl apply -f -
  krtpkg packages flux --key cosign.pub site.example/krt/edge:stable --follow -d clusters/site-7
  krtpkg packages flux --key cosign.pub site.example/krt/edge:1.0.0 --constraints ">=1.0.0 <2.0.0"`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.packagesFlux(cmd.Context(), args[0], o) },
	}
	o.from.addControllerFlags(cmd, "continue without verifying signatures, here and in Flux")
	flags := cmd.Flags()
	flags.StringVarP(&o.to.Namespace, "namespace", "n", "flux-system", "namespace of Flux's resources")
	flags.DurationVar(&o.interval, "interval", 10*time.Minute, "interval of Flux for the registry and the cluster")
	flags.BoolVar(&o.follow, "follow", false, "follow the reference's tag")
	flags.StringVar(&o.constraints, "constraints", "", "follow the newest version in a range, as in \">=1.0.0 <2.0.0\"")
	cmd.MarkFlagsMutuallyExclusive("follow", "constraints")
	flags.StringVar(&o.to.PullSecret, "pull-secret", "", "name of a Secret in the namespace with the login of the registry")
	flags.BoolVar(&o.leave, "leave-out", false, "leave out bundles that Flux cannot apply, for krtpkg apply --left-out-by")
	return cmd
}

func (a *app) packagesFlux(ctx context.Context, reference string, o fluxOptions) error {
	p, policy, err := a.prepareForController(ctx, reference, site.Flux, &o.from)
	if err != nil {
		return err
	}
	if o.to.Ref, err = o.sourceRef(p); err != nil {
		return err
	}
	if err := requireRelocated(p); err != nil {
		return err
	}
	if _, err := a.leaveOut(ctx, p.set, site.Flux, o.leave); err != nil {
		return err
	}
	if err := a.fluxTrust(p, policy, &o); err != nil {
		return err
	}
	o.to.Repository, o.to.Interval = p.Repository, o.interval.String()
	if r, is := p.store.(*registry.Repository); is {
		o.to.Insecure = r.PlainHTTP
	}
	if file := a.settings.registry.CAFile; file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("registry-ca: %w", err)
		}
		o.to.Authorities = string(pem)
	}
	return a.writeDocuments(&o.from, pkgrepo.FluxDocuments(p.set.Root.Runtime, o.to))
}

// sourceRef returns what Flux follows.
func (o *fluxOptions) sourceRef(p *preparedRoot) (map[string]string, error) {
	switch {
	case o.constraints != "":
		return map[string]string{"semver": o.constraints}, nil
	case o.follow && p.Tag == "":
		return nil, &usageError{fmt.Errorf("--follow: %s has no tag", p.Place)}
	case o.follow:
		return map[string]string{"tag": p.Tag}, nil
	}
	return map[string]string{"digest": p.root.Digest.String()}, nil
}

// fluxTrust sets the keys and identities that Flux trusts, as far as it supports the policy.
func (a *app) fluxTrust(p *preparedRoot, policy *trust.Policy, o *fluxOptions) error {
	if policy == nil {
		return nil
	}
	follows := o.follow || o.constraints != ""
	trusted, err := export.Flux(policy, p.Repository)
	switch {
	case errors.Is(err, export.ErrInexpressible) && !follows:
		a.ui.Note("note: Flux does not verify signatures, it uses the digest verified here: %v", err)
		return nil
	case err != nil:
		return err
	}
	o.to.Keys, o.to.TrustedRoot = trusted.Keys, trusted.TrustedRoot
	for _, identity := range trusted.Identities {
		o.to.Identities = append(o.to.Identities, pkgrepo.FluxIdentity(identity))
	}
	return nil
}

// requireRelocated makes sure that all images of a runtime are in its own repository.
func requireRelocated(p *preparedRoot) error {
	if images := p.images.AtOrigin(); len(images) > 0 {
		return fmt.Errorf("%s is not in %s, from which the cluster would pull it: push it there without --only-bundles, or copy it there", images[0], p.Repository)
	}
	return nil
}
