// Package runawaytest has templates that do not come to an end, or take all memory that there is.
package runawaytest

import (
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/render"
)

// Inputs are such templates, by what they do.
func Inputs() map[string]render.Input {
	return map[string]render.Input{
		"helm range until":    Chart("{{ range until 2000000000 }}{{ end }}"),
		"helm repeat":         Chart(`a: {{ repeat 2000000 (repeat 1000 "x") }}`),
		"helm nested ranges":  Chart("{{ range until 100000 }}{{ range until 100000 }}{{ range until 100 }}{{ end }}{{ end }}{{ end }}"),
		"ytt list doubling":   ytt("#@ def double(l, n):\n#@   for i in range(n):\n#@     l = l + l\n#@   end\n#@   return l\n#@ end\na: #@ len(double([1], 40))\n"),
		"ytt string doubling": ytt("#@ def double(s, n):\n#@   for i in range(n):\n#@     s = s + s\n#@   end\n#@   return s\n#@ end\na: #@ len(double('x', 40))\n"),
		"ytt recursion":       ytt("#@ def f(n):\n#@   return f(n + 1)\n#@ end\na: #@ f(0)\n"),
		"ytt loops":           ytt("#@ def f():\n#@   n = 0\n#@   for i in range(1000000):\n#@     for j in range(1000000):\n#@       n += 1\n#@     end\n#@   end\n#@   return n\n#@ end\na: #@ f()\n"),
	}
}

// Chart is a chart of one template.
func Chart(template string) render.Input {
	return render.Input{
		Name: "web", Source: &bundle.Source{Template: bundle.TemplateHelm, Chart: "web"},
		Files: []bundle.File{{Path: "Chart.yaml", Data: []byte("apiVersion: v2\nname: web\nversion: 1.0.0\n")}, {Path: "templates/a.yaml", Data: []byte(template)}},
	}
}

func ytt(text string) render.Input {
	return render.Input{Name: "web", Source: &bundle.Source{Template: bundle.TemplateYTT}, Files: []bundle.File{{Path: "a.yaml", Data: []byte(text)}}}
}
