package resources

import (
	kappres "carvel.dev/kapp/pkg/kapp/resources"
	"gopkg.in/yaml.v3"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// IsDefinition reports whether a resource is a CustomResourceDefinition.
func IsDefinition(r kappres.Resource) bool {
	return r.Kind() == "CustomResourceDefinition" && r.APIGroup() == "apiextensions.k8s.io"
}

// ShortenDefinition returns what kapp orders a resource by: a CustomResourceDefinition without its schemas. To learn
// which kind one defines, kapp encodes all of it and reads that again, for each group of changes and each rule. What
// is written or compared must be the whole resource.
func ShortenDefinition(r kappres.Resource) kappres.Resource {
	if IsDefinition(r) {
		return shortDefinition{r}
	}
	return r
}

// shortDefinition is a definition whose YAML is that of its names alone.
type shortDefinition struct{ kappres.Resource }

// AsYAMLBytes implements [kappres.Resource].
func (d shortDefinition) AsYAMLBytes() ([]byte, error) {
	object := d.UnstructuredObject() // a view: it is not changed
	spec := map[string]any{}
	for _, field := range []string{"group", "scope", "version", "names"} {
		if value, found, _ := unstructured.NestedFieldNoCopy(object, "spec", field); found {
			spec[field] = value
		}
	}
	return yaml.Marshal(map[string]any{
		"apiVersion": d.APIVersion(), "kind": d.Kind(), "metadata": map[string]any{"name": d.Name()}, "spec": spec,
	})
}
