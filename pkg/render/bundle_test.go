package render_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/render"
)

func valuesOf(t *testing.T, text string) (v manifest.Values) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// built returns a bundle of one source of each kind, as a build leaves it.
func built(t *testing.T) *bundle.Content {
	var all []bundle.File
	add := func(dir string, list []bundle.File) {
		for _, f := range list {
			all = append(all, bundle.File{Path: dir + f.Path, Data: f.Data})
		}
	}
	add("config/chart/", chartInput("values.yaml", "a: 0\nb: 0\nc: 0\n", "templates/a.yaml", configMap+"data: {v: '{{ .Values.a }}{{ .Values.b }}{{ .Values.c }}'}\n").Files)
	add("config/", files("done/manifests.yaml", "kind: Rendered\n", "plain/p.yaml", pod, "plain-more/p.yaml", pod, "t.yaml", "kind: T\n"))
	add("overlays/", files("plain/o.yaml", overlay, "t.yaml/o.yaml", overlay+"spec:\n"))
	return &bundle.Content{
		Bundle: &bundle.Bundle{Metadata: bundle.Metadata{Name: "mixed"}, Spec: bundle.BundleSpec{Sources: []bundle.Source{
			{Path: "chart", Template: bundle.TemplateHelm, Render: bundle.RenderTarget, Values: valuesOf(t, "{b: 1, c: 1}")},
			{Path: "done", Template: bundle.TemplateHelm, Values: valuesOf(t, "{x: 1}")},
			{Path: "plain", Render: bundle.RenderTarget},
			{Path: "plain-more"},
		}}},
		Files: all,
	}
}

// A target renders what its source says, with the source's values below the site's, and the
// overlays of that source only; all else comes out as it is.
func TestTemplatesOfEachKind(t *testing.T) {
	t.Parallel()
	const labelled = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels:\n    site: east\n"
	const want = "config/chart/manifests.yaml\n---\n# Source: chart/templates/a.yaml\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: mixed}\ndata: {v: '012'}\n" +
		"config/done/manifests.yaml\nkind: Rendered\n" + "config/plain-more/p.yaml\n" + pod + "config/plain/p.yaml\n" + labelled + "config/t.yaml\nkind: T\n"
	content := built(t)
	content.Files = content.Files[:len(content.Files)-1]
	got, err := render.RenderTemplates(t.Context(), content, []byte("c: 2\n"))
	if err != nil || text(got) != want {
		t.Errorf("%v\n%s", err, text(got))
	}
}

// A bundle whose templates have all been rendered takes no values.
func TestRenderedTakesNoValues(t *testing.T) {
	t.Parallel()
	content := built(t)
	content.Bundle.Spec.Sources = content.Bundle.Spec.Sources[1:2]
	if _, err := render.RenderTemplates(t.Context(), content, []byte("c: 2\n")); err == nil || err.Error() != "accepts no values: its templates are rendered at the build; render: target in the definition leaves that to the site" {
		t.Errorf("got %v", err)
	}
	if got, err := render.RenderTemplates(t.Context(), content, nil); err != nil || strings.Contains(text(got), "overlays/") {
		t.Errorf("%v\n%s", err, text(got))
	}
}

// What a bundle says of itself does not take an image out of its lock: each of these was signed by
// whoever made it, and would run what the lock does not have.
func TestBundleHoldsToItsLock(t *testing.T) {
	t.Parallel()
	const (
		pinned  = "sha256:1111111111111111111111111111111111111111111111111111111111111111"
		web     = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {template: {spec: {containers: [{name: a, image: %s}]}}}\n"
		locked  = "ghcr.io/example/web:1.0"
		movable = "ghcr.io/example/web:latest"
		kapp    = "---\napiVersion: kapp.k14s.io/v1alpha1\nkind: Config\n"
		ytt     = "- {ytt: {overlayContractV1: {overlay.yml: ''}}, resourceMatchers: [{allMatcher: {}}]}\n"
		leads   = "[0] leads to images of containers, which are those of the image lock and no others"
	)
	none := &images.UpdateStrategy{None: &struct{}{}}
	deployment := func(image string) string { return fmt.Sprintf(web, image) }
	rules := func(text string) string { return deployment(locked) + kapp + text }
	for _, c := range []struct {
		name string
		spec bundle.BundleSpec
		data string
		want string // "" where nothing is wrong
	}{
		{"locked", bundle.BundleSpec{}, deployment(locked), ""},
		{"not an image", bundle.BundleSpec{NotImages: []images.NotImage{{Value: "ghcr.io/example/*", Reason: "r"}}}, deployment(movable),
			`b.yaml:4:56: Deployment web: image "` + movable + `" is not in the image lock`},
		{"spared by key", bundle.BundleSpec{SearchRules: []images.Rule{{KeyMatcher: &images.KeyMatcher{Name: "image"}, UpdateStrategy: none}}}, deployment(movable),
			`b.yaml:4:56: Deployment web: image "` + movable + `" is not in the image lock`},
		{"spared by value", bundle.BundleSpec{SearchRules: []images.Rule{{ValueMatcher: &images.ValueMatcher{ImageRepo: "ghcr.io/example/web"}, UpdateStrategy: none}}}, deployment(movable),
			`b.yaml:4:56: Deployment web: image "` + movable + `" is not in the image lock`},
		{"said to be needed by someone else", bundle.BundleSpec{Images: []bundle.ExtraImage{{Image: movable, Reason: "r"}}}, deployment(movable),
			`b.yaml:4:56: Deployment web: image "` + movable + `" is not in the image lock`},
		{"another digest", bundle.BundleSpec{}, deployment("ghcr.io/example/web@sha256:2222222222222222222222222222222222222222222222222222222222222222"),
			`b.yaml:4:56: Deployment web: image "ghcr.io/example/web@sha256:2222222222222222222222222222222222222222222222222222222222222222" is not in the image lock`},

		// kapp changes resources after the images were relocated.
		{"kapp waits", bundle.BundleSpec{}, rules("waitRules: [{ytt: {funcContractV1: {resource.star: ''}}}]\n"), ""},
		{"kapp keeps replicas", bundle.BundleSpec{}, rules("rebaseRules: [{path: [spec, replicas], type: copy, sources: [existing, new]}]\n"), ""},
		{"kapp keeps a container's resources", bundle.BundleSpec{}, rules("rebaseRules: [{path: [spec, template, spec, containers, {allIndexes: true}, resources], type: copy, sources: [existing, new]}]\n"), ""},
		{"kapp overlays", bundle.BundleSpec{}, rules("rebaseRules:\n" + ytt), "b.yaml:6:1: rules for kapp: rebaseRules[0] is in ytt, which could give a container any image"},
		{"kapp overlays, in other letters", bundle.BundleSpec{}, rules("REBASErules:\n" + ytt), "b.yaml:6:1: rules for kapp: rebaseRules[0] is in ytt, which could give a container any image"},
		{"kapp overlays, under an escaped key", bundle.BundleSpec{}, rules("\"rebase\\x52ules\":\n" + ytt), "b.yaml:6:1: rules for kapp: rebaseRules[0] is in ytt, which could give a container any image"},
		{"kapp overlays, by an alias", bundle.BundleSpec{}, rules("x: &x\n" + ytt + "rebaseRules: *x\n"), "b.yaml:6:1: rules for kapp: rebaseRules[0] is in ytt, which could give a container any image"},
		{"kapp overlays, from a ConfigMap", bundle.BundleSpec{}, deployment(locked) + "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, labels: {kapp.k14s.io/config: ''}}\ndata:\n  config.yml: |\n    apiVersion: kapp.k14s.io/v1alpha1\n    kind: Config\n    rebaseRules:\n    " + ytt,
			"b.yaml:6:1: rules for kapp: rebaseRules[0] is in ytt, which could give a container any image"},
		{"kapp keeps the cluster's image", bundle.BundleSpec{}, rules("rebaseRules: [{path: [spec, template, spec, containers, {allIndexes: true}, image], type: copy, sources: [existing]}]\n"), "b.yaml:6:1: rules for kapp: rebaseRules" + leads},
		{"kapp keeps the cluster's containers", bundle.BundleSpec{}, rules("rebaseRules: [{paths: [[data], [spec, template, spec, initContainers]], type: copy, sources: [existing]}]\n"), "b.yaml:6:1: rules for kapp: rebaseRules" + leads},
		{"kapp keeps the cluster's pods", bundle.BundleSpec{}, rules("rebaseRules: [{path: [spec, template], type: copy, sources: [existing]}]\n"), "b.yaml:6:1: rules for kapp: rebaseRules" + leads},
		{"kapp keeps what a pattern says", bundle.BundleSpec{}, rules("rebaseRules: [{path: [spec, {regex: '^temp'}, spec], type: copy, sources: [existing]}]\n"), "b.yaml:6:1: rules for kapp: rebaseRules" + leads},
		{"kapp passes over images", bundle.BundleSpec{}, rules("diffAgainstExistingFieldExclusionRules: [{path: [spec, template, spec, containers, {index: 0}, image]}]\n"), "b.yaml:6:1: rules for kapp: diffAgainstExistingFieldExclusionRules" + leads},
		{"kapp labels a container with an image", bundle.BundleSpec{}, rules("additionalLabels: {image: busybox}\nownershipLabelRules: [{path: [spec, template, spec, containers, {allIndexes: true}]}]\n"), "b.yaml:6:1: rules for kapp: ownershipLabelRules" + leads},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			image, err := name.NewDigest("ghcr.io/example/web@" + pinned)
			if err != nil {
				t.Fatal(err)
			}
			content := &bundle.Content{
				Bundle: &bundle.Bundle{Metadata: bundle.Metadata{Name: "web"}, Spec: c.spec},
				Images: images.Lock{{Image: image, Reference: locked}},
				Files:  files("b.yaml", c.data),
			}
			content.Bundle.Spec.Sources = []bundle.Source{{Path: "b.yaml"}}
			got, err := render.RenderBundle(t.Context(), content, nil, name.Digest.Name)
			checked := render.CheckImages(t.Context(), content)
			if c.want == "" {
				if err != nil || checked != nil || !strings.Contains(text(got), "image: ghcr.io/example/web@"+pinned) {
					t.Errorf("%v, %v\n%s", err, checked, text(got))
				}
				return
			}
			if err == nil || err.Error() != c.want || checked == nil || checked.Error() != c.want {
				t.Errorf("got %v and %v\nwant %s\n%s", err, checked, c.want, text(got))
			}
		})
	}
}
