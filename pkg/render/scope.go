package render

import (
	"sigs.k8s.io/kustomize/kyaml/openapi"
	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// ScopeOfKind reports whether a kind of Kubernetes' own is in namespaces; known is false for any other kind.
func ScopeOfKind(apiVersion, kind string) (namespaced, known bool) {
	return openapi.IsNamespaceScoped(yaml.TypeMeta{APIVersion: apiVersion, Kind: kind})
}
