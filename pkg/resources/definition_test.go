package resources_test

import (
	"strings"
	"testing"
	"testing/fstest"

	kappres "carvel.dev/kapp/pkg/kapp/resources"
	"carvel.dev/kapp/pkg/kapp/resourcesmisc"

	"krtpkg.dev/krtpkg/pkg/resources"
)

// servesNothing is a cluster that serves no kinds.
type servesNothing struct{ kappres.ResourceTypes }

func (servesNothing) All(bool) ([]kappres.ResourceType, error) { return nil, nil }

// Of a definition without its schemas kapp knows the same of its kind, in each version; and it comes back whole, with
// what was changed meanwhile.
func TestShortenDefinition(t *testing.T) {
	t.Parallel()
	const definition = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.example.com}
spec:
  group: example.com
  scope: SCOPE
  names: {kind: Thing, plural: things}
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, description: a thing}}}
  - {name: v2, served: true, storage: false, schema: {openAPIV3Schema: {type: object}}}
`
	for _, scope := range []string{"Namespaced", "Cluster"} {
		all := readText(t, strings.Replace(definition, "SCOPE", scope, 1)+
			"---\napiVersion: example.com/v1\nkind: Thing\nmetadata: {name: one}\n---\napiVersion: example.com/v2\nkind: Thing\nmetadata: {name: two}\n")
		short := resources.ShortenDefinition(all[0])
		for _, thing := range all[1:] {
			for _, d := range []kappres.Resource{all[0], short} {
				namespaced, err := resourcesmisc.NewResourceTypes([]kappres.Resource{d}, servesNothing{}).IsNamespaced(thing)
				if err != nil || namespaced != (scope == "Namespaced") {
					t.Errorf("%s of a definition with scope %s: namespaced %t, %v", thing.Description(), scope, namespaced, err)
				}
			}
		}
		short.SetNamespace("somewhere")
		whole := resources.RestoreDefinition(short)
		text, err := whole.AsYAMLBytes()
		if err != nil || whole.Namespace() != "somewhere" || !strings.Contains(string(text), "a thing") {
			t.Errorf("it comes back in namespace %q, %v:\n%s", whole.Namespace(), err, text)
		}
		if text, err := short.AsYAMLBytes(); err != nil || strings.Contains(string(text), "a thing") {
			t.Errorf("it has a schema, or %v:\n%s", err, text)
		}
	}
	// What is not a list of versions is an error for the short one, too.
	broken := readText(t, "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: a.b}\nspec: {versions: 5}\n")[0]
	if _, err := resourcesmisc.NewResourceTypes([]kappres.Resource{resources.ShortenDefinition(broken)}, servesNothing{}).IsNamespaced(broken); err == nil {
		t.Error("versions that are a number are accepted")
	}
}

func readText(t *testing.T, text string) []kappres.Resource {
	t.Helper()
	all, err := resources.Read(fstest.MapFS{"a.yaml": {Data: []byte(text)}})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
