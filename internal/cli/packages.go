package cli

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/starter"
	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/pkgrepo"
	"krtpkg.dev/krtpkg/pkg/render"
	"krtpkg.dev/krtpkg/pkg/site"
	"krtpkg.dev/krtpkg/pkg/trust"
)

func (a *app) packagesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "packages",
		Short: "write what kapp-controller, Flux and Argo CD need to consume a runtime",
		Long: `Packages writes manifests for controllers that reconcile from the registry. They fetch the runtime
itself, which is verified first and named by digest: the controllers verify less, or nothing.`,
		Example: "  krtpkg packages install --key cosign.pub registry.example/krt/edge:1.0.0 -d packages",
		GroupID: groupCluster,
		Args:    knownCommand,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.packagesInstallCommand(), a.packagesConfigCommand(), a.packagesFluxCommand(), a.packagesArgoCDCommand(), a.packagesRepoCommand())
	for _, sub := range cmd.Commands() {
		sub.Args = usageArgs(sub.Args)
	}
	return cmd
}

// controllerFlags are those of each command that makes a controller fetch a runtime.
type controllerFlags struct {
	site         siteFlags
	allowAltered bool
	// dir is the folder that is written into, and force lets files of it be replaced.
	dir   string
	force bool
}

func (f *controllerFlags) addControllerFlags(cmd *cobra.Command, unsigned string) {
	f.site.trust.addTrustFlags(cmd)
	f.site.trust.addUnsigned(cmd, unsigned)
	cmd.Flags().BoolVar(&f.allowAltered, "allow-altered", false, "accept the runtime's files for the controller although this krtpkg would write others, as for a runtime that an older krtpkg built")
	outputDirFlag(cmd, &f.dir, "folder to write to (default: standard output)")
	cmd.Flags().BoolVar(&f.force, "force", false, "overwrite files in the folder")
}

// prepareForController verifies and opens a runtime that a controller is to fetch from a registry.
func (a *app) prepareForController(ctx context.Context, reference string, controller *site.Controller, f *controllerFlags) (*preparedRoot, *trust.Policy, error) {
	policy, err := a.requirePolicy(ctx, &f.site)
	if err != nil {
		return nil, nil, err
	}
	p, err := a.prepareRoot(ctx, reference, policy, &f.site)
	switch {
	case err != nil:
		return nil, nil, err
	case !p.IsRegistry():
		return nil, nil, &usageError{fmt.Errorf("%s: a cluster fetches from a registry: push or import it first", reference)}
	case p.set.Root.Runtime == nil:
		return nil, nil, &usageError{fmt.Errorf("%s is a bundle: controllers need a runtime", p.Place)}
	}
	// What the controller will apply must be what apply would.
	for _, b := range p.set.Bundles {
		if err := render.CheckImages(ctx, &b.Content); err != nil {
			return nil, nil, fmt.Errorf("bundle %s: %w", b.Metadata().Name, err)
		}
	}
	return p, policy, a.checkFor(ctx, p.set, controller, f.allowAltered)
}

func (a *app) packagesConfigCommand() *cobra.Command {
	var ca, argoCD, host string
	cmd := &cobra.Command{
		Use:   "config (--ca FILE | --argocd NAMESPACE [--ca FILE --registry HOST])",
		Short: "write the part of a controller's configuration that runtimes need",
		Long: `Config writes manifests that belong to the installation of a controller: apply them with it.

--ca writes the Secret that makes kapp-controller trust the registry of a site. --argocd writes the
ConfigMap that makes each layer wait for the one below (without it, Argo CD considers an Application
healthy as soon as it exists), and with --ca and --registry also the one that makes Argo CD trust a
registry.`,
		Example: `  krtpkg packages config --ca site-ca.pem | kubectl apply --server-side --force-conflicts -f -
  krtpkg packages config --argocd argocd | kubectl apply --server-side --force-conflicts -f -
  krtpkg packages config --argocd argocd --ca site-ca.pem --registry site.example | kubectl apply --server-side -f -`,
		Args: noArguments,
		RunE: func(*cobra.Command, []string) error {
			var pem []byte
			switch {
			case ca == "" && argoCD == "":
				return &usageError{errors.New("want --ca or --argocd")}
			case (host != "") != (ca != "" && argoCD != ""):
				return &usageError{errors.New("--registry requires --ca and --argocd: it names the registry of the authorities")}
			case ca != "":
				var err error
				if pem, err = os.ReadFile(ca); err != nil {
					return fmt.Errorf("ca: %w", err)
				}
				if !x509.NewCertPool().AppendCertsFromPEM(pem) {
					return fmt.Errorf("ca: %s contains no PEM certificate", ca)
				}
			}
			if argoCD == "" {
				return a.writeDocuments(&controllerFlags{}, []pkgrepo.Document{{Resources: []any{pkgrepo.ControllerConfig(string(pem))}}})
			}
			resources := []any{pkgrepo.ArgoCDConfig(argoCD)}
			if host != "" {
				registry, err := name.NewRegistry(host)
				if err != nil {
					return &usageError{fmt.Errorf("--registry: %w", err)}
				}
				resources = append(resources, pkgrepo.ArgoCDAuthorities(argoCD, registry.RegistryStr(), string(pem)))
			}
			return a.writeDocuments(&controllerFlags{}, []pkgrepo.Document{{Resources: resources}})
		},
	}
	cmd.Flags().StringVar(&ca, "ca", "", "file of certificate authorities, PEM")
	cmd.Flags().StringVar(&argoCD, "argocd", "", "namespace of Argo CD")
	cmd.Flags().StringVar(&host, "registry", "", "registry of the authorities, HOST[:PORT]")
	return cmd
}

// writeDocuments writes manifests into a folder, or one after the other to standard output.
func (a *app) writeDocuments(f *controllerFlags, documents []pkgrepo.Document) error {
	files := make([]starter.File, len(documents))
	var all []byte
	for i, d := range documents {
		text, err := d.Encode()
		if err != nil {
			return err
		}
		files[i] = starter.File{Path: d.Name, Data: text}
		all = append(all, text...)
	}
	if f.dir == "" {
		return a.ui.Data(all)
	}
	// Values may be secrets.
	if err := writeFolder(f.dir, files, 0o600, f.force); err != nil {
		return err
	}
	return a.ui.Result("", nil, func(w io.Writer) {
		for _, d := range documents {
			ui.Fprintln(w, filepath.Join(f.dir, d.Name))
		}
	})
}
