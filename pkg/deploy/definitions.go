package deploy

import (
	"carvel.dev/kapp/pkg/kapp/diff"
	kappres "carvel.dev/kapp/pkg/kapp/resources"
	"gopkg.in/yaml.v3"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// shortenDefinitions has kapp order changes without their schemas. To learn which kind a CustomResourceDefinition
// defines, kapp encodes all of it and reads that again, for each group of changes and each rule: a third of the time
// that a delete computes. What kapp writes and compares is whole.
func shortenDefinitions(changes []diff.Change) []diff.Change {
	all := make([]diff.Change, len(changes))
	for i, c := range changes {
		all[i] = c
		if r := c.NewOrExistingResource(); r.Kind() == "CustomResourceDefinition" && r.APIGroup() == "apiextensions.k8s.io" {
			all[i] = definitionChange{Change: c, ordered: shortDefinition{r}}
		}
	}
	return all
}

// definitionChange is the change of a definition.
type definitionChange struct {
	diff.Change
	ordered shortDefinition
}

// NewOrExistingResource implements [diff.Change]: kapp orders changes by this resource.
func (c definitionChange) NewOrExistingResource() kappres.Resource { return c.ordered }

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
