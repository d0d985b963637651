package manifest_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/manifest"
)

// odd are forms that YAML has and few expect, with the tree that each is.
var odd = map[string]struct{ data, want string }{
	"byte order mark":               {"\uFEFFa: 1\n", "{1:1 str a=1:4 int 1}"},
	"byte order mark and a comment": {"\uFEFF# c\r\na: 1", "{2:1 str a=2:4 int 1}"},
	"byte order mark and a marker":  {"\uFEFF---\na: 1", "{2:1 str a=2:4 int 1}"},
	"nothing":                       {"", ""},
	"only a byte order mark":        {"\uFEFF", ""},
	"only comments":                 {"# a\n\n  # b\n#c", ""},
	"only markers":                  {"---\n---\n...\n---", ""},
	"YAML 1.1":                      {"%YAML 1.1\n---\na: 1\n", "{3:1 str a=3:4 int 1}"},
	"unknown directive's namesake":  {"a: '%YAML 1.2'\n", "{1:1 str a=1:4 str %YAML 1.2}"},
	"end markers":                   {"a: 1\n...\n# c\n...\n---\nb: 2\n...\n", "{1:1 str a=1:4 int 1} {6:1 str b=6:4 int 2}"},
	"markers with comments":         {"--- # a\na: 1\n---  \t\nb: 2\n", "{2:1 str a=2:4 int 1} {4:1 str b=4:4 int 2}"},
	"content behind a marker":       {"--- a\n--- {b: 1}\n--- 'c'\n", "1:5 str a {2:6 str b=2:9 int 1} 3:5 str c"},
	"a literal document":            {"--- |\n a: 1\n ---\n--- >-\n b\n", "1:5 str a: 1\\n---\\n 4:5 str b"},
	"markers in a block":            {"a: |\n  ---\n  ...\n   ---\nb: 1\n", "{1:1 str a=1:4 str ---\\n...\\n ---\\n 5:1 str b=5:4 int 1}"},
	"indented markers":              {"a:\n  ---\nb: x\n ---\n", "{1:1 str a=2:3 str --- 3:1 str b=3:4 str x ---}"},
	"markers in quotes":             {"a: '\n ---\n ...'\n", "{1:1 str a=1:4 str  --- ...}"},
	"tags":                          {"a: !!str 1\nb: !!binary eA==\nc: !own 1\nd: !<x:y> 2\ne: ! 3\n", "{1:1 str a=1:4 str 1 2:1 str b=2:4 binary eA== 3:1 str c=3:4 !own 1 4:1 str d=4:4 x:y 2 5:1 str e=5:4 str 3}"},
	"merge keys":                    {"a: &a {b: 1}\nc:\n  <<: *a\n  '<<': 1\n  b: 2\n", "{1:1 str a={1:8 str b=1:11 int 1} 2:1 str c={3:3 merge <<=*a 4:3 str <<=4:9 int 1 5:3 str b=5:6 int 2}}"},
	"base 60":                       {"[190:20:30, 12:30, 1:1]", "[1:2 str 190:20:30 1:13 str 12:30 1:20 str 1:1]"},
	"floats":                        {"[.inf, -.Inf, .nan, 1e3, 1_0.5, .5]", "[1:2 float .inf 1:8 float -.Inf 1:15 float .nan 1:21 float 1e3 1:26 float 1_0.5 1:33 float .5]"},
	"integers":                      {"[0o17, 0x11, 010, 0b1, 1_000, +1, 18446744073709551616]", "[1:2 int 0o17 1:8 int 0x11 1:14 int 010 1:19 int 0b1 1:24 int 1_000 1:31 int +1 1:35 float 18446744073709551616]"},
	"booleans of old":               {"[yes, no, on, off, y, n, true, False]", "[1:2 str yes 1:7 str no 1:11 str on 1:15 str off 1:20 str y 1:23 str n 1:26 bool true 1:32 bool False]"},
	"nulls":                         {"[~, null, '', Null]", "[1:2 null ~ 1:5 null null 1:11 str  1:15 null Null]"},
	"timestamps":                    {"[2001-12-14, 2001-12-14T21:59:43Z, '2001-12-14']", "[1:2 timestamp 2001-12-14 1:14 timestamp 2001-12-14T21:59:43Z 1:36 str 2001-12-14]"},
	"keys of different types":       {"1: a\n'1': b\ntrue: c\n'true': d\n", "{1:1 int 1=1:4 str a 2:1 str 1=2:6 str b 3:1 bool true=3:7 str c 4:1 str true=4:9 str d}"},
	"complex keys":                  {"? [a, b]\n: c\n? {d: e}\n: f\n? g\n", "{[1:4 str a 1:7 str b]=2:3 str c {3:4 str d=3:7 str e}=4:3 str f 5:3 str g=6:1 null }"},
	"nothing at the end":            {"? a\n: b\n? c", "{1:3 str a=2:3 str b 3:3 str c=3:4 null }"},
	"CR":                            {"a: 1\rb: |\r  x\r# c\r---\rc: 2\r", "{1:1 str a=1:4 int 1 2:1 str b=2:4 str x\\n} {6:1 str c=6:4 int 2}"},
	"CR LF":                         {"a: 1\r\nb: |\r\n  x\r\n\r\n---\r\nc: 2\r\n", "{1:1 str a=1:4 int 1 2:1 str b=2:4 str x\\n} {6:1 str c=6:4 int 2}"},
	"NEL, LS and PS":                {"a: 1\u0085b: 2\u2028c: 3\u2029d: 4", "{1:1 str a=1:4 int 1 2:1 str b=2:4 int 2 3:1 str c=3:4 int 3 4:1 str d=4:4 int 4}"},
	"an anchor again":               {"a: &x 1\nb: &x 2\nc: *x\n", "{1:1 str a=1:4 int 1 2:1 str b=2:4 int 2 3:1 str c=*x}"},
	"wide characters":               {"😀é: \U0001D11E\n", "{1:1 str 😀é=1:5 str \U0001D11E}"},
	"tabs between":                  {"a:\t1\t# c\nb: [\t2\t]\n", "{1:1 str a=1:4 int 1 2:1 str b=[2:6 int 2]}"},
}

func TestParseReadsOddForms(t *testing.T) {
	t.Parallel()
	for name, c := range odd {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := parse(t, c.data)
			var docs []string
			for _, doc := range f.Documents {
				docs = append(docs, tree(doc, true))
			}
			if got := strings.Join(docs, " "); got != c.want {
				t.Errorf("got:  %s\nwant: %s", got, c.want)
			}
		})
	}
}

// tree writes a node down: kinds, tags and values, with places or with styles.
func tree(node *yaml.Node, places bool) string {
	var out strings.Builder
	writeTree(&out, node, places)
	return out.String()
}

func writeTree(out *strings.Builder, node *yaml.Node, places bool) {
	if !places {
		fmt.Fprintf(out, "%s &%s %d ", node.Tag, node.Anchor, node.Style)
	}
	edges := "[]"
	switch node.Kind {
	case yaml.AliasNode:
		out.WriteString("*" + node.Value)
		return
	case yaml.ScalarNode:
		if places {
			fmt.Fprintf(out, "%d:%d %s ", node.Line, node.Column, strings.TrimPrefix(node.Tag, "!!"))
		}
		out.WriteString(strings.ReplaceAll(node.Value, "\n", "\\n"))
		return
	case yaml.MappingNode:
		edges = "{}"
	}
	out.WriteByte(edges[0])
	for i, child := range node.Content {
		switch {
		case i > 0 && node.Kind == yaml.MappingNode && i%2 == 1:
			out.WriteByte('=')
		case i > 0:
			out.WriteByte(' ')
		}
		writeTree(out, child, places)
	}
	out.WriteByte(edges[1])
}

// Nesting as deep as the limit is read.
func TestParseReadsDeepNesting(t *testing.T) {
	t.Parallel()
	for _, data := range []string{
		strings.Repeat("[", 199) + strings.Repeat("]", 199),
		strings.Repeat("{a: ", 198) + "{a: 1, a: 2}" + strings.Repeat("}", 198),
		strings.Repeat("- ", 199) + "x\n",
	} {
		_, err := manifest.Parse("f.yaml", []byte(data))
		if twice := strings.Contains(data, "a: 2"); twice != (err != nil) {
			t.Errorf("%s…: %v", data[:8], err)
		}
	}
}

// A line of megabytes with many scalars takes no time that grows with its square.
func TestLongLine(t *testing.T) {
	t.Parallel()
	const item, count = `{"é": "a\n", "image": "x.org/web:1.0", "n": [1, 'x']}, `, 40_000
	data := "[" + strings.Repeat(item, count) + "]"
	start := time.Now()
	f := parse(t, data)
	parsed := time.Now()
	for _, node := range f.Documents[0].Content {
		span, err := f.ScalarSpan(node.Content[3], 0, 5)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.ReplaceSpan(span, "y.org"); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(f.Bytes(), []byte(strings.ReplaceAll(data, "x.org", "y.org"))) {
		t.Error("the edits are not where the images are")
	}
	t.Logf("%d bytes: parsed in %v, %d spans edited in %v", len(data), parsed.Sub(start), count, time.Since(parsed))
	fast(t, parsed, time.Minute)
}

// One scalar of megabytes is read once, however many spans it has.
func TestLongScalar(t *testing.T) {
	t.Parallel()
	const item, count = `{\"é\": \"a\\n\", \"image\": \"x.org/web:1.0\"}, `, 60_000
	data := `{"a": "` + strings.Repeat(item, count) + `"}`
	f := parse(t, data)
	parsed := time.Now()
	node := f.Documents[0].Content[1]
	for at := 0; ; at++ {
		n := strings.Index(node.Value[at:], "x.org")
		if n < 0 {
			break
		}
		at += n
		span, err := f.ScalarSpan(node, at, at+5)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.ReplaceSpan(span, "y.org"); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(f.Bytes(), []byte(strings.ReplaceAll(data, "x.org", "y.org"))) {
		t.Error("the edits are not where the images are")
	}
	t.Logf("%d bytes: %d spans edited in %v", len(data), count, time.Since(parsed))
	fast(t, parsed, time.Minute)
}

func TestManyDocuments(t *testing.T) {
	t.Parallel()
	const doc, count = "---\n# c\napiVersion: v1\nkind: Pod\nspec: {containers: [{image: x.org/web}]}\ntext: |\n  ---\n  a\n", 10_000
	start := time.Now()
	f := parse(t, strings.Repeat(doc, count))
	if len(f.Documents) != count {
		t.Errorf("%d documents, want %d", len(f.Documents), count)
	}
	t.Logf("%d documents in %v", count, time.Since(start))
	fast(t, start, 10*time.Second)
}

// fast fails where what began at a time took longer than it may. The bound is far above what
// it takes, even with the race detector, and far below what anything quadratic would.
func fast(t *testing.T, since time.Time, bound time.Duration) {
	t.Helper()
	if took := time.Since(since); took > bound {
		t.Errorf("took %v, want less than %v", took, bound)
	}
}
