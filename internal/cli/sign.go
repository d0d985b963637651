package cli

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/sign"
)

// passwordVariable is cosign's.
const passwordVariable = "COSIGN_PASSWORD"

func (a *app) passphrase(file string) func() ([]byte, error) {
	return func() ([]byte, error) {
		if text, set := os.LookupEnv(passwordVariable); set {
			return []byte(text), nil
		}
		passphrase, err := a.ui.Password("Passphrase for " + file + ": ")
		if err != nil {
			return nil, fmt.Errorf("passphrase of %s: %w: set %s", file, err, passwordVariable)
		}
		return passphrase, nil
	}
}

func (a *app) signCommand() *cobra.Command {
	var o signOptions
	cmd := &cobra.Command{
		Use:   "sign --key KEY REFERENCE",
		Short: "sign a bundle or a runtime",
		Long: `Sign attaches a signature of the digest that the reference stands for. The root's lock
names everything else by digest, so this one signature covers the whole runtime.

By default the signature is stored in both forms that cosign knows: the tag of cosign 2 and
the bundle of cosign 3. The passphrase of an encrypted key is taken from $COSIGN_PASSWORD or
asked for.`,
		Example: `  krtpkg sign --key cosign.key registry.example/krt/edge:1.0.0
  krtpkg sign --key cosign.key -a stage=candidate oci:dist:1.0.0`,
		GroupID: groupTrust,
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.sign(cmd.Context(), args[0], o) },
	}
	flags := cmd.Flags()
	flags.StringVar(&o.key, "key", "", "private key file: of cosign, or any PEM")
	flags.StringToStringVarP(&o.annotations, "annotation", "a", nil, "claim to sign along, as KEY=VALUE")
	flags.StringVar(&o.storage, "signature-format", "both", "how it is stored: bundle (cosign 3), legacy (cosign 2) or both")
	required(cmd, "key")
	_ = cmd.RegisterFlagCompletionFunc("signature-format", cobra.FixedCompletions([]string{"both", "bundle", "legacy"}, cobra.ShellCompDirectiveNoFileComp))
	outputFlag(cmd, &o.format)
	return cmd
}

type signOptions struct {
	key         string
	annotations map[string]string
	storage     string
	format      ui.Format
}

func (a *app) sign(ctx context.Context, reference string, o signOptions) error {
	forms, known := map[string][]sign.Form{
		"both": nil, "bundle": {sign.Bundle}, "legacy": {sign.Legacy},
	}[o.storage]
	if !known {
		return &usageError{fmt.Errorf("--signature-format %s: want bundle, legacy or both", o.storage)}
	}
	pem, err := os.ReadFile(o.key)
	if err != nil {
		return fmt.Errorf("key: %w", err)
	}
	signer, err := sign.LoadSigner(pem, a.passphrase(o.key))
	if err != nil {
		return fmt.Errorf("key %s: %w", o.key, err)
	}
	at, err := a.open(ctx, reference)
	if err != nil {
		return err
	}
	// A signature says: this is ours. It is given to nothing that we can't read.
	m, err := bundle.ReadManifest(ctx, at.store, at.root)
	if err != nil {
		return err
	}
	name := at.Repository
	if name == "" {
		name = titleOf(m)
	}
	store, err := at.Create(ctx, at.client)
	if err != nil {
		return err
	}
	attached, err := sign.Sign(ctx, store, at.root, sign.SignOptions{
		Signer: signer, Reference: name, Annotations: o.annotations, Forms: forms,
	})
	if err != nil {
		return err
	}
	for _, s := range attached {
		if s.Existing {
			a.ui.Say("%s signature of %s by key %s was there already", s.Form, at.root.Digest, s.KeyID)
			continue
		}
		a.ui.Say("%s signature of %s by key %s", s.Form, at.root.Digest, s.KeyID)
	}
	return a.ui.Result(o.format, map[string]any{"digest": at.root.Digest, "signatures": attached}, func(w io.Writer) {
		fmt.Fprintln(w, at.pinned())
	})
}
