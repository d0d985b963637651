package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/place"
	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/result"
	"krtpkg.dev/krtpkg/pkg/sign"
)

// passwordVariable is cosign's.
const passwordVariable = "COSIGN_PASSWORD"

// The services of Sigstore that anyone may use.
const (
	publicFulcio = "https://fulcio.sigstore.dev"
	publicRekor  = "https://rekor.sigstore.dev"
)

// readPassphrase returns what reads the passphrase of a key file. hint says what to do where nobody can be asked.
func (a *app) readPassphrase(ctx context.Context, file, passwordFile, hint string) func() ([]byte, error) {
	return func() ([]byte, error) {
		if passwordFile != "" {
			data, err := os.ReadFile(passwordFile)
			return []byte(strings.TrimRight(string(data), "\r\n")), err
		}
		if text, set := os.LookupEnv(passwordVariable); set {
			return []byte(text), nil
		}
		passphrase, err := a.askPassword(ctx, "Passphrase for "+file+":", hint)
		if err != nil {
			return nil, fmt.Errorf("passphrase of %s: %w", file, err)
		}
		return passphrase, nil
	}
}

// signFlags say who signs, and with which proofs.
type signFlags struct {
	key, passwordFile string
	// passwordHint names where a passphrase can come from; empty for the environment alone.
	passwordHint       string
	certificate, chain string
	keyless            bool
	token, fulcio      string
	rekor, timestamp   string
	annotations        map[string]string
	storage            string
	format             ui.Format
	logged             func() bool // whether --rekor-url was given
}

func (f *signFlags) addSignFlags(cmd *cobra.Command) {
	f.passwordHint = "set " + passwordVariable + " or pass --password-file"
	flags := cmd.Flags()
	flags.StringVar(&f.key, "key", "", "private key: a file of cosign or any PEM, or a URI: hashivault://, awskms://, gcpkms://, azurekms://, pkcs11:")
	flags.StringVar(&f.passwordFile, "password-file", "", "file that holds the passphrase of the key (default: $"+passwordVariable+", or a prompt)")
	flags.StringVar(&f.certificate, "certificate", "", "file of a certificate for the key, of a private PKI")
	flags.StringVar(&f.chain, "certificate-chain", "", "file of the intermediates of that certificate")
	flags.BoolVar(&f.keyless, "keyless", false, "sign with a certificate of Fulcio for this run, and log the signature in Rekor")
	flags.StringVar(&f.token, "identity-token", "", "OpenID Connect token for --keyless: a file, or the token (default: $SIGSTORE_ID_TOKEN, or what the CI offers)")
	flags.StringVar(&f.fulcio, "fulcio-url", publicFulcio, "certificate authority for --keyless")
	flags.StringVar(&f.rekor, "rekor-url", "", "transparency log for the signature (with --keyless: "+publicRekor+"; \"\" for none)")
	flags.StringVar(&f.timestamp, "timestamp-server-url", "", "timestamp authority (RFC 3161) for the signature")
	flags.StringToStringVarP(&f.annotations, "annotation", "a", nil, "signed annotation, as KEY=VALUE")
	flags.StringVar(&f.storage, "signature-format", "both", "storage format: bundle (cosign 3), legacy (cosign 2) or both")
	_ = cmd.RegisterFlagCompletionFunc("signature-format", cobra.FixedCompletions([]string{"both", "bundle", "legacy"}, cobra.ShellCompDirectiveNoFileComp))
	f.logged = func() bool { return flags.Changed("rekor-url") }
	outputFlag(cmd, &f.format)
}

// options are the flags for the library.
func (a *app) signOptions(ctx context.Context, f *signFlags) (o sign.SignOptions, err error) {
	forms, known := map[string][]sign.Form{
		"both": nil, "bundle": {sign.Bundle}, "legacy": {sign.Legacy},
	}[f.storage]
	switch {
	case !known:
		err = fmt.Errorf("--signature-format %s: want bundle, legacy or both", f.storage)
	case (f.key == "") != f.keyless:
		err = errors.New("signer required: pass --key or --keyless")
	case f.keyless && f.certificate+f.chain != "":
		err = errors.New("--keyless cannot be used with --certificate: Fulcio issues the certificate")
	case f.chain != "" && f.certificate == "":
		err = errors.New("--certificate-chain requires --certificate")
	}
	if err != nil {
		return o, &usageError{err}
	}
	o = sign.SignOptions{Annotations: f.annotations, Forms: forms, Proofs: sign.Proofs{Log: f.rekor, Timestamp: f.timestamp}}
	if f.keyless && !f.logged() {
		o.Proofs.Log = publicRekor
	}
	o.Signer, err = a.newSigner(ctx, f)
	return o, err
}

func (a *app) newSigner(ctx context.Context, f *signFlags) (*sign.Signer, error) {
	if f.keyless {
		token, err := identityToken(ctx, f.token)
		if err != nil {
			return nil, err
		}
		return sign.NewKeylessSigner(ctx, f.fulcio, token)
	}
	if sign.IsKeyURI(f.key) {
		return f.addCertificate(sign.OpenSigner(ctx, f.key))
	}
	pem, err := os.ReadFile(f.key)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	signer, err := sign.LoadSigner(pem, a.readPassphrase(ctx, f.key, f.passwordFile, cmp.Or(f.passwordHint, "set "+passwordVariable)))
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", f.key, err)
	}
	return f.addCertificate(signer, nil)
}

// addCertificate returns the signer with its certificate, if it has one.
func (f *signFlags) addCertificate(signer *sign.Signer, err error) (*sign.Signer, error) {
	if err != nil || f.certificate == "" {
		return signer, err
	}
	certificate, err := os.ReadFile(f.certificate)
	if err != nil {
		return nil, err
	}
	var chain []byte
	if f.chain != "" {
		if chain, err = os.ReadFile(f.chain); err != nil {
			return nil, err
		}
	}
	if signer, err = signer.WithCertificate(certificate, chain); err == nil {
		err = signer.CheckTime(time.Now())
	}
	if err != nil {
		return nil, fmt.Errorf("--certificate %s: %w", f.certificate, err)
	}
	return signer, nil
}

// identityToken returns a token, one in a file, or the environment's.
func identityToken(ctx context.Context, token string) (string, error) {
	if token == "" {
		return sign.IdentityToken(ctx)
	}
	data, err := os.ReadFile(token)
	switch {
	case err == nil:
		return string(data), nil
	case strings.Count(token, ".") == 2:
		return token, nil
	}
	return "", fmt.Errorf("identity token: not a token, and %w", err)
}

type signOptions struct {
	signFlags
	noAttestations bool
	builder        builderFlags
}

func (a *app) signCommand() *cobra.Command {
	var o signOptions
	cmd := &cobra.Command{
		Use:   "sign (--key KEY | --keyless) REFERENCE",
		Short: "sign a bundle or a runtime",
		Long: `Sign attaches a signature to the digest that the reference names, in a registry, a folder or an
archive. The root's lock names everything else by digest, so this one signature covers the whole
runtime. Sign also attaches signed attestations: the SBOM (CycloneDX and SPDX) and the provenance
(SLSA).

By default both of cosign's formats are written: the tags of cosign 2 and the bundles of cosign 3.
The passphrase of an encrypted key comes from $COSIGN_PASSWORD or a prompt.`,
		Example: `  krtpkg sign --key cosign.key registry.example/krt/edge:1.0.0
  krtpkg sign --key hashivault://release -a stage=candidate registry.example/krt/edge:1.0.0
  krtpkg sign --key release.pem --certificate release.crt --certificate-chain ca.pem edge-1.0.0.tar
  krtpkg sign --keyless registry.example/krt/edge:1.0.0`,
		GroupID: groupTrust,
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.runSign(cmd.Context(), args[0], &o) },
	}
	o.addSignFlags(cmd)
	o.builder.addBuilderFlags(cmd)
	cmd.Flags().BoolVar(&o.noAttestations, "no-attestations", false, "sign only, without attesting SBOM and provenance")
	return cmd
}

func (a *app) runSign(ctx context.Context, reference string, o *signOptions) error {
	options, err := a.signOptions(ctx, &o.signFlags)
	if err != nil {
		return err
	}
	at, err := a.openReference(ctx, reference)
	if err != nil {
		return err
	}
	// A signature says: this is ours. It is given to nothing that we cannot read.
	set, err := a.openSet(ctx, at)
	if err != nil {
		return err
	}
	options.Reference = nameOf(at, set)
	var statements []sign.Statement
	if !o.noAttestations {
		if statements, err = o.builder.buildStatements(set); err != nil {
			return err
		}
	}
	return a.attachAndSave(ctx, at, set, &o.signFlags, func(store place.Target) ([]sign.Attached, error) {
		attached, err := sign.Sign(ctx, store, at.root, options)
		if err != nil {
			return attached, err
		}
		attested, err := sign.Attest(ctx, store, at.root, statements, options)
		return append(attached, attested...), err
	})
}

// nameOf returns what a signature claims that the root is called.
func nameOf(at *openedReference, set *bundle.Set) string {
	return cmp.Or(at.Repository, titleOf(&set.Root.Manifest))
}

// attachAndSave has something attached to what a reference leads to, and says what.
func (a *app) attachAndSave(ctx context.Context, at *openedReference, set *bundle.Set, f *signFlags, do func(place.Target) ([]sign.Attached, error)) error {
	store, save, err := a.openWritable(ctx, at)
	if err != nil {
		return err
	}
	var attached []sign.Attached
	err = sign.GatherReferrers(ctx, store, func(context.Context) (err error) {
		attached, err = do(store)
		return err
	})
	if err == nil {
		err = save()
	}
	if err != nil {
		return err
	}
	a.sayAttached(at, attached)
	r := &result.Attach{Artifact: describeArtifact(&set.Root.Content, at.root.Digest, at.pinnedReference()), Attached: append([]sign.Attached{}, attached...)}
	return a.printResult(ctx, f.format, r, nil, func(w io.Writer) { ui.Fprintln(w, at.pinnedReference()) })
}

// sayAttached says what was attached: a line for what is in both forms.
func (a *app) sayAttached(at *openedReference, attached []sign.Attached) {
	var order []string
	forms := map[string][]string{}
	for _, s := range attached {
		what, by := "signed", "key "+s.KeyID
		if s.PredicateType != "" {
			what = "attested " + s.PredicateType + " of"
		}
		if s.Existing {
			what = "already " + what
		}
		if s.Subject != "" {
			by = s.Subject
		}
		line := fmt.Sprintf("%s %s by %s", what, at.root.Digest, by)
		if forms[line] == nil {
			order = append(order, line)
		}
		forms[line] = append(forms[line], string(s.Form))
	}
	for _, line := range order {
		a.ui.Say("%s (%s)", line, strings.Join(forms[line], ", "))
	}
}

// openWritable returns the place of a reference to write to, and what makes it last.
func (a *app) openWritable(ctx context.Context, at *openedReference) (place.Target, func() error, error) {
	if at.File == "" {
		store, err := at.Create(ctx, at.client)
		return store, func() error { return nil }, err
	}
	amended, err := archive.OpenAmendment(ctx, at.File)
	if err != nil {
		return nil, nil, err
	}
	return amended, func() error {
		_, err := amended.Save(ctx, a.ui.Progress("write"))
		return errors.Join(err, amended.Close())
	}, nil
}
