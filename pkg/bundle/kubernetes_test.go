package bundle_test

import (
	"testing"

	"krtpkg.dev/krtpkg/pkg/bundle"
)

// A chart can be told the versions that distributions have, as `helm template --kube-version` can.
func TestHelmKubernetes(t *testing.T) {
	t.Parallel()
	for version, isOne := range map[string]bool{
		"1.29": true, "v1.29.3": true, "1.29.3-gke.100": true, "v1.29.4-eks-036c24b": true, "v1.29.3+k3s1": true, "v1.29.3-rc.1+rke2r1": true,
		"1": false, "1.29-gke": false, "1.29.3-": false, "1.29.3 gke": false, "latest": false,
	} {
		_, err := bundle.Parse("b.yaml", []byte("apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: b, version: 1.0.0}\nspec: {layer: 6, sources: [{dir: c, template: helm, helm: {kubernetes: \""+version+"\"}}]}\n"))
		if (err == nil) != isOne {
			t.Errorf("%s: %v", version, err)
		}
	}
}
