package render_test

import (
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/render"
)

// What kbld would take for rules, or for a lock, is not among what is rendered, however it is written.
func TestBundleRefusesRulesForKbld(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"apiVersion: kbld.k14s.io/v1alpha1\nkind: Config\nsearchRules: []\n",
		"x: &v kbld.k14s.io/v1alpha1\napiVersion: *v\nkind: Config\n",
		"<<: {apiVersion: kbld.k14s.io/v1alpha1}\nkind: ImageOverrides\n",
		"apiVersion: v1\nkind: List\nitems:\n- {apiVersion: kbld.k14s.io/v1, kind: Config}\n",
		"apiVersion: imgpkg.carvel.dev/v1alpha1\nkind: ImagesLock\n",
	} {
		content := web(t)
		content.Files = []bundle.File{{Path: "config/configs/rules.yaml", Data: []byte(text)}}
		content.Bundle.Spec.Sources = content.Bundle.Spec.Sources[1:]
		for name, err := range map[string]error{
			"render":   second(render.RenderBundle(t.Context(), content, nil, atSite)),
			"packages": render.CheckImages(t.Context(), content),
		} {
			if err == nil || !strings.Contains(err.Error(), "is not a manifest for a cluster") {
				t.Errorf("%s: %s\ngot %v", name, text, err)
			}
		}
	}
}

func second(_ []bundle.File, err error) error { return err }
