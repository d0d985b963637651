package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/pkg/trust"
	"krtpkg.dev/krtpkg/pkg/trust/export"
)

func (a *app) trustExportCommand() *cobra.Command {
	var policy, format string
	var o export.Options
	cmd := &cobra.Command{
		Use:   "export",
		Short: "write the policy as manifests for a cluster",
		Long: `Export writes the policy as manifests for Kyverno or for Sigstore's policy-controller, so that the
cluster enforces it for running images. Rules that they cannot express are errors.`,
		Example: `  krtpkg trust export --format kyverno | kubectl apply -f -
  krtpkg trust export --format policy-controller --enforce > policies.yaml`,
		Args: noArguments,
		RunE: func(*cobra.Command, []string) error {
			p, err := a.loadPolicy(policy)
			if err != nil {
				return err
			}
			write := map[string]func(*trust.Policy, export.Options) ([]byte, error){"kyverno": export.Kyverno, "policy-controller": export.PolicyController}[format]
			if write == nil {
				return &usageError{fmt.Errorf("--format %s: want kyverno or policy-controller", format)}
			}
			manifests, err := write(p, o)
			if err != nil {
				return err
			}
			return a.ui.Data(manifests)
		},
	}
	policyFlag(cmd, &policy)
	cmd.Flags().StringVar(&format, "format", "kyverno", "kyverno or policy-controller")
	cmd.Flags().StringVar(&o.Name, "name", "krtpkg", "prefix of the objects' names")
	cmd.Flags().BoolVar(&o.Enforce, "enforce", false, "refuse images that violate the policy instead of reporting them")
	_ = cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"kyverno", "policy-controller"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}
