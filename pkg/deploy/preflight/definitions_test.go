package preflight

import (
	"strings"
	"testing"

	kappres "carvel.dev/kapp/pkg/kapp/resources"
)

// gadgets is a definition of which fields are given, in YAML.
func gadgets(fields string) string {
	text := strings.Replace(definition("gadgets", "Gadget", "upgrades.example"), "  - {name: v0, served: false, storage: false, schema: {openAPIV3Schema: {type: object}}}\n", "", 1)
	return strings.Replace(text, "{type: object, x-kubernetes-preserve-unknown-fields: true}", "{type: object, properties: {spec: {type: object, properties: {"+fields+"}}}}", 1)
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
		{"too many values", gadgets(size), gadgets("f: {type: string, enum: [" + strings.Repeat("a, ", maxDefinitionValues) + "b]}"), "error cannot be compared: more than 200000 values"},
	} {
		before, err := kappres.NewResourceFromBytes([]byte(c.before))
		if err != nil {
			t.Fatal(err)
		}
		after, err := kappres.NewResourceFromBytes([]byte(c.after))
		if err != nil {
			t.Fatal(err)
		}
		findings := FindDefinitionChanges(before, after)
		severity, text, _ := strings.Cut(c.want, " ")
		switch {
		case c.want == "" && len(findings) == 0:
		case c.want == "" || len(findings) == 0 || string(findings[0].Severity) != severity || !strings.Contains(findings[0].Message, text):
			t.Errorf("%s: got %v, want %q", c.name, findings, c.want)
		}
	}
}
