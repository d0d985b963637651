package resources

import (
	"fmt"

	kappres "carvel.dev/kapp/pkg/kapp/resources"
	"gopkg.in/yaml.v3"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Definition is what a CustomResourceDefinition says of its kind.
type Definition struct {
	schema.GroupKind
	Plural     string
	Namespaced bool
	// Versions are those that are served.
	Versions []string
}

// ReadDefinitions returns the definitions among resources. One that names no kind is an error.
func ReadDefinitions(all []kappres.Resource) ([]Definition, error) {
	var definitions []Definition
	for _, r := range all {
		if !IsDefinition(r) {
			continue
		}
		raw := r.DeepCopyRaw()
		d := Definition{}
		d.Group, _, _ = unstructured.NestedString(raw, "spec", "group")
		d.Kind, _, _ = unstructured.NestedString(raw, "spec", "names", "kind")
		d.Plural, _, _ = unstructured.NestedString(raw, "spec", "names", "plural")
		if d.Group == "" || d.Kind == "" || d.Plural == "" {
			return nil, fmt.Errorf("%s: spec.group, spec.names.kind or spec.names.plural is missing or not text", IDOf(r))
		}
		scope, _, _ := unstructured.NestedString(raw, "spec", "scope")
		d.Namespaced = scope != "Cluster"
		versions, _, _ := unstructured.NestedSlice(raw, "spec", "versions")
		for _, v := range versions {
			one, _ := v.(map[string]any)
			name, _, _ := unstructured.NestedString(one, "name")
			if served, _, _ := unstructured.NestedBool(one, "served"); served {
				d.Versions = append(d.Versions, name)
			}
		}
		definitions = append(definitions, d)
	}
	return definitions, nil
}

// IsDefinition reports whether a resource is a CustomResourceDefinition.
func IsDefinition(r kappres.Resource) bool {
	return r.Kind() == "CustomResourceDefinition" && r.APIGroup() == "apiextensions.k8s.io"
}

// ShortenDefinition returns what kapp orders a resource by: a CustomResourceDefinition without its schemas. To learn
// which kind one defines, kapp encodes all of it and reads that again, for each group of changes and each rule, and to
// learn which kinds are in namespaces. What is written or compared must be the whole resource: see [RestoreDefinition].
func ShortenDefinition(r kappres.Resource) kappres.Resource {
	if IsDefinition(r) {
		return shortDefinition{r}
	}
	return r
}

// RestoreDefinition returns the resource that [ShortenDefinition] was given, with what was changed in it since.
func RestoreDefinition(r kappres.Resource) kappres.Resource {
	if short, is := r.(shortDefinition); is {
		return short.Resource
	}
	return r
}

// shortDefinition is a definition whose YAML has its names and those of its versions alone.
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
	if versions, found, _ := unstructured.NestedFieldNoCopy(object, "spec", "versions"); found {
		spec["versions"] = shortVersions(versions)
	}
	return yaml.Marshal(map[string]any{
		"apiVersion": d.APIVersion(), "kind": d.Kind(), "metadata": map[string]any{"name": d.Name()}, "spec": spec,
	})
}

// shortVersions returns versions of a definition with their names alone. What is not a version stays, and is an error for
// kapp as it is in the whole definition.
func shortVersions(versions any) any {
	list, is := versions.([]any)
	if !is {
		return versions
	}
	short := make([]any, len(list))
	for i, v := range list {
		short[i] = v
		if version, is := v.(map[string]any); is {
			short[i] = map[string]any{"name": version["name"]}
		}
	}
	return short
}
