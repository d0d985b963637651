package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/sign"
)

// An encrypted key without a passphrase gets a hint to what the command takes.
func TestPassphraseHint(t *testing.T) {
	t.Setenv(passwordVariable, "")
	os.Unsetenv(passwordVariable)
	private, _, err := sign.GenerateKeyPair([]byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "cosign.key")
	if err := os.WriteFile(key, private, 0o600); err != nil {
		t.Fatal(err)
	}
	a := &app{ui: &ui.UI{}}
	receipts := receiptFlags{file: key + ".json", key: key}
	if err := receipts.prepare(t.Context(), a, nil); err == nil || !strings.HasSuffix(err.Error(), ": set "+passwordVariable) {
		t.Errorf("the key of a receipt: %v", err)
	}
	for _, name := range []string{"sign", "attest", "promote"} {
		if !hasFlag(mustFind(t, name), "password-file") {
			t.Errorf("%s has no --password-file", name)
		}
	}
	var flags signFlags
	flags.addSignFlags(&cobra.Command{})
	flags.key = key
	if _, err := a.newSigner(t.Context(), &flags); err == nil || !strings.HasSuffix(err.Error(), ": set "+passwordVariable+" or pass --password-file") {
		t.Errorf("the key of a signature: %v", err)
	}
}
