package cli

import (
	"os"
	"path/filepath"
	"testing"
)

// A file that was meant for another one is found in whatever letters either is.
func TestCheckSpelling(t *testing.T) {
	t.Parallel()
	for wanted, there := range map[string]string{"trust.yaml": "Trust.YML", "Trust.yaml": "trust.yml", "CONFIG.yaml": "CONFIG.json"} {
		dir := t.TempDir()
		if err := checkSpelling(filepath.Join(dir, wanted)); err != nil {
			t.Errorf("%s in an empty folder: %v", wanted, err)
		}
		if err := os.WriteFile(filepath.Join(dir, there), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := checkSpelling(filepath.Join(dir, wanted)); err == nil {
			t.Errorf("%s was not found for %s", there, wanted)
		}
	}
}
