package resources_test

import (
	"reflect"
	"testing"
	"testing/fstest"

	"krtpkg.dev/krtpkg/pkg/resources"
)

// A definition without its schemas says the same of its kind, and comes back whole with what was changed meanwhile.
func TestShortenDefinition(t *testing.T) {
	t.Parallel()
	const text = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {kind: Thing, plural: things}
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, description: a thing}}}
  - {name: v2, served: true, storage: false, schema: {openAPIV3Schema: {type: object}}}
`
	read, err := resources.Read(fstest.MapFS{"a.yaml": {Data: []byte(text)}})
	if err != nil || len(read) != 1 {
		t.Fatal(read, err)
	}
	short := resources.ShortenDefinition(read[0])
	type definition struct {
		Metadata struct{ Name string }
		Spec     struct {
			Group, Scope string
			Names        map[string]string
			Versions     []struct {
				Name   string
				Schema map[string]any
			}
		}
	}
	var want, got definition
	if err := read[0].AsUncheckedTypedObj(&want); err != nil {
		t.Fatal(err)
	}
	if err := short.AsUncheckedTypedObj(&got); err != nil {
		t.Fatal(err)
	}
	for i := range want.Spec.Versions {
		want.Spec.Versions[i].Schema = nil
	}
	if !reflect.DeepEqual(got, want) || len(got.Spec.Versions) != 2 {
		t.Errorf("got %+v, want %+v", got, want)
	}
	short.SetNamespace("somewhere")
	whole := resources.RestoreDefinition(short)
	if err := whole.AsUncheckedTypedObj(&got); err != nil {
		t.Fatal(err)
	}
	if whole.Namespace() != "somewhere" || got.Spec.Versions[0].Schema == nil {
		t.Errorf("it comes back as %+v in namespace %q", got, whole.Namespace())
	}
	// What is not a list of versions is an error for the short one, too.
	read, err = resources.Read(fstest.MapFS{"a.yaml": {Data: []byte("apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: a.b}\nspec: {versions: 5}\n")}})
	if err != nil {
		t.Fatal(err)
	}
	if err := resources.ShortenDefinition(read[0]).AsUncheckedTypedObj(&got); err == nil {
		t.Error("versions that are a number are accepted")
	}
}
