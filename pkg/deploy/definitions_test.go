package deploy

import (
	"fmt"
	"strings"
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

// gadgets is a definition of which fields are given, in YAML.
func gadgets(fields string) string {
	return strings.NewReplacer("{type: object, x-kubernetes-preserve-unknown-fields: true}", "{type: object, properties: {spec: {type: object, properties: {"+fields+"}}}}").
		Replace(crd("gadgets", "Gadget", "upgrades.example"))
}

// What a new definition does to resources that exist is told apart: a field that says something else about itself is
// nothing, one that takes less a warning, and one that is gone is wrong.
func TestChangedDefinitions(t *testing.T) {
	t.Parallel()
	const size = "size: {type: integer, description: of it, maximum: 9}, kind: {type: string, enum: [a, b]}"
	for _, c := range []struct{ name, before, after, want string }{
		{"the same", gadgets(size), gadgets(size), ""},
		{"a description", gadgets(size), gadgets(strings.ReplaceAll(size, "of it", "how large it is")), ""},
		{"a new field", gadgets(size), gadgets(size + ", more: {type: string}"), ""},
		{"more values", gadgets(size), gadgets(strings.ReplaceAll(size, "[a, b]", "[a, b, c]")), ""},
		{"a maximum", gadgets(size), gadgets(strings.ReplaceAll(size, "9", "8")), "warning spec.size of v1: maximum constraint decreased from 9 to 8"},
		{"fewer values", gadgets(size), gadgets(strings.ReplaceAll(size, "[a, b]", "[a]")), "warning spec.kind of v1: enum"},
		{"another type", gadgets(size), gadgets(strings.ReplaceAll(size, "integer", "number")), `warning spec.size of v1: type changed from "integer" to "number"`},
		{"many", gadgets("a: {type: string}, b: {type: string}, c: {type: string}, d: {type: string}"),
			gadgets("a: {type: boolean}, b: {type: boolean}, c: {type: boolean}, d: {type: boolean}"), "warning spec.c of v1: type changed from \"string\" to \"boolean\"; and 1 more"},
		{"a field that is gone", gadgets(size), gadgets("size: {type: integer, maximum: 9}"), "error spec.kind"},
		{"a scope", gadgets(size), strings.ReplaceAll(gadgets(size), "scope: Namespaced", "scope: Cluster"), `error scope changed from "Namespaced" to "Cluster"`},
		{"a stored version", gadgets(size) + "\nstatus: {storedVersions: [v1]}", strings.ReplaceAll(gadgets(size), "name: v1\n", "name: v2\n"), `error stored version "v1" removed`},
		{"no schema before", gadgets(size)[:strings.Index(gadgets(size), "    schema:")], gadgets(size), `error cannot be compared: version "v1" of the old definition has no schema (--skip-check definitions)`},
		{"no schema after", gadgets(size), strings.ReplaceAll(gadgets(size), "schema:", "subresources:"), `error cannot be compared: version "v1" of the new definition has no schema`},
		{"too many values", gadgets(size), gadgets("f: {type: string, enum: [" + strings.Repeat("a, ", maxDefinitionValues) + "b]}"), "error cannot be compared: it has more than 200000 values"},
	} {
		before, err := kappres.NewResourceFromBytes([]byte(c.before))
		if err != nil {
			t.Fatal(err)
		}
		after, err := kappres.NewResourceFromBytes([]byte(c.after))
		if err != nil {
			t.Fatal(err)
		}
		findings := checkDefinitions([]diff.Change{diff.NewChange(before, after, after, before, diff.ChangeOpts{})})
		severity, text, _ := strings.Cut(c.want, " ")
		switch {
		case c.want == "" && len(findings) == 0:
		case c.want == "" || len(findings) == 0 || string(findings[0].Severity) != severity || !strings.Contains(findings[0].Message, text):
			t.Errorf("%s: got %v, want %q", c.name, findings, c.want)
		}
	}
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
	if _, err := r.Apply(t.Context(), narrower, ApplyOptions{Options: quick(), Skip: []string{CheckDefinitions}}); err != nil {
		t.Error(err)
	}
	r.deleted("edge")
}
