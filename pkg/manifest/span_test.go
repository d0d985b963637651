package manifest_test

import (
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/manifest"
)

// A range of a value is edited where the source spells it, whatever the style: only what is
// between « and » is replaced.
func TestEditReplacesWhatSpellsTheRange(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ data, part string }{
		"plain":                                {"a: x «web»:1\n", "web"},
		"plain over two lines":                 {"a: x\n  y «web»\n", "web"},
		"plain, a fold in the range":           {"a: x «web\n   server» y\n", "web server"},
		"plain, empty lines in the range":      {"a: x «web\n\n\n   server» y\n", "web\n\nserver"},
		"plain, LS and NEL":                    {"a: x\u2028 y\u0085 «web»\n", "web"},
		"plain, CR LF":                         {"a: x\r\n  «web»\r\nb: c\r\n", "web"},
		"plain of one document":                {"x\ny «web»", "web"},
		"plain, a key":                         {"x/«web»: 1\n", "web"},
		"plain, an explicit key":               {"? x «web»\n: 1\n", "web"},
		"plain in a flow over lines":           {"[a, {b: x\n «web»}]", "web"},
		"single quotes":                        {"a: 'x «web»'\n", "web"},
		"single quotes, doubled ones before":   {"a: 'it''s ''«web»'''\n", "web"},
		"single quotes, doubled one inside":    {"a: 'x «we''b» y'\n", "we'b"},
		"single quotes over lines":             {"a: 'x  \n\n  y\n  «web» '\n", "web"},
		"double quotes":                        {`a: "x «web»"`, "web"},
		"double quotes, escapes before":        {`a: "\"\\\n\t\x41\u00e9\U0001F600\ \N\_\L\P\0\a\b\e\f\v\r «web»"`, "web"},
		"double quotes, an escape is a letter": {`a: "x «\x77eb»"`, "web"},
		"double quotes, escape inside":         {`a: "x «w\neb» y"`, "w\neb"},
		"double quotes, line continued":        {"a: \"x \\\n   \\ y «we\\\n   b»\"\n", "web"},
		"double quotes, empty lines continued": {"a: \"x\\\n\n\n  «web»\"\n", "web"},
		"double quotes, fold in the range":     {"a: \"x «web \t\n  server»\"\n", "web server"},
		"double quotes, blanks at the edges":   {"a: \"x« web »y\"\n", " web "},
		"double quotes, empty":                 {"a: \"«»\"\n", ""},
		"single quotes, empty":                 {"a: '«»'\n", ""},
		"double quotes, CR LF":                 {"a: \"x\r\n\r\n  «web»\"\r\n", "web"},
		"literal":                              {"a: |\n  x\n\n    y\n  z «web» \n  x\n", "web"},
		"literal, lines in the range":          {"a: |\n  x «y\n\n  web» x\n", "y\n\nweb"},
		"literal, empty lines first":           {"a: |\n\n \n  «web»\n", "web"},
		"literal, indentation indicator":       {"a:\n  b: |2-\n      x\n     «web»\n", "web"},
		"literal, indicator behind":            {"a:\n  b: |+1 # why\n    x\n   «web»\n\n\n", "web"},
		"literal, indented by its first line":  {"a: |3\n     x\n     «web»", "web"},
		"literal, tabs in it":                  {"a: |2\n  \tx\n  \t«web»\n", "web"},
		"literal, CR LF":                       {"a: |\r\n  x\r\n  «web»\r\n", "web"},
		"literal, CR":                          {"a: |\r  x\r  «web»\rb: 1\r", "web"},
		"literal, NEL":                         {"a: |\u0085  x\u0085  «web»\u0085", "web"},
		"literal, LS":                          {"a: |\n  x\u2028  «web»\u2029", "web"},
		"literal, a document":                  {"--- |\n x\n ---\n «web»\n", "web"},
		"literal, a key":                       {"? |\n  «web»\n: 1\n", "web"},
		"literal in a list":                    {"- - |-\n    x\n    «web»\n", "web"},
		"folded":                               {"a: >\n  x\n  «web»\n", "web"},
		"folded, lines in the range":           {"a: >\n  x «web\n  server»\n", "web server"},
		"folded, lines further in":             {"a: >-\n  x\n    y\n\n    z\n  «web»\n\n  y\n", "web"},
		"folded, empty lines":                  {"a: >+\n\n  x\n\n\n  «web»\n\n", "web"},
		"folded, tab first":                    {"a: >\n  x\n  \ty\n  «web»\n", "web"},
		"tag and anchor":                       {"a: !!str &x\n  # why\n  'x «web»'\n", "web"},
		"anchor and tag of a block":            {"a: &x !<tag:yaml.org,2002:str> >2-\n   x\n  «web»\n", "web"},
		"binary":                               {"a: !!binary |\n  «d2Vi»\n", "d2Vi"},
		"own tag":                              {"%TAG !e! tag:example.org,2000:\n---\na: !e!x «web»\n", "web"},
		"not specific tag":                     {"a: ! x «web»\n", "web"},
		"JSON":                                 {"{\"a\":[\"b\",{\"c\":\"x«web»\"}]}", "web"},
		"byte order mark":                      {"\uFEFFa: x «web»\n", "web"},
		"byte order mark, other line":          {"\uFEFFb: 1\na: x «web»\n", "web"},
		"wide characters":                      {"{ä€: '😀é', a: x 😀 «web»}\n", "web"},
		"wide characters in the range":         {"a: \"x «😀web»\"\n", "😀web"},
		"tabs before it":                       {"a:\t\tx «web»\t# c\n", "web"},
		"directive":                            {"%YAML 1.1\n--- # c\na: x «web»\n...\n# c\n---\nb: y\n", "web"},
		"third document":                       {"a: |\n  x\n---\n# x\n...\n---\nb: x «web»\n", "web"},
		"a number":                             {"a: «1.10»\n", "1.10"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before, rest, _ := strings.Cut(c.data, "«")
			source, after, _ := strings.Cut(rest, "»")
			f := parse(t, before+source+after)
			node, start := lastWith(t, f, c.part)
			span, err := f.ScalarSpan(node, start, start+len(c.part))
			if err != nil {
				t.Fatal(err)
			}
			if want := (manifest.Span{Start: len(before), End: len(before + source)}); span != want {
				t.Fatalf("spans %v, want %v", span, want)
			}
			const value = "site.example/krt:1"
			if err := f.ReplaceSpan(span, value); err != nil {
				t.Fatal(err)
			}
			if got, want := string(f.Bytes()), before+value+after; got != want {
				t.Errorf("got  %q\nwant %q", got, want)
			}
			edited := string(f.Bytes())
			want := node.Value[:start] + value + node.Value[start+len(c.part):]
			if got, _ := lastWith(t, parse(t, edited), value); got.Value != want {
				t.Errorf("%q reads as %q, want %q", edited, got.Value, want)
			}
		})
	}
}

// What has no place of its own in the source is refused, with the scalar's place.
func TestSpanRefusesWhatIsNotWhole(t *testing.T) {
	t.Parallel()
	const form = " is written in a form that cannot be edited in place"
	for name, c := range map[string]struct {
		data       string
		start, end int
		want       string
	}{
		"a part of a character":         {"a: 'é'\n", 0, 1, `f.yaml:1:4: "\xc3"` + form},
		"a part of an escaped one":      {`a: "\u00e9x"`, 1, 3, `f.yaml:1:4: "\xa9x"` + form},
		"a part of a fold":              {"a: \"x\n\n\n y\"\n", 0, 2, `f.yaml:1:4: "x\n"` + form},
		"the line break of a block":     {"a: |\n  web\n", 0, 4, `f.yaml:1:4: "web\n"` + form},
		"indentation of a folded line":  {"a: >\n  x\n   y\n", 2, 4, `f.yaml:1:4: " y"` + form},
		"nothing in a plain scalar":     {"a: web\n", 3, 3, `f.yaml:1:4: ""` + form},
		"nothing":                       {"a:\n", 0, 0, `f.yaml:1:3: ""` + form},
		"more than there is":            {"a: web\n", 0, 4, `f.yaml:1:4: "web" has no bytes 0 to 4`},
		"an end before the start":       {"a: web\n", 2, 1, `f.yaml:1:4: "web" has no bytes 2 to 1`},
		"a mapping":                     {"a: {b: 1}\n", 0, 0, `f.yaml:1:4: is not a scalar and cannot be edited in place`},
		"a block of empty lines":        {"a: |+\n\n\n", 0, 1, `f.yaml:1:4: "\n"` + form},
		"beginning of a long value":     {"a: '" + strings.Repeat("x", 100) + "é'\n", 0, 101, `f.yaml:1:4: "` + strings.Repeat("x", 80) + `"…` + form},
		"a blank between plain words":   {"a: x y\n", 1, 2, `f.yaml:1:4: " "` + form},
		"a plain word and its blank":    {"a: x y\n", 0, 2, `f.yaml:1:4: "x "` + form},
		"a line break of a plain value": {"a: x\n\n  y\n", 1, 3, `f.yaml:1:4: "\ny"` + form},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := parse(t, c.data)
			span, err := f.ScalarSpan(f.Documents[0].Content[1], c.start, c.end)
			if err == nil || err.Error() != c.want {
				t.Errorf("got:  %v, %v\nwant: %s", span, err, c.want)
			}
		})
	}
}

// A node that is not of the file, or was changed, is not found by chance.
func TestSpanRefusesAnotherFilesNode(t *testing.T) {
	t.Parallel()
	other := parse(t, "b: 'x'\na: web\nc: |\n  web\nd: \"web\"\ne: >\n  web\nf: 'web'\n")
	for _, data := range []string{"", "a: b\n", "b: 1\na: wet\nc: no\nd: no\ne: no\nf: no\n", "x: 1\n{a: \"b}"[:5]} {
		f := parse(t, data)
		for _, node := range other.Documents[0].Content {
			if node.Value != "web" && node.Value != "web\n" {
				continue
			}
			if span, err := f.ScalarSpan(node, 0, 3); err == nil {
				t.Errorf("%q in %q: %v", node.Value, data, span)
			}
		}
	}
}

func TestEditRefusesWhatItCantPut(t *testing.T) {
	t.Parallel()
	f := parse(t, "a: web\nb: 'é server'\n")
	for _, c := range []struct {
		span  manifest.Span
		value string
		want  string
	}{
		{manifest.Span{Start: 3, End: 6}, "krt", ""},
		{manifest.Span{Start: 3, End: 6}, "krt", ""},
		{manifest.Span{Start: 3, End: 6}, "other", `f.yaml:1:4: is edited twice, the second time to "other"`},
		{manifest.Span{Start: 2, End: 4}, "x", `f.yaml:1:3: is edited twice, the second time to "x"`},
		{manifest.Span{Start: 5, End: 7}, "x", `f.yaml:1:6: is edited twice, the second time to "x"`},
		{manifest.Span{Start: 3, End: 3}, "x", `f.yaml:1:4: is edited twice, the second time to "x"`},
		{manifest.Span{Start: 14, End: 20}, "a b", `f.yaml:2:7: "a b" cannot be written here: it has characters that are not allowed in image references`},
		{manifest.Span{Start: 14, End: 20}, "a'", `f.yaml:2:7: "a'" cannot be written here: it has characters that are not allowed in image references`},
		{manifest.Span{Start: -1, End: 2}, "x", "f.yaml: has no bytes -1 to 2"},
		{manifest.Span{Start: 4, End: 3}, "x", "f.yaml: has no bytes 4 to 3"},
		{manifest.Span{Start: 4, End: 40}, "x", "f.yaml: has no bytes 4 to 40"},
		{manifest.Span{Start: 14, End: 20}, "krt", ""},
		{manifest.Span{Start: 0, End: 1}, "z", ""},
	} {
		got := ""
		if err := f.ReplaceSpan(c.span, c.value); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%v %q:\ngot:  %s\nwant: %s", c.span, c.value, got, c.want)
		}
	}
	if got, want := string(f.Bytes()), "z: krt\nb: 'é krt'\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// JSON in a YAML block in a JSON string: each level's span is a range of the value around it.
func TestSpanNests(t *testing.T) {
	t.Parallel()
	const data = "\uFEFF{\"é\": 1,\r\n \"data\": {\"x.yaml\": \"# \\u00e9\\nspec: |\\n" +
		"    {\\\"n\\\": \\\"\\\\n\\\",\\n     \\\"image\\\": \\\"x.org/web:1\\\"}\\n\"}}"
	outer := parse(t, data)
	node := manifest.GetValue(manifest.GetValue(outer.Documents[0], "data"), "x.yaml")
	middle := parse(t, node.Value)
	block := manifest.GetValue(middle.Documents[0], "spec")
	inner := parse(t, block.Value)
	image := manifest.GetValue(inner.Documents[0], "image")
	span, err := inner.ScalarSpan(image, 0, len(image.Value))
	if err != nil {
		t.Fatal(err)
	}
	if span, err = middle.ScalarSpan(block, span.Start, span.End); err != nil {
		t.Fatal(err)
	}
	if span, err = outer.ScalarSpan(node, span.Start, span.End); err != nil {
		t.Fatal(err)
	}
	if err := outer.ReplaceSpan(span, "site.example/krt"); err != nil {
		t.Fatal(err)
	}
	if got, want := string(outer.Bytes()), strings.Replace(data, "x.org/web:1", "site.example/krt", 1); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func parse(t *testing.T, data string) *manifest.File {
	t.Helper()
	f, err := manifest.Parse("f.yaml", []byte(data))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// lastWith returns the last scalar, key or value, that a text is in, and where in its value.
func lastWith(t *testing.T, f *manifest.File, part string) (*yaml.Node, int) {
	t.Helper()
	var found *yaml.Node
	for _, doc := range f.Documents {
		everyScalar(doc, func(n *yaml.Node) {
			if strings.Contains(n.Value, part) && (part != "" || n.Value == "") {
				found = n
			}
		})
	}
	if found == nil {
		t.Fatalf("no scalar has %q", part)
	}
	return found, strings.LastIndex(found.Value, part)
}

// everyScalar walks over the scalars of a node in the file's order, keys too.
func everyScalar(node *yaml.Node, yield func(*yaml.Node)) {
	if node.Kind == yaml.ScalarNode {
		yield(node)
	}
	for _, child := range node.Content {
		everyScalar(child, yield)
	}
}
