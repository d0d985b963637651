package render_test

import (
	"strings"
	"testing"
	"time"

	"krtpkg.dev/krtpkg/internal/peaktest"
	"krtpkg.dev/krtpkg/internal/runawaytest"
	"krtpkg.dev/krtpkg/pkg/render"
)

// Templates that run away are left behind with an error, in time and before they take the memory
// of the machine or end the program.
func TestRunaways(t *testing.T) {
	for name, in := range runawaytest.Inputs() {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			above, err := peaktest.Run(t, func(string) {}, func(string) error {
				ctx := render.WithRunner(t.Context(), render.InProcess{Limits: render.Limits{Time: 3 * time.Second, Memory: 300 << 20}})
				_, err := render.RenderSource(ctx, in)
				return err
			})
			t.Logf("%s, %d MiB: %v", time.Since(start).Round(time.Millisecond), above>>20, err)
			if err == nil || !strings.Contains(err.Error(), "rendering does not end") {
				t.Errorf("got %v", err)
			}
			// One allocation of gigabytes is seen only when it is there: a process of its own prevents it.
			if took := time.Since(start); took > 40*time.Second || above > 3<<30 {
				t.Errorf("it takes %s and %d MiB", took, above>>20)
			}
		})
	}
}
