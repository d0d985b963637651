package assemble

import (
	"path"
	"slices"
	"strings"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/source"
)

// The files by which a folder is a chart's or a kustomization's.
const chartFile = "Chart.yaml"

var kustomizationFiles = []string{"kustomization.yaml", "kustomization.yml", "Kustomization"}

// DetectTemplate returns the template that a folder of files, named by their paths in it, is for; "" for manifests.
func DetectTemplate(files []string) string {
	switch {
	case slices.Contains(files, chartFile):
		return bundle.TemplateHelm
	case slices.ContainsFunc(kustomizationFiles, func(name string) bool { return slices.Contains(files, name) }):
		return bundle.TemplateKustomize
	}
	return ""
}

// checkUnrendered refuses charts and kustomizations in a source that nothing renders.
func checkUnrendered(fetcher *source.Fetcher, s *bundle.Source, files []source.File) error {
	for _, f := range files {
		template := DetectTemplate([]string{path.Base(f.Path)})
		if template == "" {
			continue
		}
		what := "a Helm chart"
		if template == bundle.TemplateKustomize {
			what = "a kustomization"
		}
		problem := &manifest.Error{File: authorPath(fetcher, s, f.Path), Line: 1, Column: 1, Problem: what + " is not a manifest for a cluster"}
		if problem.Hint = "set template: " + template + " in its source, or leave it out with exclude"; strings.Contains(f.Path, "/") {
			problem.Hint = "make its folder a source of its own with template: " + template + ", or leave it out with exclude"
		}
		return problem
	}
	return nil
}
