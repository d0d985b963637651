package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/place"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/provenance"
	"krtpkg.dev/krtpkg/pkg/sbom"
	"krtpkg.dev/krtpkg/pkg/sign"
	"krtpkg.dev/krtpkg/pkg/trust"
)

// The predicate types of what sign attests by itself.
const (
	typeCycloneDX  = "https://cyclonedx.org/bom"
	typeSPDX       = "https://spdx.dev/Document"
	typeProvenance = "https://slsa.dev/provenance/v1"
)

// builderFlags say who built what is signed.
type builderFlags struct{ id string }

func (f *builderFlags) addBuilderFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.id, "builder-id", "", "URI of the builder in the provenance (default: the workflow or pipeline in GitHub's and GitLab's CI)")
}

// buildStatements returns what sign attests: the SBOM, twice, and the provenance. They are computed from
// the artifact, so that nothing is signed but what it says.
func (f *builderFlags) buildStatements(set *bundle.Set) ([]sign.Statement, error) {
	cyclonedx, err := sbom.CycloneDX(set)
	if err != nil {
		return nil, fmt.Errorf("SBOM: %w", err)
	}
	spdx, err := sbom.SPDX(set)
	if err != nil {
		return nil, fmt.Errorf("SBOM: %w", err)
	}
	slsa, err := provenance.EncodeSLSA(set, f.detectBuilder(os.Getenv))
	if err != nil {
		return nil, fmt.Errorf("provenance: %w", err)
	}
	return []sign.Statement{{Type: typeCycloneDX, Predicate: cyclonedx}, {Type: typeSPDX, Predicate: spdx}, {Type: typeProvenance, Predicate: slsa}}, nil
}

// detectBuilder returns who builds, as far as the environment tells: on a CI the workflow, which is what
// policies name, and its run.
func (f *builderFlags) detectBuilder(getenv func(string) string) provenance.Builder {
	b := provenance.Builder{ID: f.id, Version: programVersion()}
	if server, workflow := getenv("GITHUB_SERVER_URL"), getenv("GITHUB_WORKFLOW_REF"); server != "" && workflow != "" {
		b.ID = cmp.Or(b.ID, server+"/"+workflow)
		b.Invocation = fmt.Sprintf("%s/%s/actions/runs/%s/attempts/%s", server, getenv("GITHUB_REPOSITORY"), getenv("GITHUB_RUN_ID"), getenv("GITHUB_RUN_ATTEMPT"))
	} else if project := getenv("CI_PROJECT_URL"); project != "" {
		b.ID = cmp.Or(b.ID, project+"//"+cmp.Or(getenv("CI_CONFIG_PATH"), ".gitlab-ci.yml")+"@"+getenv("CI_COMMIT_REF_NAME"))
		b.Invocation = getenv("CI_JOB_URL")
	}
	b.ID = cmp.Or(b.ID, "https://krtpkg.dev/cli")
	return b
}

func (a *app) attestCommand() *cobra.Command {
	var o struct {
		signFlags
		predicateType, predicate string
	}
	cmd := &cobra.Command{
		Use:   "attest (--key KEY | --keyless) --type TYPE --predicate FILE REFERENCE",
		Short: "attach a signed attestation: test results, a vulnerability report",
		Long: `Attest attaches a signed in-toto attestation with the predicate in FILE to the digest that the
reference names. It travels with every copy, verify shows it, and a policy file can require it.
An attestation does not count as a signature.

Types are URIs, or cosign's names: slsaprovenance1, spdxjson, cyclonedx, vuln, openvex, custom.`,
		Example: `  krtpkg attest --key cosign.key --type vuln --predicate report.json registry.example/krt/edge:1.0.0
  krtpkg attest --key cosign.key --type https://krt.example/tests/v1 --predicate - oci:dist:1.0.0 < results.json`,
		GroupID: groupTrust,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runAttest(cmd.Context(), args[0], &o.signFlags, trust.PredicateType(o.predicateType), o.predicate)
		},
	}
	o.addSignFlags(cmd)
	cmd.Flags().StringVar(&o.predicateType, "type", "", "type of the predicate")
	cmd.Flags().StringVar(&o.predicate, "predicate", "", "file of the predicate, JSON; - is standard input")
	_ = cmd.RegisterFlagCompletionFunc("type", completeTypes)
	requireFlags(cmd, "type", "predicate")
	return cmd
}

// maxPredicate is half of what a verifier reads.
const maxPredicate = 8 << 20

func (a *app) runAttest(ctx context.Context, reference string, f *signFlags, predicateType, file string) error {
	options, err := a.signOptions(ctx, f)
	if err != nil {
		return err
	}
	in := a.ui.In
	if file != "-" {
		opened, err := os.Open(file)
		if err != nil {
			return fmt.Errorf("predicate: %w", err)
		}
		defer opened.Close()
		in = opened
	}
	data, err := io.ReadAll(io.LimitReader(in, maxPredicate+1))
	switch {
	case err != nil:
		return fmt.Errorf("predicate: %w", err)
	case len(data) > maxPredicate:
		return fmt.Errorf("predicate %s has more than %d bytes", file, maxPredicate)
	case !json.Valid(data):
		return fmt.Errorf("predicate %s is not JSON", file)
	}
	at, err := a.openReference(ctx, reference)
	if err != nil {
		return err
	}
	set, err := a.openSet(ctx, at)
	if err != nil {
		return err
	}
	options.Reference = nameOf(at, set)
	return a.attachAndSave(ctx, at, set, f, func(store place.Target) ([]sign.Attached, error) {
		return sign.Attest(ctx, store, at.root, []sign.Statement{{Type: predicateType, Predicate: data}}, options)
	})
}

func (a *app) sbomCommand() *cobra.Command {
	var t trustFlags
	format := "cyclonedx"
	cmd := &cobra.Command{
		Use:   "sbom REFERENCE",
		Short: "print the bill of materials of a bundle or a runtime",
		Long: `Sbom prints the bill of materials of a runtime: its bundles, their sources and the images, with
versions, licences and digests.

With --key, --certificate-identity or --policy it prints the attested one and fails if there is
none. Without, it computes it from the artifact.`,
		Example: `  krtpkg sbom registry.example/krt/edge:1.0.0 > edge.cdx.json
  krtpkg sbom --format spdx --key cosign.pub registry.example/krt/edge:1.0.0`,
		GroupID: groupLook,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch format {
			case "cyclonedx":
				return a.printPredicate(cmd.Context(), args[0], &t, typeCycloneDX, sbom.CycloneDX)
			case "spdx":
				return a.printPredicate(cmd.Context(), args[0], &t, typeSPDX, sbom.SPDX)
			}
			return &usageError{fmt.Errorf("--format %s: want cyclonedx or spdx", format)}
		},
	}
	cmd.Flags().StringVar(&format, "format", format, "cyclonedx (1.6) or spdx (2.3)")
	_ = cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"cyclonedx", "spdx"}, cobra.ShellCompDirectiveNoFileComp))
	t.addTrustFlags(cmd)
	t.addUnsigned(cmd, "print what the artifact contains, even if a policy file would refuse it")
	return cmd
}

func (a *app) provenanceCommand() *cobra.Command {
	var t trustFlags
	cmd := &cobra.Command{
		Use:   "provenance REFERENCE",
		Short: "print how a bundle or a runtime was built: sources and builder",
		Long: `Provenance prints the SLSA provenance: every source with its digest, and the builder.

With --key, --certificate-identity or --policy it prints the attested one and fails if there is
none. Without, it computes it from the artifact, which does not know its builder.`,
		Example: "  krtpkg provenance --key cosign.pub registry.example/krt/edge:1.0.0",
		GroupID: groupLook,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.printPredicate(cmd.Context(), args[0], &t, typeProvenance, func(set *bundle.Set) ([]byte, error) {
				return provenance.EncodeSLSA(set, provenance.Builder{ID: "https://krtpkg.dev/unknown"})
			})
		},
	}
	t.addTrustFlags(cmd)
	t.addUnsigned(cmd, "print what the artifact contains, even if a policy file would refuse it")
	return cmd
}

// printPredicate prints what was attested, if anyone is to be trusted, and else what the artifact
// itself says.
func (a *app) printPredicate(ctx context.Context, reference string, t *trustFlags, predicateType string, compute func(*bundle.Set) ([]byte, error)) error {
	at, err := a.openReference(ctx, reference)
	if err != nil {
		return err
	}
	var document json.RawMessage
	policy, err := a.loadTrust(ctx, t)
	if err != nil {
		return err
	}
	if policy != nil {
		result, err := a.verifyRoot(ctx, at, policy)
		if err != nil {
			return err
		}
		for _, s := range result.Attestations {
			if s.PredicateType == predicateType {
				document = s.Predicate
			}
		}
		if _, err := a.openSet(ctx, at); err != nil {
			return err
		}
		if document == nil {
			return fmt.Errorf("%s: %w: no attestation %s by a trusted signer", at.pinnedReference(), trust.ErrRefused, predicateType)
		}
	} else {
		set, err := a.openSet(ctx, at)
		if err != nil {
			return err
		}
		if document, err = compute(set); err != nil {
			return err
		}
	}
	var value any
	if err := json.Unmarshal(document, &value); err != nil {
		return errors.Join(errors.New("attested predicate is not JSON"), err)
	}
	return a.ui.Result("json", document, nil)
}
