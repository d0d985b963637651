package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"krtpkg.dev/krtpkg/pkg/deploy"
)

// TestHintedFlags: commands that end with a hint to a flag have that flag.
func TestHintedFlags(t *testing.T) {
	a := &app{}
	for _, command := range []*cobra.Command{a.planCommand(), a.applyCommand(), a.rollbackCommand(), a.deleteCommand(), a.packagesInstallCommand()} {
		flags := []string{"delete-foreign"}
		if command.Name() != "delete" {
			flags = append(flags, "take-over", "skip-check")
		}
		for _, flag := range flags {
			if command.Flags().Lookup(flag) == nil {
				t.Errorf("%s has no --%s", command.Name(), flag)
			}
		}
	}
}

// TestWaitLine: a line that is repeated while something is waited for says for how long.
func TestWaitLine(t *testing.T) {
	e := deploy.Event{Outcome: deploy.Outcome{Bundle: "web", Layer: 6}, Message: deploy.Message{Waiting: &deploy.Waiting{
		Resource: "deployment/web", Reason: "0 of 1 ready", Hint: "the image cannot be pulled", Since: time.Now().Add(-45 * time.Second),
	}}}
	want := "layer 6 applications: web waits for deployment/web: 0 of 1 ready; the image cannot be pulled (45s so far)"
	if got := formatWaiting(e); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	e.Waiting.Since = time.Now()
	if got := formatWaiting(e); got != strings.TrimSuffix(want, " (45s so far)") {
		t.Errorf("%q at the beginning", got)
	}
}
