package cli

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/catalog"
	"krtpkg.dev/krtpkg/pkg/result"
	"krtpkg.dev/krtpkg/pkg/sign"
	"krtpkg.dev/krtpkg/pkg/trust"
)

func (a *app) attestationCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "attestation",
		Short: "list and print the attestations of a bundle or a runtime",
		Long: `Attestation reads back what attest, sign and promote attached: vulnerability reports, test results,
promotions, bills of materials, provenance.

With --key, --certificate-identity or --policy it shows only what trusted signers attested. Without
these, it shows what the attestations claim, without verifying it.`,
		Example: `  krtpkg attestation list registry.example/krt/edge:1.0.0
  krtpkg attestation show --key cosign.pub registry.example/krt/edge:1.0.0 vuln`,
		GroupID: groupTrust,
		Args:    knownCommand,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.attestationListCommand(), a.attestationShowCommand())
	return cmd
}

func (a *app) attestationListCommand() *cobra.Command {
	var t trustFlags
	var format ui.Format
	cmd := &cobra.Command{
		Use:   "list REFERENCE",
		Short: "list the attestations of a bundle or a runtime",
		Example: `  krtpkg attestation list registry.example/krt/edge:1.0.0
  krtpkg attestation list --policy trust.yaml -o json registry.example/krt/edge:1.0.0`,
		Args: oneReference,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.listAttestations(cmd.Context(), args[0], &t, format)
		},
	}
	t.addTrustFlags(cmd)
	t.addUnsigned(cmd, "list claims even if a policy file says who is trusted")
	outputFlag(cmd, &format)
	return cmd
}

func (a *app) listAttestations(ctx context.Context, reference string, t *trustFlags, format ui.Format) error {
	at, err := a.openReference(ctx, reference)
	if err != nil {
		return err
	}
	all, verified, err := a.findAttestations(ctx, at, t)
	if err != nil {
		return err
	}
	set, err := a.lookInto(ctx, at)
	if err != nil {
		return err
	}
	r := &result.Attestations{
		Artifact: describeArtifact(&set.Root.Content, at.root.Digest, at.pinnedReference()), Verified: verified, Attestations: all,
	}
	return a.printResult(ctx, format, r, nil, func(w io.Writer) {
		if len(all) == 0 {
			ui.Fprintln(w, "no attestations")
			return
		}
		by := "BY"
		if !verified {
			by = "BY (CLAIMED, NOT VERIFIED)"
		}
		ui.Fprintf(w, "TYPE\t%s\tTIME\tFORM\tDIGEST\n", by)
		for _, c := range all {
			ui.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", claimType(c), claimant(c), claimTime(c), c.Form, c.Manifest)
		}
	})
}

// findAttestations returns the attestations by trusted signers, if flags or the configuration say who is trusted,
// and else all, as they describe themselves.
func (a *app) findAttestations(ctx context.Context, at *openedReference, t *trustFlags) (all []sign.Claim, verified bool, err error) {
	policy, err := a.loadTrust(ctx, t)
	if err != nil {
		return nil, false, err
	}
	all = []sign.Claim{}
	if policy != nil {
		found, err := a.verifyRoot(ctx, at, policy)
		if err != nil {
			return nil, false, err
		}
		for _, v := range found.Attestations {
			all = append(all, v.Claim())
		}
		return all, true, nil
	}
	claims, err := sign.ListClaims(ctx, at.store, at.root)
	for _, c := range claims {
		if c.PredicateType != "" {
			all = append(all, c)
		}
	}
	return all, false, err
}

func (a *app) attestationShowCommand() *cobra.Command {
	var t trustFlags
	cmd := &cobra.Command{
		Use:   "show REFERENCE TYPE|DIGEST",
		Short: "print the predicate of an attestation",
		Long: `Show prints the predicate of the attestation of a type, as JSON. Types are URIs or short names:
vuln, openvex, custom, promotion, spdxjson, cyclonedx, slsaprovenance1. If several of a type
differ, name one by the digest that krtpkg attestation list prints.`,
		Example: `  krtpkg attestation show --key cosign.pub registry.example/krt/edge:1.0.0 promotion
  krtpkg attestation show registry.example/krt/edge:1.0.0 https://krt.example/tests/v1`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.showAttestation(cmd.Context(), args[0], args[1], &t)
		},
	}
	t.addTrustFlags(cmd)
	t.addUnsigned(cmd, "print claims even if a policy file says who is trusted")
	return cmd
}

func (a *app) showAttestation(ctx context.Context, reference, what string, t *trustFlags) error {
	at, err := a.openReference(ctx, reference)
	if err != nil {
		return err
	}
	all, verified, err := a.findAttestations(ctx, at, t)
	if err != nil {
		return err
	}
	found := selectPredicates(all, what)
	switch {
	case len(found) == 0 && verified:
		return &absentAttestationError{fmt.Sprintf("%s: no attestation %s by a trusted signer, only %s", at.pinnedReference(), what, listTypes(all))}
	case len(found) == 0:
		return fmt.Errorf("%s: no attestation %s found, only %s", at.pinnedReference(), what, listTypes(all))
	case len(found) > 1:
		digests := make([]string, len(found))
		for i, c := range found {
			digests[i] = c.Manifest.String()
		}
		return fmt.Errorf("%s: %d attestations %s differ: name one of %s", at.pinnedReference(), len(found), what, strings.Join(digests, ", "))
	case !verified:
		a.ui.Note("note: not verified: claimed by %s", claimant(found[0]))
	}
	return a.ui.Result("json", found[0].Predicate, nil)
}

// absentAttestationError is the error of what no trusted signer has attested.
type absentAttestationError struct{ text string }

func (e *absentAttestationError) Error() string { return e.text }

func (e *absentAttestationError) Unwrap() error { return trust.ErrRefused }

// listTypes returns the types of attestations, each once, in words.
func listTypes(all []sign.Claim) string {
	var types []string
	for _, c := range all {
		if kind := claimType(c); !slices.Contains(types, kind) {
			types = append(types, kind)
		}
	}
	return cmp.Or(strings.Join(types, ", "), "none")
}

// selectPredicates returns the attestations of a type, or that of a digest: one for each predicate, since most
// are there in two forms.
func selectPredicates(all []sign.Claim, what string) (found []sign.Claim) {
	for _, c := range all {
		if c.PredicateType != trust.PredicateType(what) && c.Manifest.String() != what {
			continue
		}
		if !slices.ContainsFunc(found, func(other sign.Claim) bool { return bytes.Equal(other.Predicate, c.Predicate) }) {
			found = append(found, c)
		}
	}
	return found
}

// claimant returns who claims to have signed.
func claimant(c sign.Claim) string { return catalog.DescribeClaimant(c) }

// claimType returns what a claim is: a signature, or the type of its predicate.
func claimType(c sign.Claim) string {
	switch {
	case c.Problem != "":
		return "unreadable: " + c.Problem
	case c.PredicateType != "":
		return c.PredicateType
	}
	return "signature"
}

func claimTime(c sign.Claim) string {
	if c.Time.IsZero() {
		return "-"
	}
	return c.Time.Format(time.RFC3339)
}
