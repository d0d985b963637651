package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/pkg/sign"
)

func (a *app) keygenCommand() *cobra.Command {
	var prefix string
	cmd := &cobra.Command{
		Use:   "keygen",
		Short: "generate a key pair for signing, in cosign's format",
		Long: `Keygen writes PREFIX.key, encrypted, and PREFIX.pub. It reads the passphrase from
$COSIGN_PASSWORD, or prompts for it. Existing files are never overwritten.`,
		Example: "  krtpkg keygen",
		GroupID: groupTrust,
		Args:    noArguments,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.runKeygen(cmd.Context(), prefix) },
	}
	cmd.Flags().StringVar(&prefix, "output-key-prefix", "cosign", "name of the files")
	return cmd
}

func (a *app) runKeygen(ctx context.Context, prefix string) error {
	keyFile, pubFile := prefix+".key", prefix+".pub"
	for _, file := range []string{keyFile, pubFile} {
		if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s already exists: name other files with --output-key-prefix", file)
		}
	}
	passphrase, err := a.newPassphrase(ctx)
	if err != nil {
		return err
	}
	private, public, err := sign.GenerateKeyPair(passphrase)
	if err != nil {
		return err
	}
	if err := createFile(keyFile, private, 0o600); err != nil {
		return err
	}
	if err := createFile(pubFile, public, 0o644); err != nil {
		return errors.Join(err, os.Remove(keyFile))
	}
	a.ui.Say("wrote %s (keep it secret) and %s", keyFile, pubFile)
	return nil
}

func createFile(name string, data []byte, mode fs.FileMode) error {
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s already exists", name)
	}
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	return errors.Join(err, file.Close())
}

func (a *app) newPassphrase(ctx context.Context) ([]byte, error) {
	if text, set := os.LookupEnv(passwordVariable); set {
		return []byte(text), nil
	}
	first, err := a.askPassword(ctx, "Passphrase for the new key:", "set "+passwordVariable)
	if err != nil {
		return nil, err
	}
	second, err := a.ui.Password(ctx, "Repeat the passphrase:")
	if err != nil {
		return nil, fmt.Errorf("passphrase: %w", err)
	}
	if string(first) != string(second) {
		return nil, fmt.Errorf("the passphrases differ")
	}
	return first, nil
}
