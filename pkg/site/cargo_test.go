package site_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/pkg/assemble"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/layout"
	"krtpkg.dev/krtpkg/pkg/site"
)

// What a bundle carries is not for a cluster: a runtime is applied without the bundles that have nothing else, and
// controllers do not miss them.
func TestRuntimePassesOverCargo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for file, text := range map[string]string{
		"node/bundle.yaml":  "apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: node, version: 1.0.0}\nspec: {layer: 1, provides: [agent], files: [{path: tool}]}\n",
		"node/tool":         "a tool",
		"web/bundle.yaml":   "apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: web, version: 1.0.0}\nspec: {layer: 1, requires: [agent], sources: [{file: a.yaml}], files: [{path: a.yaml}]}\n",
		"web/a.yaml":        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: default}\n",
		"runtime.yaml":      "apiVersion: krtpkg.dev/v1alpha1\nkind: Runtime\nmetadata: {name: edge, version: 1.0.0}\nspec: {provided: [cni], bundles: [{path: node}, {path: web}]}\n",
		"only/runtime.yaml": "apiVersion: krtpkg.dev/v1alpha1\nkind: Runtime\nmetadata: {name: edge, version: 1.0.0}\nspec: {provided: [cni], bundles: [{path: ../node}]}\n",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	rendered := func(definition string) (*bundle.Set, *site.Rendered) {
		store, err := layout.Create(filepath.Join(dir, "dist"))
		if err != nil {
			t.Fatal(err)
		}
		built, err := assemble.Build(t.Context(), definition, assemble.Options{Store: store, Images: inventedDigests{}})
		if err != nil {
			t.Fatal(err)
		}
		set, err := bundle.OpenSet(t.Context(), store, built.Descriptor)
		if err != nil {
			t.Fatal(err)
		}
		r, err := site.Render(t.Context(), set, nil, &site.Images{})
		if err != nil {
			t.Fatal(err)
		}
		return set, r
	}
	set, r := rendered(dir)
	rt, err := r.Runtime()
	if err != nil || len(rt.Units) != 1 || rt.Units[0].Bundle != "web" || len(rt.Units[0].Needs) != 0 {
		t.Errorf("applied: %+v, %v", rt.Units, err)
	}
	for _, name := range site.ControllerNames() {
		c := site.FindController(name)
		if left, err := c.ListLeftOut(t.Context(), set); err != nil || len(left) > 0 {
			t.Errorf("%s leaves out %v, %v", name, left, err)
		}
		if err := c.CheckFiles(t.Context(), set); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, r = rendered(filepath.Join(dir, "only"))
	if _, err := r.Runtime(); err == nil || !strings.Contains(err.Error(), "edge 1.0.0 has no manifests to apply, only files and charts: krtpkg files get fetches them") {
		t.Errorf("nothing to apply: %v", err)
	}
}
