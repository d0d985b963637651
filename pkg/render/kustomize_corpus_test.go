package render_test

import (
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/internal/corpus"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/render"
)

// unbuildable are the kustomizations of the corpus that the tool does not build either, below
// their products, with what krtpkg says.
var unbuildable = map[string]string{
	// These want files that the corpus has not.
	"quay-operator-kustomize/config/webhook":                           "manifests.yaml is not in the source",
	"quay-operator-kustomize/kustomize/components/postgres":            "./create-extensions.sh is not in the source",
	"quay-operator-kustomize/kustomize/overlays/current":               "../../tmp is not in the source",
	"quay-operator-kustomize/kustomize/overlays/current/config-only":   "../../../tmp is not in the source",
	"quay-operator-kustomize/kustomize/overlays/current/unmanaged-tls": "../../../tmp is not in the source",
	"quay-operator-kustomize/kustomize/overlays/current/upgrade":       "../../../tmp is not in the source",
	"contour/examples/optional-features":                               "../render/contour-gateway.yaml is not in the source",
	"opentelemetry-operator/config/manifests":                          "../scorecard is not in the source",
	"opentelemetry-operator/config/manifests/community":                "../../scorecard is not in the source",
	"opentelemetry-operator/config/manifests/openshift":                "../../scorecard is not in the source",
	"jaeger-operator/config/crd":                                       "bases/jaegertracing.io_jaegers.yaml is not in the source",
	"jaeger-operator/config/default":                                   "bases/jaegertracing.io_jaegers.yaml is not in the source",
	"jaeger-operator/config/namespaced":                                "bases/jaegertracing.io_jaegers.yaml is not in the source",
	"jaeger-operator/config/manifests":                                 "bases/jaeger-operator.clusterserviceversion.yaml is not in the source",
	// These are components of others and nothing alone.
	"quay-operator-kustomize/kustomize/components/mirror":        "cannot be mapped to a field",
	"quay-operator-kustomize/kustomize/components/pgupgrade":     "no matches for Id Deployment.v1.apps/quay-app",
	"quay-operator-kustomize/kustomize/components/route":         "cannot be mapped to a field",
	"clair/kustomize/components/clairpgupgrade/base":             "no matches for Id Deployment.v1.apps/clair-postgres",
	"clair/kustomize/components/clairpgupgrade/scale-down-clair": "no matches for Id Deployment.v1.apps/clair-postgres",
	"jaeger-operator/config/namespaced/patch":                    "no resource matches strategic merge patch",
	// These are in part on the network, where the tool would get them.
	"flux/manifests/bases/helm-controller":             "helm-controller.crds.yaml" + notFetched,
	"flux/manifests/bases/image-automation-controller": "image-automation-controller.crds.yaml" + notFetched,
	"flux/manifests/bases/image-reflector-controller":  "image-reflector-controller.crds.yaml" + notFetched,
	"flux/manifests/bases/kustomize-controller":        "kustomize-controller.crds.yaml" + notFetched,
	"flux/manifests/bases/notification-controller":     "notification-controller.crds.yaml" + notFetched,
	"flux/manifests/bases/source-controller":           "source-controller.crds.yaml" + notFetched,
	"flux/manifests/bases/source-watcher":              "source-watcher.crds.yaml" + notFetched,
	"flux/manifests/crds":                              "source-controller.crds.yaml" + notFetched,
	"flux/manifests/install":                           "source-controller.crds.yaml" + notFetched,
	"flux/manifests/openshift":                         "source-controller.crds.yaml" + notFetched,
}

const notFetched = " is not in the source (remote resources are not fetched: add it as a separate source)"

// Each kustomization of the corpus becomes what the tool makes of it, byte for byte.
func TestKustomizeAsTheTool(t *testing.T) {
	t.Parallel()
	top := corpus.FirstDir(t)
	kustomize := tool(t, "kustomize")
	dirs := folders(t, top, "kustomization.yaml", "kustomization.yml", "Kustomization")
	if built := len(dirs) - len(unbuildable); built < 73 {
		t.Errorf("only %d kustomizations to compare", built)
	}
	seen := map[string]bool{}
	for _, dir := range dirs {
		// LAYER/CATEGORY/PRODUCT, the source, and the folder of the kustomization in it.
		parts := strings.SplitN(dir, "/", 4)
		product, root := path.Join(parts[:3]...), "."
		if len(parts) > 3 {
			root = parts[3]
		}
		name := path.Join(parts[2], root)
		seen[name] = true
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want, wantErr := run(t, kustomize, "build", filepath.Join(top, dir))
			got, err := render.RenderStable(t.Context(), render.Input{
				Source: &bundle.Source{Template: bundle.TemplateKustomize, Root: root},
				Files:  readTree(t, filepath.Join(top, product)),
			})
			if reason, fails := unbuildable[name]; fails {
				if wantErr == nil || err == nil || !strings.Contains(err.Error(), reason) {
					t.Errorf("got %v\nwant %s\nthe tool says %v", err, reason, wantErr)
				}
				return
			}
			if err != nil || wantErr != nil {
				t.Fatalf("got %v\nthe tool says %v", err, wantErr)
			}
			same(t, got[0].Data, want)
		})
	}
	for _, name := range slices.Sorted(maps.Keys(unbuildable)) {
		if !seen[name] {
			t.Errorf("%s is not in the corpus", name)
		}
	}
}
