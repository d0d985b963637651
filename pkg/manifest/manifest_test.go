package manifest_test

import (
	"errors"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/manifest"
)

// What is wrong with a file is said with its place.
func TestParseErrorsHaveAPlace(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, data, want string }{
		{"flow that is not closed", "a: 1\nb: [1, 2\nc: 3\n", "f.yaml:1: invalid YAML: did not find expected ',' or ']'"},
		{"tab", "a:\n\tb: 1\n", "f.yaml:2: invalid YAML: found character that cannot start any token (a tab indents here, YAML wants spaces)"},
		{"character that starts nothing", "a:\n  b: %c\n", "f.yaml:2: invalid YAML: found character that cannot start any token"},
		{"key twice", "a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n", `f.yaml:5:3: key "c" is there twice, first at line 3`},
		{"key twice in a flow", "a: {b: 1, b: 2}\n", `f.yaml:1:11: key "b" is there twice, first at line 1`},
		{"key twice in JSON", `{"a": [{"b": 1, "b": 2}]}`, `f.yaml:1:17: key "b" is there twice, first at line 1`},
		{"key twice, once in quotes", "a: 1\n\"a\": 2\n", `f.yaml:2:1: key "a" is there twice, first at line 1`},
		{"second document", "a: 1\n---\nb: 1\nb: 2\n", `f.yaml:4:1: key "b" is there twice, first at line 3`},
		{"key twice below an anchor", "a: &x {b: 1, b: 2}\nc: *x\n", `f.yaml:1:14: key "b" is there twice, first at line 1`},
		{"unknown anchor", "a: 1\nb: *x\n", "f.yaml: invalid YAML: unknown anchor 'x' referenced"},
		{"control character", "a: \x01\n", "f.yaml: invalid YAML: control characters are not allowed"},
		{"not UTF-8", "a: \xff\n", "f.yaml: invalid YAML: invalid leading UTF-8 octet"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := manifest.Parse("f.yaml", []byte(c.data))
			var placed *manifest.Error
			if !errors.As(err, &placed) || err.Error() != c.want {
				t.Errorf("got:  %v\nwant: %s", err, c.want)
			}
		})
	}
}

// Documents without content are none, and keys of different types are different keys.
func TestParseCountsDocuments(t *testing.T) {
	t.Parallel()
	for data, want := range map[string]int{
		"":                            0,
		"# a comment\n":               0,
		"---\n---\n# nothing\n---\n":  0,
		"---\na: 1\n---\n---\nb: 1\n": 2,
		"null\n---\n~\n":              0,
		"1: a\n\"1\": b\n":            1,
		"{\"a\": 1}\n":                1,
		"\uFEFFa: 1\n":                1,
		"a: 1\n...\n---\nb: 1\n...\n": 2,
	} {
		f, err := manifest.Parse("f.yaml", []byte(data))
		if err != nil || len(f.Documents) != want {
			t.Errorf("%q: %v, %v", data, f, err)
		}
	}
}

// A few bytes of aliases, which would be gigabytes when expanded, cost nothing.
func TestParseExpandsNoAlias(t *testing.T) {
	t.Parallel()
	var bomb strings.Builder
	bomb.WriteString("l0: &l0 [x]\n")
	for i := range 30 {
		from, to := string(rune('a'+i)), string(rune('b'+i))
		if i == 0 {
			bomb.WriteString("b: &b [*l0, *l0]\n")
			continue
		}
		bomb.WriteString(to + ": &" + to + " [*" + from + ", *" + from + "]\n")
		if to == "z" {
			break
		}
	}
	if _, err := manifest.Parse("f.yaml", []byte(bomb.String())); err != nil {
		t.Fatal(err)
	}
}

func TestCheckResourceNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	for data, want := range map[string]string{
		"apiVersion: v1\nkind: Pod\n":  "",
		"[1]\n":                        "f.yaml:1:1: not a Kubernetes resource: the document is no mapping",
		"text\n":                       "f.yaml:1:1: not a Kubernetes resource: the document is no mapping",
		"a: 1\n":                       "f.yaml:1:1: not a Kubernetes resource: apiVersion is missing",
		"apiVersion: v1\n":             "f.yaml:1:1: not a Kubernetes resource: kind is missing",
		"apiVersion: 1\nkind: Pod\n":   "f.yaml:1:13: not a Kubernetes resource: apiVersion is not a string",
		"apiVersion: v1\nkind: [Pod]":  "f.yaml:2:7: not a Kubernetes resource: kind is not a string",
		"apiVersion: v1\nkind: \"\"\n": "f.yaml:2:7: not a Kubernetes resource: kind is not a string",
		"apiVersion: v1\nkind:\n":      "f.yaml:2:6: not a Kubernetes resource: kind is not a string",
	} {
		f, err := manifest.Parse("f.yaml", []byte(data))
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if err := f.CheckResource(f.Documents[0]); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q:\ngot:  %s\nwant: %s", data, got, want)
		}
	}
}

// scalars walks over every scalar that is a value of a mapping or an item of a list.
func scalars(node *yaml.Node, yield func(*yaml.Node)) {
	switch node.Kind {
	case yaml.ScalarNode:
		yield(node)
	case yaml.SequenceNode:
		for _, item := range node.Content {
			scalars(item, yield)
		}
	case yaml.MappingNode:
		for i := 1; i < len(node.Content); i += 2 {
			scalars(node.Content[i], yield)
		}
	}
}
