package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/result"
	"krtpkg.dev/krtpkg/pkg/trust"
)

func (a *app) trustCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "trust",
		Short: "create, show and check trust policies",
		Long: `A policy file names the trusted signers of what is applied, imported and copied, how many must
have signed, and which attestations are required (docs/TRUST.md). It is taken from --policy,
$KRTPKG_TRUST_POLICY, trustPolicy in the config file, or trust.yaml next to that.`,
		GroupID: groupTrust,
		Args:    knownCommand,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.trustInitCommand(), a.trustShowCommand(), a.trustCheckCommand(), a.trustExportCommand())
	for _, sub := range cmd.Commands() {
		sub.Args = usageArgs(sub.Args)
	}
	return cmd
}

func (a *app) trustInitCommand() *cobra.Command {
	var f trustFlags
	var match []string
	var output string
	cmd := &cobra.Command{
		Use:   "init (--key KEY | --certificate-identity SUBJECT ...)",
		Short: "write a policy file that trusts keys or an identity",
		Long: `Init writes a policy file with the keys and certificates in it, so that it can be handed to a
site. It never overwrites a file.`,
		Example: `  krtpkg trust init --key cosign.pub
  krtpkg trust init --key cosign.pub --match 'registry.example/krt/**' --output trust.yaml`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.trustInit(cmd.Context(), &f, match, output) },
	}
	f.addSignerFlags(cmd)
	cmd.Flags().StringArrayVar(&match, "match", nil, "scope of the first rule: globs of REGISTRY/REPOSITORY, or local (default: everything)")
	cmd.Flags().StringVar(&output, "output", "", "file to write (default: "+trustFileHelp()+")")
	return cmd
}

func trustFileHelp() string { return "trust.yaml next to the config file" }

func (a *app) trustInit(ctx context.Context, f *trustFlags, match []string, output string) error {
	if !f.isGiven() {
		return &usageError{errors.New("trusted signers required: pass --key or --certificate-identity")}
	}
	if _, err := a.loadTrust(ctx, f); err != nil {
		return err
	}
	file, err := f.policyFileFromFlags(match)
	if err != nil {
		return err
	}
	text, err := manifest.EncodeYAML(file)
	if err != nil {
		return err
	}
	if _, err := trust.ParsePolicy("trust.yaml", text, nil); err != nil {
		return err
	}
	if output == "" {
		if output = defaultPolicyFile(); output == "" {
			return &usageError{errors.New("no home directory: pass --output")}
		}
		if err := os.MkdirAll(filepath.Dir(output), 0o755); err != nil {
			return err
		}
	}
	if err := createFile(output, text, 0o644); err != nil {
		return err
	}
	a.ui.Say("wrote %s", output)
	return nil
}

// policyFileFromFlags returns the policy file that says what the flags say.
func (f *trustFlags) policyFileFromFlags(match []string) (*trust.File, error) {
	text := func(name string) (string, error) {
		if name == "" {
			return "", nil
		}
		data, err := os.ReadFile(name)
		return string(data), err
	}
	if len(match) == 0 {
		match = []string{"**"}
	}
	file := &trust.File{APIVersion: trust.APIVersion, Kind: trust.Kind, Rules: []trust.Rule{{Match: match}}}
	add := func(a trust.Authority) (err error) {
		if a.TrustedRoot, err = text(f.trustedRoot); err != nil {
			return err
		}
		if a.Certificates, err = text(f.caRoots); err != nil {
			return err
		}
		if a.Timestamps, err = text(f.timestamps); err != nil {
			return err
		}
		file.Authorities = append(file.Authorities, a)
		return nil
	}
	for _, name := range f.keys {
		key, err := text(name)
		if err != nil {
			return nil, fmt.Errorf("key: %w", err)
		}
		// The file's name is what people call the key.
		title := strings.TrimSuffix(filepath.Base(name), filepath.Ext(name))
		if err := add(trust.Authority{Name: title, Key: key}); err != nil {
			return nil, err
		}
	}
	if f.identity+f.identityRegExp != "" {
		err := add(trust.Authority{Name: f.identity + f.identityRegExp, Identity: &trust.Identity{
			Subject: f.identity, SubjectRegExp: f.identityRegExp, Issuer: f.issuer, IssuerRegExp: f.issuerRegExp,
		}})
		if err != nil {
			return nil, err
		}
	}
	return file, nil
}

// loadPolicy returns the policy file that there must be.
func (a *app) loadPolicy(flag string) (*trust.Policy, error) {
	file, err := a.policyFile(flag)
	if err != nil {
		return nil, err
	}
	if file == "" {
		return nil, &usageError{fmt.Errorf("no policy file found: create %s with krtpkg trust init, or pass --policy", defaultPolicyFile())}
	}
	return trust.LoadPolicy(file)
}

func policyFlag(cmd *cobra.Command, policy *string) {
	cmd.Flags().StringVar(policy, "policy", "", "policy file (also $"+policyVariable+", or trust.yaml next to the config file)")
}

func (a *app) trustShowCommand() *cobra.Command {
	var policy string
	var format ui.Format
	cmd := &cobra.Command{
		Use:     "show",
		Short:   "show the trusted signers and rules of the policy",
		Example: "  krtpkg trust show",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := a.loadPolicy(policy)
			if err != nil {
				return err
			}
			view := newPolicyView(p)
			return a.printResult(cmd.Context(), format, view, nil, view.writeText)
		},
	}
	policyFlag(cmd, &policy)
	outputFlag(cmd, &format)
	return cmd
}

// policyView is a policy as trust show shows it.
type policyView struct{ result.Trust }

func newPolicyView(p *trust.Policy) *policyView {
	v := &policyView{result.Trust{File: p.Name, Digest: p.Digest.String(), Authorities: []result.Authority{}, Rules: describeRules(p, p.File.Rules), ImageRules: describeRules(p, p.File.Images), Revoked: []string{}}}
	for _, a := range p.File.Authorities {
		one := result.Authority{Name: a.Name, KeyID: p.KeyID(a.Name), Counts: true}
		if i := a.Identity; i != nil {
			one.Subject, one.Issuer = i.Subject+i.SubjectRegExp, i.Issuer+i.IssuerRegExp
		}
		now := time.Now()
		if !a.NotBefore.IsZero() {
			one.NotBefore, one.Counts = a.NotBefore.UTC().Format(time.RFC3339), one.Counts && !now.Before(a.NotBefore)
		}
		if !a.NotAfter.IsZero() {
			one.NotAfter, one.Counts = a.NotAfter.UTC().Format(time.RFC3339), one.Counts && !now.After(a.NotAfter)
		}
		for _, id := range p.File.Revoked.Keys {
			one.Counts = one.Counts && id != one.KeyID
		}
		v.Authorities = append(v.Authorities, one)
	}
	v.Revoked = append(append(v.Revoked, p.File.Revoked.Keys...), p.File.Revoked.Digests...)
	return v
}

// ruleTarget returns what a rule is for.
func ruleTarget(r result.TrustRule) string {
	match := strings.Join(r.Match, ", ")
	if len(r.Names) > 0 {
		match += " named " + strings.Join(r.Names, ", ")
	}
	if r.MinAge != "" {
		match += " signed " + r.MinAge + " ago"
	}
	if c := r.Channels; c != nil {
		match += ", stale channels: " + c.Stale
		if c.MaxAge != "" {
			match += " after " + c.MaxAge
		}
	}
	return match
}

func describeRules(p *trust.Policy, from []trust.Rule) []result.TrustRule {
	views := []result.TrustRule{}
	for _, r := range from {
		v := result.TrustRule{Match: append([]string{}, r.Match...), Authorities: append([]string{}, r.Authorities...), Threshold: max(r.Threshold, 1), Attestations: []string{}, Names: r.Names}
		if len(v.Authorities) == 0 {
			for _, a := range p.File.Authorities {
				v.Authorities = append(v.Authorities, a.Name)
			}
		}
		for _, q := range r.Attestations {
			v.Attestations = append(v.Attestations, trust.PredicateType(q.Type))
		}
		if r.MinAge != 0 {
			v.MinAge = r.MinAge.String()
		}
		if c := r.Channels; c != nil {
			v.Channels = &result.ChannelRule{Stale: cmp.Or(c.Stale, trust.WarnStale)}
			if c.MaxAge != 0 {
				v.Channels.MaxAge = c.MaxAge.String()
			}
		}
		views = append(views, v)
	}
	return views
}

func (v *policyView) writeText(w io.Writer) {
	ui.Fprintf(w, "%s\n\nAUTHORITY\tKEY OR IDENTITY\tFROM\tUNTIL\n", v.File)
	for _, a := range v.Authorities {
		who := a.KeyID
		if a.Subject != "" {
			who = strings.TrimSuffix(a.Subject+", issued by "+a.Issuer, ", issued by ")
		}
		if !a.Counts {
			who += " (does not count now)"
		}
		ui.Fprintf(w, "%s\t%s\t%s\t%s\n", a.Name, who, dashIfEmpty(a.NotBefore), dashIfEmpty(a.NotAfter))
	}
	for _, list := range []struct {
		title string
		rules []result.TrustRule
	}{{"RULE FOR", v.Rules}, {"RULE FOR IMAGES", v.ImageRules}} {
		if len(list.rules) == 0 {
			continue
		}
		ui.Fprintf(w, "\n%s\tSIGNED BY\tATTESTED\n", list.title)
		for _, r := range list.rules {
			ui.Fprintf(w, "%s\t%d of %s\t%s\n", ruleTarget(r), r.Threshold, strings.Join(r.Authorities, ", "), dashIfEmpty(strings.Join(r.Attestations, ", ")))
		}
	}
	for _, id := range v.Revoked {
		ui.Fprintf(w, "\nrevoked: %s", id)
	}
	if len(v.Revoked) > 0 {
		ui.Fprintln(w)
	}
}

func dashIfEmpty(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func (a *app) trustCheckCommand() *cobra.Command {
	var policy string
	cmd := &cobra.Command{
		Use:   "check [REFERENCE]",
		Short: "check the policy file, and a reference against it",
		Long: `Check reads the policy file and all files that it names, and reports signers that do not count
now. With a reference it shows the matching rule and whether the reference passes. The exit code
is 3 if it does not.`,
		Example: `  krtpkg trust check
  krtpkg trust check registry.example/krt/edge:1.0.0`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.trustCheck(cmd.Context(), policy, args) },
	}
	policyFlag(cmd, &policy)
	return cmd
}

func (a *app) trustCheck(ctx context.Context, file string, references []string) error {
	policy, err := a.loadPolicy(file)
	if err != nil {
		return err
	}
	for _, one := range newPolicyView(policy).Authorities {
		if !one.Counts {
			a.ui.Note("%s: authority %s does not count now: revoked, or outside of its validity period", policy.Name, one.Name)
		}
	}
	if len(references) == 0 {
		return a.ui.Result("", nil, func(w io.Writer) { ui.Fprintf(w, "%s is valid\n", policy.Name) })
	}
	at, err := a.openReference(ctx, references[0])
	if err != nil {
		return err
	}
	rule, err := policy.FindRule(policyPlace(at.Place))
	if err != nil {
		return err
	}
	a.ui.Say("the rule for %s is %s", policyPlace(at.Place), strings.Join(rule.Match, ", "))
	result, err := a.verifyRoot(ctx, at, policy)
	if err != nil {
		return err
	}
	if _, err := a.openSet(ctx, at); err != nil {
		return err
	}
	return a.ui.Result("", nil, func(w io.Writer) {
		ui.Fprintf(w, "%s passes: signed by %s\n", at.pinnedReference(), signerNames(result))
	})
}
