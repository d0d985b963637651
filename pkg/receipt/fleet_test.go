package receipt_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/pkg/receipt"
)

// A file without end is not read into memory.
func TestLargeFleet(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "fleet.yaml")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, 1<<40); err != nil {
		t.Fatal(err)
	}
	if _, err := receipt.LoadFleet(name); err == nil || !strings.Contains(err.Error(), "more than 16777216 bytes") {
		t.Error(err)
	}
}
