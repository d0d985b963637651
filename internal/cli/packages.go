package cli

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/pkgrepo"
	"krtpkg.dev/krtpkg/pkg/trust"
)

func (a *app) packagesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "packages",
		Short: "write what kapp-controller, Flux and Argo CD need to consume a runtime",
		Long: `Packages writes manifests for controllers that reconcile from the registry. What they fetch is
the runtime itself, verified first and named by its digest: they verify nothing themselves, or
less.`,
		Example: "  krtpkg packages install --key cosign.pub registry.example/krt/edge:1.0.0 -o packages",
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

type installOptions struct {
	site  siteFlags
	to    pkgrepo.Site
	leave bool
	// without leaves the PackageRepository out.
	without bool
	dir     string
	period  time.Duration
}

func (a *app) packagesInstallCommand() *cobra.Command {
	var o installOptions
	cmd := &cobra.Command{
		Use:   "install REFERENCE --key KEY",
		Short: "write the manifests that make kapp-controller install a runtime",
		Long: `Install verifies a runtime and writes the manifests that make kapp-controller install it: the
PackageRepository, by digest, and for each bundle a PackageInstall with its values in a Secret,
and a service account that may do what the bundle's own resources and kapp's records need.

kapp applies them in the order of the layers, and waits for each. Anything else can apply them
too: kapp-controller tries again what fails because something is not there yet.`,
		Example: `  krtpkg packages install --key cosign.pub registry.example/krt/edge:1.0.0 -o packages
  krtpkg packages install --key cosign.pub site.example/krt/edge:1.0.0 --values site.yaml | kapp deploy -a edge -f -
  krtpkg packages install --key cosign.pub site.example/krt/edge:1.0.0 --constraints ">=1.0.0 <2.0.0"`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.packagesInstall(cmd.Context(), args[0], o) },
	}
	o.site.trust.add(cmd)
	o.site.trust.addUnsigned(cmd, "go on without verifying any signature")
	o.site.values.add(cmd)
	flags := cmd.Flags()
	flags.StringVarP(&o.to.Namespace, "namespace", "n", "default", "namespace of the repository and of what is installed")
	flags.StringVar(&o.to.Constraints, "constraints", "", "versions of each package that may be installed, as in \">=1.0.0 <2.0.0\" (default: that of the runtime)")
	flags.BoolVar(&o.to.Downgradable, "downgradable", false, "let packages go back to older versions")
	flags.DurationVar(&o.period, "sync-period", 0, "how often the controller looks again (default: its own, 10 minutes)")
	flags.StringVar(&o.to.PullSecret, "pull-secret", "", "name of a Secret in the namespace with the login of the registry")
	flags.BoolVar(&o.leave, "leave-out", false, "leave out bundles that are no packages: they are for krtpkg apply --beside")
	flags.BoolVar(&o.without, "without-repository", false, "leave the PackageRepository out: krtpkg packages repo writes one of several versions")
	flags.StringVarP(&o.dir, "output-dir", "o", "", "folder to write into; without, all goes to standard output")
	return cmd
}

func (a *app) packagesInstall(ctx context.Context, reference string, o installOptions) error {
	if err := syncPeriod(o.period, &o.to); err != nil {
		return err
	}
	p, _, err := a.prepareForController(ctx, reference, &o.site)
	if err != nil {
		return err
	}
	o.to.Reference = p.Repository + "@" + p.root.Digest.String()
	installs, err := a.installs(p, &o)
	if err != nil {
		return err
	}
	documents, err := pkgrepo.Installs(p.set.Root.Runtime, installs, o.to)
	if err != nil {
		return err
	}
	if o.without {
		documents = documents[1:]
	}
	return a.writeDocuments(o.dir, documents)
}

// prepareForController verifies and opens a runtime that a controller is to fetch from a registry.
func (a *app) prepareForController(ctx context.Context, reference string, site *siteFlags) (*prepared, *trust.Policy, error) {
	policy, err := a.whom(ctx, site)
	if err != nil {
		return nil, nil, err
	}
	p, err := a.prepare(ctx, reference, policy, site, "")
	switch {
	case err != nil:
		return nil, nil, err
	case !p.IsRegistry():
		return nil, nil, &usageError{fmt.Errorf("%s: a cluster fetches from a registry: push or import it first", reference)}
	case p.set.Root.Runtime == nil:
		return nil, nil, &usageError{fmt.Errorf("%s is a bundle: controllers take runtimes", p.Place)}
	}
	return p, policy, nil
}

// installs are the bundles of a runtime that are packages.
func (a *app) installs(p *prepared, o *installOptions) ([]pkgrepo.Install, error) {
	root := p.set.Root
	left, err := a.leaveOut(p.set, "kapp-controller", o.leave)
	if err != nil {
		return nil, err
	}
	values, err := o.site.values.read(p.set)
	if err != nil {
		return nil, err
	}
	// What a bundle's rules refuse is refused here, not on the cluster.
	rt, err := p.with(siteValues{all: values})
	if err != nil {
		return nil, err
	}
	made, err := namespacesOf(rt)
	if err != nil {
		return nil, err
	}
	var installs []pkgrepo.Install
	for i, b := range p.set.Bundles {
		bundleName := b.Metadata().Name
		if slices.ContainsFunc(left, func(l pkgrepo.Left) bool { return l.Bundle == bundleName }) {
			continue
		}
		one := pkgrepo.Install{Bundle: b.Bundle, Account: root.Metadata().Name + "-" + bundleName}
		if node := values.Node(); node != nil {
			one.Values = manifest.Get(node, bundleName)
		}
		unit := rt.Units[i]
		unit.Bundle, unit.Needs = "", nil
		access, err := deploy.LeastAccess(deploy.Runtime{Name: one.Account, Units: []deploy.Unit{unit}}, o.to.Namespace, one.Account)
		if err != nil {
			return nil, err
		}
		access.Everywhere(made)
		access.Namespaces = nil // they are there, or not ours: who deleted the manifests would delete them
		if one.Access, err = nodes(access.Objects()); err != nil {
			return nil, err
		}
		installs = append(installs, one)
	}
	return installs, nil
}

// namespacesOf are the namespaces that a runtime's own bundles make.
func namespacesOf(rt deploy.Runtime) (names []string, err error) {
	for _, unit := range rt.Units {
		made, err := deploy.Namespaces(unit)
		if err != nil {
			return nil, err
		}
		names = append(names, made...)
	}
	return names, nil
}

func (a *app) packagesConfigCommand() *cobra.Command {
	var ca, argoCD string
	cmd := &cobra.Command{
		Use:   "config (--ca FILE | --argocd NAMESPACE)",
		Short: "write the part of a controller's own configuration that runtimes need",
		Long: `Config writes what belongs to the installation of a controller, and not to what it installs: apply
it with that.

With --ca it is the Secret by which kapp-controller trusts the registry of a site. With --argocd it
is the ConfigMap of Argo CD by which one layer waits for the one below: without, Argo CD takes an
Application for healthy from the moment on that it is there.`,
		Example: `  krtpkg packages config --ca site-ca.pem | kubectl apply --server-side --force-conflicts -f -
  krtpkg packages config --argocd argocd | kubectl apply --server-side --force-conflicts -f -`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if (ca == "") == (argoCD == "") {
				return &usageError{errors.New("want --ca or --argocd")}
			}
			if argoCD != "" {
				return a.writeDocuments("", []pkgrepo.Document{{Resources: []any{pkgrepo.ArgoCDConfig(argoCD)}}})
			}
			pem, err := os.ReadFile(ca)
			if err != nil {
				return fmt.Errorf("ca: %w", err)
			}
			if !x509.NewCertPool().AppendCertsFromPEM(pem) {
				return fmt.Errorf("ca: %s holds no certificate in PEM", ca)
			}
			return a.writeDocuments("", []pkgrepo.Document{{Resources: []any{pkgrepo.Config(string(pem))}}})
		},
	}
	cmd.Flags().StringVar(&ca, "ca", "", "file of certificate authorities, PEM, for kapp-controller")
	cmd.Flags().StringVar(&argoCD, "argocd", "", "namespace of Argo CD")
	return cmd
}

// nodes are Kubernetes' own types as YAML, without what only a server fills in.
func nodes(objects []any) ([]*yaml.Node, error) {
	var all []*yaml.Node
	for _, object := range objects {
		data, err := json.Marshal(object)
		if err != nil {
			return nil, err
		}
		var doc yaml.Node
		if err := yaml.Unmarshal(data, &doc); err != nil {
			return nil, err
		}
		plainStyle(&doc)
		all = append(all, doc.Content[0])
	}
	return all, nil
}

// writeDocuments writes manifests into a folder, or one after the other to standard output.
func (a *app) writeDocuments(dir string, documents []pkgrepo.Document) error {
	var whole bytes.Buffer
	files := make([][]byte, len(documents))
	for i, d := range documents {
		var out bytes.Buffer
		for _, r := range d.Resources {
			fmt.Fprintln(&out, "---")
			encoder := yaml.NewEncoder(&out)
			encoder.SetIndent(2)
			if err := errors.Join(encoder.Encode(r), encoder.Close()); err != nil {
				return err
			}
		}
		files[i] = out.Bytes()
		whole.Write(files[i])
	}
	if dir == "" {
		return a.ui.Result("", nil, func(w io.Writer) { w.Write(whole.Bytes()) })
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for i, d := range documents {
		// Values may be secrets.
		if err := os.WriteFile(filepath.Join(dir, d.Name), files[i], 0o600); err != nil {
			return err
		}
	}
	return a.ui.Result("", nil, func(w io.Writer) {
		for _, d := range documents {
			fmt.Fprintln(w, filepath.Join(dir, d.Name))
		}
	})
}
