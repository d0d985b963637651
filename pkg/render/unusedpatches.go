package render

import (
	"bytes"
	"fmt"
	"path"
	"slices"

	"gopkg.in/yaml.v3"
	"sigs.k8s.io/kustomize/api/krusty"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/manifest"
)

// maxPatches is how many patches of kustomizations are tried for whether they change anything.
const maxPatches = 40

// findUnusedPatches returns the patches with a target that change nothing in what a kustomization renders to: it
// renders once without each. kustomize itself fails only for patches that name a resource.
func (in Input) findUnusedPatches(names []string, rendered []byte) (notes []string) {
	tried := 0
	for _, name := range names {
		i := slices.IndexFunc(in.Files, func(f bundle.File) bool { return path.Clean(f.Path) == name })
		if i < 0 {
			continue
		}
		for _, field := range []string{"patches", "patchesJson6902"} {
			for n := 0; tried < maxPatches; n++ {
				without, line, is := withoutPatch(in.Files[i].Data, field, n)
				if line == 0 {
					break
				}
				if !is {
					continue
				}
				tried++
				files := slices.Clone(in.Files)
				files[i].Data = without
				m, err := runKustomize(files, in.Source.Root, krusty.ReorderOptionUnspecified)
				if err != nil {
					continue
				}
				if data, err := m.AsYaml(); err == nil && bytes.Equal(data, rendered) {
					notes = append(notes, fmt.Sprintf("%s:%d: %s[%d] changes nothing", name, line, field, n))
				}
			}
		}
	}
	return notes
}

// withoutPatch returns a kustomization without one of its patches, and the line of that; hasTarget reports
// whether it has a target, and without is set. The line is 0 where there is no such patch.
func withoutPatch(data []byte, field string, n int) (without []byte, line int, hasTarget bool) {
	var doc yaml.Node
	if yaml.Unmarshal(data, &doc) != nil || len(doc.Content) != 1 {
		return nil, 0, false
	}
	list := manifest.GetValue(doc.Content[0], field)
	if list == nil || list.Kind != yaml.SequenceNode || n >= len(list.Content) {
		return nil, 0, false
	}
	patch := list.Content[n]
	if manifest.GetValue(patch, "target") == nil {
		return nil, patch.Line, false
	}
	list.Content = slices.Delete(list.Content, n, n+1)
	without, err := yaml.Marshal(&doc)
	return without, patch.Line, err == nil
}
