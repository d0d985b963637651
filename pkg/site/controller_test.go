package site_test

import (
	"errors"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/pkg/deploy"
	"krtpkg.dev/krtpkg/pkg/site"
)

// What a cluster has recorded under a name is found again by that name.
func TestControllerNames(t *testing.T) {
	t.Parallel()
	for _, name := range site.ControllerNames() {
		c := site.FindController(name)
		if c == nil || c.Name != name {
			t.Fatalf("%s: %+v", name, c)
		}
		if got := site.FindLeftOutController("edge", "edge-beside-"+name); got != c || c.LeftOutName("edge") != "edge-beside-"+name {
			t.Errorf("%s: %+v", name, got)
		}
		if got := site.FindInstallingController("edge", "edge-by-"+name); got != c || c.InstalledName("edge") != "edge-by-"+name {
			t.Errorf("%s: %+v", name, got)
		}
	}
	for _, other := range []string{"edge", "edge-by-", "edge-by-other", "edge-beside-flux-2", "other-by-flux", "edge-beside-Flux"} {
		if site.FindLeftOutController("edge", other) != nil || site.FindInstallingController("edge", other) != nil || site.FindController(other) != nil {
			t.Errorf("%s is a controller's", other)
		}
	}
}

// A bundle has nothing for a controller.
func TestControllerNeedsRuntime(t *testing.T) {
	t.Parallel()
	root := newReleases(t).release("web", "1.0.0")
	for _, name := range site.ControllerNames() {
		c := site.FindController(name)
		err := c.SelectLeftOut(t.Context(), root.Set, &deploy.Runtime{})
		if !errors.Is(err, site.ErrNoRuntime) || !strings.Contains(err.Error(), "web is a bundle") || !errors.Is(c.CheckFiles(t.Context(), root.Set), site.ErrNoRuntime) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
