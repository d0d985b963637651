package render

import (
	"fmt"
	"path"
	"strings"

	"gopkg.in/yaml.v3"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/provider"
	"sigs.k8s.io/kustomize/api/resmap"
	"sigs.k8s.io/kustomize/api/types"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/manifest"
)

// applyPatches applies a source's patches to manifests, which become one file. Other files stay.
func applyPatches(files []bundle.File, patches []bundle.Patch) (rendered []bundle.File, err error) {
	defer recoverEngine("kustomize", &err)
	var resources, rest []bundle.File
	for _, f := range files {
		if isManifest(f.Path) {
			f.Path = path.Join("files", f.Path)
			resources = append(resources, f)
		} else {
			rest = append(rest, f)
		}
	}
	before, err := patchedWith(resources, nil)
	if err != nil {
		return nil, err
	}
	for i, p := range patches {
		at := fmt.Sprintf("patches[%d]", i)
		if err := manifest.CheckAliases(at, []byte(p.Patch)); err != nil {
			return nil, err
		}
		wanted, found, err := describeSelection(before, p)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", at, kustomizeError(err))
		}
		if !found && i > 0 {
			// A patch before it may have made what it selects.
			earlier, err := patchedWith(resources, patches[:i])
			if err != nil {
				return nil, err
			}
			if _, found, err = describeSelection(earlier, p); err != nil {
				return nil, fmt.Errorf("%s: %w", at, kustomizeError(err))
			}
		}
		if !found {
			return nil, fmt.Errorf("%s changes nothing: no resource is %s", at, wanted)
		}
	}
	after, err := patchedWith(resources, patches)
	if err != nil {
		return nil, fmt.Errorf("patches: %w", err)
	}
	data, err := after.AsYaml()
	if err != nil {
		return nil, err
	}
	return append([]bundle.File{{Path: manifests, Data: data}}, rest...), nil
}

// patchedWith builds a kustomization of resources and patches, in the order of the resources.
func patchedWith(resources []bundle.File, patches []bundle.Patch) (resmap.ResMap, error) {
	kustomization := map[string]any{}
	if len(patches) > 0 {
		kustomization["patches"] = patches
	}
	var names []string
	for _, f := range resources {
		names = append(names, f.Path)
	}
	kustomization["resources"] = names
	data, err := yaml.Marshal(kustomization)
	if err != nil {
		return nil, err
	}
	top := bundle.File{Path: "kustomization.yaml", Data: data}
	return runKustomize(append([]bundle.File{top}, resources...), "", krusty.ReorderOptionNone)
}

// describeSelection returns what a patch selects, in words, and whether that is there.
func describeSelection(m resmap.ResMap, p bundle.Patch) (wanted string, found bool, err error) {
	if p.Target == nil {
		kustomizeAtATime.Lock()
		defer kustomizeAtATime.Unlock()
		own, err := provider.NewDefaultDepProvider().GetResourceFactory().SliceFromBytes([]byte(p.Patch))
		if err != nil {
			return "", false, fmt.Errorf("is not a resource: a JSON patch needs a target")
		}
		for _, r := range own {
			if _, err := m.GetById(r.OrgId()); err != nil {
				return fmt.Sprintf("%s %s", r.GetKind(), strings.TrimPrefix(r.GetNamespace()+"/"+r.GetName(), "/")), false, nil
			}
		}
		return "", true, nil
	}
	t := p.Target
	selector := types.Selector{LabelSelector: t.LabelSelector, AnnotationSelector: t.AnnotationSelector}
	selector.Group, selector.Version, selector.Kind = t.Group, t.Version, t.Kind
	selector.Name, selector.Namespace = t.Name, t.Namespace
	for _, field := range []struct{ name, value string }{
		{"group", t.Group}, {"version", t.Version}, {"kind", t.Kind}, {"name", t.Name}, {"namespace", t.Namespace},
		{"labelSelector", t.LabelSelector}, {"annotationSelector", t.AnnotationSelector},
	} {
		if field.value != "" {
			wanted += ", " + field.name + " " + field.value
		}
	}
	selected, err := m.Select(selector)
	return strings.TrimPrefix(wanted, ", "), len(selected) > 0, err
}

// isManifest reports whether a file is one of resources, by its name.
func isManifest(name string) bool {
	switch path.Ext(name) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}
