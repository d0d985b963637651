package bundles_test

import (
	"path/filepath"
	"testing"

	"krtpkg.dev/krtpkg/internal/bundletest"
	"krtpkg.dev/krtpkg/pkg/assemble"
)

// The older versions that are upgraded on a control plane build.
func TestOlderBundlesBuild(t *testing.T) {
	t.Parallel()
	site := bundletest.CopyDefinitions(t)
	older := bundletest.AddOlder(t, site, all(t))
	if len(older) < 5 {
		t.Errorf("only %d of them", len(older))
	}
	for _, r := range older {
		built, err := assemble.Build(t.Context(), filepath.Join(site, r.Path), options(t))
		if err != nil {
			t.Errorf("%s %s: %v", r.Name, r.Version, err)
			continue
		}
		renders(t, built)
	}
}
