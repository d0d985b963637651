package deploy

import (
	"fmt"
	"strings"
	"testing"

	"carvel.dev/kapp/pkg/kapp/diff"
	"carvel.dev/kapp/pkg/kapp/diffgraph"
	kappres "carvel.dev/kapp/pkg/kapp/resources"

	"krtpkg.dev/krtpkg/pkg/deploy/preflight"
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

// gadgets is a definition of which fields are given, in YAML.
func gadgets(fields string) string {
	return strings.NewReplacer("{type: object, x-kubernetes-preserve-unknown-fields: true}", "{type: object, properties: {spec: {type: object, properties: {"+fields+"}}}}").
		Replace(crd("gadgets", "Gadget", "upgrades.example"))
}

// A product's new version is applied although its definitions describe themselves otherwise and are stricter; one that
// drops a field is not, unless it is told to.
func TestUpgradedDefinitions(t *testing.T) {
	r := newRig(t)
	version := func(number, fields string) Runtime {
		return Runtime{Name: "edge", Version: number, Units: []Unit{unit(1, "kinds", number, gadgets(fields))}}
	}
	r.apply(version("1", "name: {type: string, description: a name}, old: {type: string}"))
	stricter := version("2", "name: {type: string, description: its name, minLength: 1}, old: {type: string}")
	if lines := r.plan(stricter).lines(); !strings.Contains(fmt.Sprint(lines), "warning (definitions): kinds, CustomResourceDefinition gadgets.upgrades.example") {
		t.Errorf("plan: %v", lines)
	}
	r.apply(stricter)
	narrower := version("3", "name: {type: string, description: its name, minLength: 1}")
	r.refused(narrower, "error (definitions): kinds, CustomResourceDefinition gadgets.upgrades.example", "spec.old", "--skip-check definitions")
	if _, err := r.Apply(t.Context(), narrower, ApplyOptions{Options: quick(), Skip: []string{preflight.CheckDefinitions}}); err != nil {
		t.Error(err)
	}
	r.deleted("edge")
}
