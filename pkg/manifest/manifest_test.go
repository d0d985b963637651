package manifest_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/manifest"
)

// What is wrong with a file is said with its place.
func TestParseErrorsHaveAPlace(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, data, want string }{
		{"flow that is not closed", "a: 1\nb: [1, 2\nc: 3\n", "f.yaml:2: invalid YAML: did not find expected ',' or ']'"},
		{"tab", "a:\n\tb: 1\n", "f.yaml:2: invalid YAML: found character that cannot start any token (a tab indents here, YAML requires spaces)"},
		{"character that starts nothing", "a:\n  b: %c\n", "f.yaml:2: invalid YAML: found character that cannot start any token"},
		{"key twice", "a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n", `f.yaml:5:3: duplicate key "c", first at line 3`},
		{"key twice of many", "a: 1\n" + manyKeys(40) + "k7: 2\n", `f.yaml:42:1: duplicate key "k7", first at line 9`},
		{"key twice in a flow", "a: {b: 1, b: 2}\n", `f.yaml:1:11: duplicate key "b", first at line 1`},
		{"key twice in JSON", `{"a": [{"b": 1, "b": 2}]}`, `f.yaml:1:17: duplicate key "b", first at line 1`},
		{"key twice, once in quotes", "a: 1\n\"a\": 2\n", `f.yaml:2:1: duplicate key "a", first at line 1`},
		{"second document", "a: 1\n---\nb: 1\nb: 2\n", `f.yaml:4:1: duplicate key "b", first at line 3`},
		{"key twice below an anchor", "a: &x {b: 1, b: 2}\nc: *x\n", `f.yaml:1:14: duplicate key "b", first at line 1`},
		{"unknown anchor", "a: 1\nb: *x\n", "f.yaml: invalid YAML: unknown anchor 'x' referenced"},
		{"control character", "a: \x01\n", "f.yaml:1:4: invalid YAML: the control character U+0001 is not allowed"},
		{"control character of Latin", "a: 1\né: 'é\u0090'\n", "f.yaml:2:6: invalid YAML: the control character U+0090 is not allowed"},
		{"delete", "\uFEFFa: \x7f\n", "f.yaml:1:4: invalid YAML: the control character U+007F is not allowed"},
		{"NUL", "a: 1\r\nb: \x00\r\n", "f.yaml:2:4: invalid YAML: the control character U+0000 is not allowed"},
		{"no character", "a: \uFFFF\n", "f.yaml:1:4: invalid YAML: the control character U+FFFF is not allowed"},
		{"not UTF-8", "a: 1\nb: \xff\n", "f.yaml:2:4: invalid YAML: is not UTF-8"},
		{"half a character", "a: 1\n\nb: é\xc3", "f.yaml:3:5: invalid YAML: is not UTF-8"},
		{"surrogate", "# é \xed\xa0\x80\n", "f.yaml:1:5: invalid YAML: is not UTF-8"},
		{"UTF-16, little end first", "\xff\xfea\x00:\x00 \x001\x00", "f.yaml: is UTF-16, want UTF-8"},
		{"UTF-16, big end first", "\xfe\xff\x00a\x00:\x00 \x001", "f.yaml: is UTF-16, want UTF-8"},
		{"UTF-16 without a mark", "a\x00:\x00 \x001\x00", "f.yaml:1:2: invalid YAML: the control character U+0000 is not allowed"},
		{"byte order mark of a second document", "a: 1\n---\n\uFEFFb: 1\n", "f.yaml:3:1: invalid YAML: byte order mark inside the file"},
		{"two byte order marks", "\uFEFF\uFEFFa: 1\nb: 1\n", "f.yaml:1:1: invalid YAML: byte order mark inside the file"},
		{"key twice, once explicit", "a: 1\n? a\n: 2\n", `f.yaml:2:3: duplicate key "a", first at line 1`},
		{"key twice, once a block", "a: 1\n? |-\n  a\n: 2\n", `f.yaml:2:3: duplicate key "a", first at line 1`},
		{"key twice, once an escape", "a: 1\n\"\\x61\": 2\n", `f.yaml:2:1: duplicate key "a", first at line 1`},
		{"key in base64", "containers: [{!!binary aW1hZ2U=: x}]\n", `f.yaml:1:15: key "aW1hZ2U=" has the tag !!binary, and readers differ in what it is called (write the key as text)`},
		{"key in base64, by its long tag", "!<tag:yaml.org,2002:binary> aW1hZ2U=: x\n", `f.yaml:1:1: key "aW1hZ2U=" has the tag !!binary, and readers differ in what it is called (write the key as text)`},
		{"key in base64, by a handle", "%TAG !b! tag:yaml.org,2002:\n---\n!b!binary aW1hZ2U=: x\n", `f.yaml:3:1: key "aW1hZ2U=" has the tag !!binary, and readers differ in what it is called (write the key as text)`},
		{"key in base64, by an alias", "a: &a !!binary aW1hZ2U=\n*a : x\n", `f.yaml:2:1: key "a" has the tag !!binary, and readers differ in what it is called (write the key as text)`},
		{"key with a tag of its own", "!own image: x\n", `f.yaml:1:1: key "image" has the tag !own, and readers differ in what it is called (write the key as text)`},
		{"key that is said to be a number", "!!int '1': x\n", `f.yaml:1:1: key "1" has the tag !!int, and readers differ in what it is called (write the key as text)`},
		{"key twice, once tagged", "a: 1\n!!str a: 2\n", `f.yaml:2:1: duplicate key "a", first at line 1`},
		{"key twice, once an alias", "&a a: 1\n*a : 2\n", `f.yaml:2:1: duplicate key "a", first at line 1`},
		{"key twice, another type between", "1: a\n\"1\": b\n1: c\n", `f.yaml:3:1: duplicate key "1", first at line 1`},
		{"merge twice", "a: &a {}\nb:\n  <<: *a\n  <<: *a\n", `f.yaml:4:3: duplicate key "<<", first at line 3`},
		{"key twice below an explicit key", "? {a: 1, a: 2}\n: b\n", `f.yaml:1:10: duplicate key "a", first at line 1`},
		{"alias of another document", "a: &x 1\n---\nb: *x\n", "f.yaml:3:4: invalid YAML: the anchor of *x is in another document"},
		{"YAML 1.2", "%YAML 1.2\n---\na: 1\n", "f.yaml:1: invalid YAML: found incompatible YAML document (a %YAML directive can only say 1.1)"},
		{"YAML 1.2 of a second document", "a: 1\n...\n%YAML 1.2\n---\na: 1\n", "f.yaml:3: invalid YAML: found incompatible YAML document (a %YAML directive can only say 1.1)"},
		{"unknown tag handle", "a: 1\nb: !e!x 1\n", "f.yaml:2: invalid YAML: found undefined tag handle"},
		{"tab in a block", "a: 1\nb: |\n\tx\n", "f.yaml:2: invalid YAML: found a tab character where an indentation space is expected (a tab indents a line of what begins here, YAML requires spaces)"},
		{"tab in the first line", "\ta: 1\n", "f.yaml:1: invalid YAML: found character that cannot start any token (a tab indents here, YAML requires spaces)"},
		{"tab in a text of two lines", "a:\n  b: 1\n\tc: 1\n", "f.yaml:2: invalid YAML: found a tab character that violates indentation (a tab indents a line of what begins here, YAML requires spaces)"},
		{"tab after CR LF", "a:\r\n  b: '1'\r\n\tc: 1\r\n", "f.yaml:3: invalid YAML: found character that cannot start any token (a tab indents here, YAML requires spaces)"},
		{"too deep flow", strings.Repeat("[", 100_000), "f.yaml:1: invalid YAML: exceeded max depth of 10000"},
		{"too deep mappings", strings.Repeat("{a: ", 100_000), "f.yaml:1: invalid YAML: exceeded max depth of 10000"},
		{"too deep lists", strings.Repeat("- ", 100_000), "f.yaml:1: invalid YAML: exceeded max depth of 10000"},
		{"too deep keys", strings.Repeat("? ", 100_000), "f.yaml:1: invalid YAML: exceeded max depth of 10000"},
		{"text behind a document", "'a'\nb\n", "f.yaml:2: invalid YAML: did not find expected <document start>"},
		{"quote that is not closed", "a: 1\nb: 'x\n", "f.yaml:2: invalid YAML: found unexpected end of stream"},
		{"escape of JSON that yaml.v3 lacks", `{"a": "\/"}`, "f.yaml:1: invalid YAML: found unknown escape character"},
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

// A few bytes of aliases that stand for gigabytes, or for themselves, are an error at once.
func TestParseRefusesEndlessAliases(t *testing.T) {
	t.Parallel()
	bomb := func(levels int, join string) string {
		text := "l0: &l0 {x: y}\n"
		for i := range levels {
			text += fmt.Sprintf("l%d: &l%d "+join+"\n", i+1, i+1, i, i)
		}
		return text
	}
	for data, want := range map[string]string{
		bomb(40, "[*l%d, *l%d]"):          "aliases expand to more than 1000000 values",
		bomb(40, "{<<: [*l%d, *l%d]}"):    "aliases expand to more than 1000000 values",
		bomb(4000, "[*l%d, *l%d]"):        "aliases expand to more than 1000000 values",
		bomb(15, "[*l%d, *l%d]"):          "",
		"a: &a [*a]\n":                    "f.yaml:1:8: alias *a is inside its own anchor",
		"a: &a\n  b: [{c: *a}]\n":         "f.yaml:2:11: alias *a is inside its own anchor",
		"a: &a {x: y}\nb: [*a, *a, *a]\n": "",
	} {
		start := time.Now()
		_, err := manifest.Parse("f.yaml", []byte(data))
		switch {
		case want == "" && err != nil:
			t.Errorf("%.60q: %v", data, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%.60q: %v, want %s", data, err, want)
		}
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("%.60q took %s", data, took)
		}
	}
}

func TestCheckResourceNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	for data, want := range map[string]string{
		"apiVersion: v1\nkind: Pod\n":  "",
		"[1]\n":                        "f.yaml:1:1: not a Kubernetes resource: the document is not a mapping",
		"text\n":                       "f.yaml:1:1: not a Kubernetes resource: the document is not a mapping",
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

// manyKeys returns a mapping of keys k0, k1 and so on.
func manyKeys(count int) string {
	var text strings.Builder
	for i := range count {
		fmt.Fprintf(&text, "k%d: 1\n", i)
	}
	return text.String()
}
