package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/render"
)

func (a *app) rbacCommand() *cobra.Command {
	var o siteFlags
	var account, namespace string
	cmd := &cobra.Command{
		Use:   "rbac REFERENCE",
		Short: "print the roles that an apply of a runtime needs, and no more",
		Long: `Rbac computes from the runtime's own resources what a service account needs to apply it, to
upgrade and to delete it, and prints the roles and bindings as manifests, with their namespaces.
Creating a role requires the permissions it grants, so the service account holds them.`,
		Example: `  krtpkg rbac --key cosign.pub registry.example/krt/edge:1.0.0 > roles.yaml
  krtpkg rbac oci:dist:1.0.0 --allow-unsigned --service-account deployer -n ops`,
		GroupID: groupCluster,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runRBAC(cmd.Context(), args[0], account, namespace, &o)
		},
	}
	o.trust.addTrustFlags(cmd)
	o.trust.addUnsigned(cmd, "continue without verifying signatures")
	o.values.addValuesFlags(cmd)
	cmd.Flags().StringVar(&account, "service-account", "krtpkg", "the service account that applies")
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "default", "namespace of the service account and of the records")
	return cmd
}

func (a *app) runRBAC(ctx context.Context, reference, account, namespace string, o *siteFlags) error {
	policy, err := a.requirePolicy(ctx, o)
	if err != nil {
		return err
	}
	p, err := a.prepareRoot(ctx, reference, policy, o)
	if err != nil {
		return err
	}
	values, err := o.values.readValues(a, p.set)
	if err != nil {
		return err
	}
	rt, err := p.renderWithValues(ctx, a, render.Kept{All: values})
	if err != nil {
		return err
	}
	access, err := deploy.LeastAccess(rt, namespace, account)
	if err != nil {
		return err
	}
	if len(access.Unknown) > 0 {
		a.ui.Note("note: neither Kubernetes nor the runtime defines %s: guessing plurals and scopes", strings.Join(access.Unknown, ", "))
	}
	nodes, err := access.ListNodes()
	if err != nil {
		return err
	}
	text, err := manifest.EncodeDocuments(nodes...)
	if err != nil {
		return err
	}
	return a.ui.Data(text)
}
