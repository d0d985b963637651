package cli

import (
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/pkg/deploy"
)

// A plan begins with the version that it goes to, though no bundle has another one.
func TestPlannedVersion(t *testing.T) {
	t.Parallel()
	for from, want := range map[string]string{"1.1.0": "plant 1.1.0 → 1.2.0\n", "1.2.0": "", "": ""} {
		var text strings.Builder
		planWriter{Writer: &text}.writePlan(&deploy.Plan{Runtime: "plant", From: from, Version: "1.2.0"})
		if text.String() != want {
			t.Errorf("from %q: %q, want %q", from, text.String(), want)
		}
	}
}
