package manifest_test

import (
	"bytes"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/manifest"
)

// seeds are what fuzzing begins with, next to the odd forms and what it has found before.
var seeds = []string{
	"a: b\n", "a: 'b' # c\n", "- \"a\"\n- |\n  b\n- >-\n  c\n", "{\"a\": [\"b\", 1]}", "a: &x b\nc: *x\n",
	"\uFEFFä: ü\r\nb: !!str c\r\n---\nd: |+\n  e\n\n", "a: \"\\x41\"\nb: 'c'''\n", "? a\n: b\n", "a:\n- b\n-\n  c\n",
	"a: \u2028b\n", "a: b\u0085c: d\n", "# c\n\n# d\na: 1 # e\n", "a: |2\n   b\n", "a: !<tag:yaml.org,2002:str> b\n",
	"a: ! b\n", "'a': b c\n", "a: [b,\n c]\n", "<<: &m {a: b}\n", "a: b\n  c\n\n  d\n", "a: >1+\n  b\n\n   c\n  d\n\n",
	"a: \"b \\\n  \\  c\n\n  d\"\n", "\uFEFF\uFEFFa: 1\nb: 1\n", "a: \xff\n", "\t- a\n", "a: |\n \tb\n  c\n", "[[[[", "&a [*a]",
}

func addSeeds(f *testing.F, add func(data []byte)) {
	f.Helper()
	for _, seed := range seeds {
		add([]byte(seed))
	}
	for _, c := range odd {
		add([]byte(c.data))
	}
}

// Whatever the input, parsing it ends with an error or with places that are inside of it, and
// without an edit it is given back as it is.
func FuzzParse(f *testing.F) {
	addSeeds(f, func(data []byte) { f.Add(data) })
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := manifest.Parse("f", data)
		if err != nil {
			return
		}
		if !bytes.Equal(file.Bytes(), data) {
			t.Fatal("changed without an edit")
		}
		lines := 1 + strings.Count(string(data), "\n") + strings.Count(string(data), "\r") + strings.Count(string(data), "\u0085") +
			strings.Count(string(data), "\u2028") + strings.Count(string(data), "\u2029")
		for _, doc := range file.Documents {
			everyScalar(doc, func(n *yaml.Node) {
				if n.Line < 1 || n.Line > lines || n.Column < 1 || n.Column > len(data)+1 {
					t.Errorf("%q: %q is at %d:%d", data, n.Value, n.Line, n.Column)
				}
			})
		}
		again, err := manifest.Parse("f", data)
		if err != nil || len(again.Documents) != len(file.Documents) {
			t.Fatalf("%q: %d documents, then %v and %v", data, len(file.Documents), again, err)
		}
	})
}

// An edit of a part of any scalar is refused, or gives a file that reads the same but for that
// part.
func FuzzEdit(f *testing.F) {
	addSeeds(f, func(data []byte) {
		for which := range uint8(3) {
			f.Add(data, which, uint8(0), uint8(255))
			f.Add(data, which, uint8(0), uint8(1))
			f.Add(data, which, uint8(1), uint8(2))
		}
	})
	f.Fuzz(func(t *testing.T, data []byte, which, from, length uint8) {
		file, err := manifest.Parse("f", data)
		if err != nil {
			return
		}
		var nodes []*yaml.Node
		for _, doc := range file.Documents {
			everyScalar(doc, func(n *yaml.Node) { nodes = append(nodes, n) })
		}
		if len(nodes) == 0 {
			return
		}
		node := nodes[int(which)%len(nodes)]
		start := int(from) % (len(node.Value) + 1)
		end := min(len(node.Value), start+int(length))
		span, err := file.ScalarSpan(node, start, end)
		if err != nil {
			return
		}
		const value = "site.example/krt@sha256:0123"
		if err := file.ReplaceSpan(span, value); err != nil {
			t.Fatal(err)
		}
		edited := file.Bytes()
		again, err := manifest.Parse("f", edited)
		if err != nil {
			t.Fatalf("%q became %q: %v", data, edited, err)
		}
		if len(again.Documents) != len(file.Documents) {
			t.Fatalf("%q became %q: %d documents, not %d", data, edited, len(again.Documents), len(file.Documents))
		}
		node.Value = node.Value[:start] + value + node.Value[end:]
		if node.Style&yaml.TaggedStyle == 0 {
			// A number with text in it is a string.
			node.Tag = "!!str"
		}
		for i, doc := range file.Documents {
			if got, want := tree(again.Documents[i], false), tree(doc, false); got != want {
				t.Fatalf("%q became %q:\ngot:  %s\nwant: %s", data, edited, got, want)
			}
		}
	})
}
