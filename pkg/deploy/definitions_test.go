package deploy

import (
	"testing"

	"carvel.dev/kapp/pkg/kapp/diff"
	"carvel.dev/kapp/pkg/kapp/diffgraph"
	kappres "carvel.dev/kapp/pkg/kapp/resources"
)

// kapp puts a definition without its schemas into the groups that it puts the whole one into, and writes all of it.
func TestShortDefinitions(t *testing.T) {
	t.Parallel()
	definition, err := kappres.NewResourceFromBytes([]byte(crd("gadgets", "Gadget", "short.example")))
	if err != nil {
		t.Fatal(err)
	}
	other, err := kappres.NewResourceFromBytes([]byte(configMap("one", "1")))
	if err != nil {
		t.Fatal(err)
	}
	whole := []diff.Change{diff.NewChange(nil, definition, definition, nil, diff.ChangeOpts{}), diff.NewChange(nil, other, other, nil, diff.ChangeOpts{})}
	short := shortenDefinitions(whole)
	if short[1] != whole[1] {
		t.Error("what is not a definition was changed")
	}
	const group = "apps/crds-{crd-group}-{crd-kind}-{name}-{kind}-{api-group}"
	want, err := diffgraph.NewChangeGroupNameForResource(group, whole[0].NewOrExistingResource()).AsString()
	if err != nil {
		t.Fatal(err)
	}
	got, err := diffgraph.NewChangeGroupNameForResource(group, short[0].NewOrExistingResource()).AsString()
	if err != nil || got != want || want != "apps/crds-short.example-Gadget-gadgets.short.example-CustomResourceDefinition-apiextensions.k8s.io" {
		t.Errorf("group %q, %v; want %q", got, err, want)
	}
	written, err := short[0].NewResource().AsYAMLBytes()
	if plain, _ := definition.AsYAMLBytes(); err != nil || string(written) != string(plain) {
		t.Errorf("written would be\n%s\n%v", written, err)
	}
}
