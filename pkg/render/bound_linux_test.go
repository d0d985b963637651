package render_test

import (
	"strings"
	"testing"
	"time"

	"krtpkg.dev/krtpkg/internal/peaktest"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/render"
)

// Templates that run away are left behind with an error, in time and before they take the memory
// of the machine or end the program.
func TestRunaways(t *testing.T) {
	chart := func(template string) render.Input {
		return render.Input{
			Name: "web", Source: &bundle.Source{Template: bundle.TemplateHelm, Chart: "web"},
			Files: files("Chart.yaml", "apiVersion: v2\nname: web\nversion: 1.0.0\n", "templates/a.yaml", template),
		}
	}
	templates := func(text string) render.Input {
		return render.Input{Name: "web", Source: &bundle.Source{Template: bundle.TemplateYTT}, Files: files("a.yaml", text)}
	}
	for name, in := range map[string]render.Input{
		"helm range until":    chart("{{ range until 2000000000 }}{{ end }}"),
		"helm repeat":         chart(`a: {{ repeat 8000000 (repeat 1000 "x") }}`),
		"helm nested ranges":  chart("{{ range until 100000 }}{{ range until 100000 }}{{ range until 100 }}{{ end }}{{ end }}{{ end }}"),
		"ytt list doubling":   templates("#@ def double(l, n):\n#@   for i in range(n):\n#@     l = l + l\n#@   end\n#@   return l\n#@ end\na: #@ len(double([1], 40))\n"),
		"ytt string doubling": templates("#@ def double(s, n):\n#@   for i in range(n):\n#@     s = s + s\n#@   end\n#@   return s\n#@ end\na: #@ len(double('x', 40))\n"),
		"ytt recursion":       templates("#@ def f(n):\n#@   return f(n + 1)\n#@ end\na: #@ f(0)\n"),
		"ytt loops":           templates("#@ def f():\n#@   n = 0\n#@   for i in range(1000000):\n#@     for j in range(1000000):\n#@       n += 1\n#@     end\n#@   end\n#@   return n\n#@ end\na: #@ f()\n"),
	} {
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
			if took := time.Since(start); took > 40*time.Second || above > 2<<30 {
				t.Errorf("it takes %s and %d MiB", took, above>>20)
			}
		})
	}
}
