package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/pkg/trust"
)

func (a *app) trustExportCommand() *cobra.Command {
	var policy, format string
	var o trust.ExportOptions
	cmd := &cobra.Command{
		Use:   "export",
		Short: "write the policy for what enforces it on a cluster",
		Long: `Export writes the policy as manifests for Kyverno or for Sigstore's policy-controller, so
that the cluster holds the images that run to it. What they cannot express is an error, never
left out.`,
		Example: `  krtpkg trust export --format kyverno | kubectl apply -f -
  krtpkg trust export --format policy-controller --enforce > policies.yaml`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			p, err := a.loadPolicy(policy)
			if err != nil {
				return err
			}
			write := map[string]func(trust.ExportOptions) ([]byte, error){"kyverno": p.ExportKyverno, "policy-controller": p.ExportPolicyController}[format]
			if write == nil {
				return &usageError{fmt.Errorf("--format %s: want kyverno or policy-controller", format)}
			}
			manifests, err := write(o)
			if err != nil {
				return err
			}
			return a.ui.Data(manifests)
		},
	}
	policyFlag(cmd, &policy)
	cmd.Flags().StringVar(&format, "format", "kyverno", "kyverno or policy-controller")
	cmd.Flags().StringVar(&o.Name, "name", "krtpkg", "what the names of the objects begin with")
	cmd.Flags().BoolVar(&o.Enforce, "enforce", false, "refuse what does not comply, instead of reporting it")
	_ = cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"kyverno", "policy-controller"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}
