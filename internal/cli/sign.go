package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/sign"
)

func (a *app) keygenCommand() *cobra.Command {
	var prefix string
	cmd := &cobra.Command{
		Use:   "keygen",
		Short: "make a key pair for signing, as cosign does",
		Long: `Keygen writes PREFIX.key, encrypted, and PREFIX.pub. The passphrase is taken from
$COSIGN_PASSWORD or asked for. Files that are there are never overwritten.`,
		Example: "  krtpkg keygen",
		GroupID: groupTrust,
		Args:    cobra.NoArgs,
		RunE:    func(*cobra.Command, []string) error { return a.keygen(prefix) },
	}
	cmd.Flags().StringVar(&prefix, "output-key-prefix", "cosign", "name of the files")
	return cmd
}

func (a *app) keygen(prefix string) error {
	keyFile, pubFile := prefix+".key", prefix+".pub"
	for _, file := range []string{keyFile, pubFile} {
		if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is there already", file)
		}
	}
	passphrase, err := a.newPassphrase()
	if err != nil {
		return err
	}
	private, public, err := sign.GenerateKeyPair(passphrase)
	if err != nil {
		return err
	}
	if err := create(keyFile, private, 0o600); err != nil {
		return err
	}
	if err := create(pubFile, public, 0o644); err != nil {
		return errors.Join(err, os.Remove(keyFile))
	}
	a.ui.Say("wrote %s (keep it secret) and %s", keyFile, pubFile)
	return nil
}

func create(name string, data []byte, mode fs.FileMode) error {
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	return errors.Join(err, file.Close())
}

// passwordVariable is cosign's.
const passwordVariable = "COSIGN_PASSWORD"

func (a *app) newPassphrase() ([]byte, error) {
	if text, set := os.LookupEnv(passwordVariable); set {
		return []byte(text), nil
	}
	first, err := a.ui.Password("Passphrase for the new key: ")
	if err != nil {
		return nil, fmt.Errorf("passphrase: %w: set %s", err, passwordVariable)
	}
	second, err := a.ui.Password("The same again: ")
	if err != nil {
		return nil, err
	}
	if string(first) != string(second) {
		return nil, fmt.Errorf("the passphrases differ")
	}
	return first, nil
}

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
	attached, err := sign.Sign(ctx, at.store, at.root, sign.SignOptions{
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

func (a *app) verifyCommand() *cobra.Command {
	var o struct {
		keys   []string
		format ui.Format
	}
	cmd := &cobra.Command{
		Use:   "verify --key KEY REFERENCE",
		Short: "verify the signature and every byte of a bundle or a runtime",
		Long: `Verify checks that the root was signed by one of the keys, and then that the root and
every nested bundle are, byte for byte, what the signed digest says. It asks nothing but the
place that the reference names.

The exit code is 3 if anything does not hold.`,
		Example: "  krtpkg verify --key cosign.pub registry.example/krt/edge:1.0.0",
		GroupID: groupTrust,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.verify(cmd.Context(), args[0], o.keys, o.format)
		},
	}
	keyFlag(cmd, &o.keys)
	required(cmd, "key")
	outputFlag(cmd, &o.format)
	return cmd
}

func keyFlag(cmd *cobra.Command, keys *[]string) {
	cmd.Flags().StringArrayVar(keys, "key", nil, "file of a public key to trust; given more than once, any of them will do")
}

func (a *app) verify(ctx context.Context, reference string, keys []string, format ui.Format) error {
	at, err := a.open(ctx, reference)
	if err != nil {
		return err
	}
	result, err := a.verifyRoot(ctx, at, keys)
	if err != nil {
		return err
	}
	set, err := bundle.OpenSet(ctx, at.store, at.root)
	if err != nil {
		return err
	}
	view := verifyView{Reference: at.pinned(), Result: result, Bundles: []string{}, Rejected: []string{}}
	for _, b := range set.Bundles {
		view.Bundles = append(view.Bundles, b.Descriptor.Digest.String())
	}
	for _, r := range result.Rejected {
		view.Rejected = append(view.Rejected, fmt.Sprintf("%s: %v", r.Object, r.Err))
	}
	return a.ui.Result(format, view, func(w io.Writer) {
		fmt.Fprintf(w, "%s\n", view.Reference)
		for _, v := range result.Verified {
			fmt.Fprintf(w, "  signed by\tkey %s\n  stored as\t%s\n", v.KeyID, v.Object)
			for _, claim := range claims(v) {
				fmt.Fprintf(w, "  claim\t%s\n", claim)
			}
		}
		for _, r := range view.Rejected {
			fmt.Fprintf(w, "  not counted\t%s\n", r)
		}
		fmt.Fprintf(w, "  intact\t%s\n", plural(len(view.Bundles), "bundle"))
	})
}

func claims(v sign.Verified) []string {
	var list []string
	if v.Reference != "" {
		list = append(list, "reference "+v.Reference)
	}
	for _, key := range sortedKeys(v.Annotations) {
		list = append(list, fmt.Sprintf("%s=%v", key, v.Annotations[key]))
	}
	return list
}

// verifyView is the result of verify for programs.
type verifyView struct {
	Reference string `json:"reference"`
	*sign.Result
	Rejected []string `json:"rejected"`
	Bundles  []string `json:"bundles"`
}

// verifyRoot verifies the signature of what a reference leads to.
func (a *app) verifyRoot(ctx context.Context, at *opened, keyFiles []string) (*sign.Result, error) {
	keys := make([]*sign.Key, len(keyFiles))
	for i, file := range keyFiles {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("key: %w", err)
		}
		if keys[i], err = sign.LoadPublicKey(pem); err != nil {
			return nil, fmt.Errorf("key %s: %w", file, err)
		}
	}
	policy, err := sign.KeyPolicy(keys...)
	if err != nil {
		return nil, &usageError{err}
	}
	result, err := sign.Verify(ctx, at.store, at.root, policy)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", strings.TrimSuffix(at.pinned(), "@"+at.root.Digest.String()), err)
	}
	return result, nil
}
