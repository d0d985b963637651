package manifest_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/manifest"
)

// corpus returns the folder of upstream manifests, next to the checkout if nothing else is said.
func corpus(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("KRTPKG_TEST_UPSTREAM")
	if dir == "" {
		dir = "../../../shared/upstream"
	}
	if _, err := os.Stat(filepath.Join(dir, "odd-cases.tsv")); err != nil {
		t.Fatalf("no upstream manifests, name their folder in KRTPKG_TEST_UPSTREAM: %v", err)
	}
	return dir
}

// templates are those outside of folders of that name.
var templates = []string{"k3s-addons/coredns.yaml", "fluent-bit/dashboards/fluent-bit.json"}

// isTemplate reports whether a file is only YAML when Helm, or k3s, has rendered it.
func isTemplate(path string, data []byte) bool {
	return strings.Contains(path, "/templates/") && bytes.Contains(data, []byte("{{")) ||
		slices.ContainsFunc(templates, func(name string) bool { return strings.HasSuffix(path, name) })
}

type oddCase struct {
	class, file string
	line        int
	detail      string
}

func oddCases(t *testing.T, dir string) []oddCase {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "odd-cases.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	var cases []oddCase
	for row := range strings.Lines(string(data)) {
		columns := strings.SplitN(strings.TrimSuffix(row, "\n"), "\t", 4)
		if columns[0] == "case" {
			continue
		}
		line, err := strconv.Atoi(columns[2])
		if err != nil {
			t.Fatal(err)
		}
		cases = append(cases, oddCase{columns[0], columns[1], line, columns[3]})
	}
	return cases
}

// Each odd line of real manifests reads as what it is, and each duplicate key is found.
func TestOddCasesOfUpstream(t *testing.T) {
	t.Parallel()
	dir := corpus(t)
	byFile := map[string][]oddCase{}
	for _, c := range oddCases(t, dir) {
		byFile[c.file] = append(byFile[c.file], c)
	}
	held, skipped := map[string]int{}, map[string]int{}
	for _, name := range slices.Sorted(maps.Keys(byFile)) {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		count := held
		if isTemplate(name, data) || strings.HasSuffix(name, ".txt") || strings.HasSuffix(name, ".tpl") {
			count = skipped
		} else if lines := duplicates(byFile[name]); lines != nil {
			_, err := manifest.Parse(name, data)
			problem, ok := err.(*manifest.Error)
			if !ok || !slices.Contains(lines, problem.Line) || !strings.Contains(problem.Problem, "first at line ") {
				t.Errorf("%s: %v, want a duplicate key at %v", name, err, lines)
			}
		} else {
			odd := newOddFile(t, name, data)
			for _, c := range byFile[name] {
				if problem := odd.check(c); problem != "" {
					t.Errorf("%s: %s:%d (%s): %s", c.class, c.file, c.line, c.detail, problem)
				}
			}
		}
		for _, c := range byFile[name] {
			count[c.class]++
		}
	}
	t.Logf("checked: %v", held)
	t.Logf("of Helm templates: %v", skipped)
}

// duplicates returns the lines with a key that was there before.
func duplicates(cases []oddCase) []int {
	var lines []int
	for _, c := range cases {
		if c.class == "duplicate-key" {
			lines = append(lines, c.line)
		}
	}
	return lines
}

// oddFile is a file of odd lines.
type oddFile struct {
	*manifest.File
	data    []byte
	lines   []string
	scalars []*yaml.Node
	last    map[*yaml.Node]int // the line that a scalar ends on
}

func newOddFile(t *testing.T, name string, data []byte) *oddFile {
	t.Helper()
	f, err := manifest.Parse(name, data)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(f.Bytes(), data) {
		t.Errorf("%s: changed without an edit", name)
	}
	odd := &oddFile{File: f, data: data, lines: strings.Split(string(data), "\n"), last: map[*yaml.Node]int{}}
	for _, doc := range f.Documents {
		everyScalar(doc, func(n *yaml.Node) {
			odd.scalars = append(odd.scalars, n)
			odd.last[n] = n.Line
			end := strings.TrimRight(n.Value, " \t\n")
			if span, err := f.ScalarSpan(n, len(end)-len(strings.TrimLeft(end, " \t\n")), len(end)); err == nil {
				odd.last[n], _ = f.Position(span.End)
			}
		})
	}
	return odd
}

// check returns what is wrong with an odd line, if anything.
func (f *oddFile) check(c oddCase) string {
	text := ""
	if c.line > 0 && c.line <= len(f.lines) {
		text = f.lines[c.line-1]
	}
	_, value, _ := strings.Cut(c.detail, ": ")
	value = strings.Trim(value, `"'`)
	value = strings.TrimSuffix(value, " (str)")
	is := func(want func(*yaml.Node) bool) string {
		for _, n := range f.scalars {
			if n.Line <= c.line && c.line <= f.last[n] && want(n) {
				return ""
			}
		}
		return fmt.Sprintf("no such scalar in %q", text)
	}
	plain := func(tags ...string) string {
		return is(func(n *yaml.Node) bool {
			return n.Style == 0 && slices.Contains(tags, n.Tag) && strings.HasPrefix(n.Value, value) && f.source(n) == n.Value
		})
	}
	switch c.class {
	case "big-int", "hex-plain", "octal-plain":
		return plain("!!int")
	case "date-plain":
		return plain("!!timestamp", "!!str")
	case "exponent-plain":
		return plain("!!str")
	case "bool-null-quoted", "number-quoted", "date-quoted":
		return is(func(n *yaml.Node) bool {
			return n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0 && n.Tag == "!!str" &&
				strings.HasPrefix(n.Value, value) && f.source(n) == n.Value
		})
	case "block-keep":
		return is(func(n *yaml.Node) bool {
			return n.Style == yaml.LiteralStyle && n.Line == c.line && strings.Contains(text, "|+")
		})
	case "folded-block":
		return is(func(n *yaml.Node) bool { return n.Style == yaml.FoldedStyle && n.Line == c.line })
	case "doc-marker-in-block-scalar":
		return is(func(n *yaml.Node) bool { return strings.Contains("\n"+n.Value, "\n---") })
	case "trailing-space-in-block":
		return is(func(n *yaml.Node) bool {
			return strings.Contains(n.Value, " \n") && n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0
		})
	case "envsubst":
		return is(func(n *yaml.Node) bool { return strings.Contains(n.Value, "${") })
	case "template-in-plain", "go-template-in-configmap":
		return is(func(n *yaml.Node) bool { return strings.Contains(n.Value, "{{") })
	case "indented-dashes", "lone-dash", "question-mark-line":
		return is(func(n *yaml.Node) bool {
			return n.Tag == "!!str" && strings.Contains(n.Value, strings.Trim(text, " '"))
		})
	case "non-ascii":
		if strings.IndexFunc(text, func(r rune) bool { return r > 0x7F }) < 0 {
			return "no such character in " + text
		}
	case "comment-dashes", "empty-document":
		for _, doc := range f.Documents {
			if doc.Line == c.line {
				return "a document begins here"
			}
		}
	case "doc-marker-variant":
		if is(func(*yaml.Node) bool { return true }) == "" {
			return "a scalar goes on over it"
		}
	case "empty-file":
		if len(f.Documents) != 0 {
			return "there are documents"
		}
	case "no-final-newline":
		if strings.HasSuffix(string(f.Bytes()), "\n") {
			return "there is one"
		}
	case "json-document":
		if f.Documents[0].Style != yaml.FlowStyle {
			return "is not a flow mapping"
		}
	case "list":
		if kind := manifest.GetValue(f.Documents[0], "kind"); !strings.HasSuffix(kind.Value, "List") {
			return "is a " + kind.Value
		}
	case "crd-over-256KiB":
		if !slices.ContainsFunc(f.Documents, func(doc *yaml.Node) bool {
			return doc.Line >= c.line-1 && manifest.GetValue(doc, "kind").Value == "CustomResourceDefinition"
		}) {
			return "no CRD begins here"
		}
	case "long-line":
		if n, _ := strconv.Atoi(strings.Fields(c.detail)[0]); len(text) < n {
			return fmt.Sprintf("has %d bytes", len(text))
		}
	case "anchor":
		return is(func(n *yaml.Node) bool { return "&"+n.Anchor == c.detail })
	case "alias":
		return is(func(n *yaml.Node) bool { return strings.HasSuffix(text, c.detail) })
	case "complex-key":
		return is(func(n *yaml.Node) bool { return strings.Contains(text, "{{"+n.Value+"}}") })
	default:
		return "is an unknown class"
	}
	return ""
}

// source returns how a scalar's value is written.
func (f *oddFile) source(n *yaml.Node) string {
	span, err := f.ScalarSpan(n, 0, len(n.Value))
	if err != nil {
		return err.Error()
	}
	return string(f.data[span.Start:span.End])
}

// Every scalar of the upstream files has a span that spells it, and an edit of every string in
// a file changes these and nothing else.
func TestEditsOfUpstream(t *testing.T) {
	t.Parallel()
	dir := corpus(t)
	files, scalars, refused, edits := 0, 0, 0, 0
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !slices.Contains([]string{".yaml", ".yml", ".json", ".manifest"}, filepath.Ext(path)) {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil || isTemplate(path, data) {
			return err
		}
		f, err := manifest.Parse(path, data)
		if err != nil {
			if !strings.Contains(err.Error(), "first at line ") {
				t.Error(err)
			}
			return nil
		}
		files++
		for _, doc := range f.Documents {
			everyScalar(doc, func(n *yaml.Node) {
				if n.Value == "" && n.Tag == "!!null" {
					return
				}
				scalars++
				if problem := spells(f, data, n); problem != "" {
					refused++
					t.Logf("%s:%d:%d: %s", path, n.Line, n.Column, problem)
				}
			})
		}
		edits += editAll(t, f, data)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d files, %d scalars, %d refused; %d edits", files, scalars, refused, edits)
	if files < 1000 || refused > 0 {
		t.Errorf("%d files with %d scalars that can't be edited", files, refused)
	}
}

// spells returns what is wrong with the span of a whole scalar, less the edges of a block.
func spells(f *manifest.File, data []byte, n *yaml.Node) string {
	start, end := 0, len(n.Value)
	block := n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0
	if block {
		end = len(strings.TrimRight(n.Value, " \t\n"))
		start = end - len(strings.TrimLeft(n.Value[:end], " \t\n"))
		if start == end {
			return ""
		}
	}
	span, err := f.ScalarSpan(n, start, end)
	if err != nil {
		return err.Error()
	}
	source := string(data[span.Start:span.End])
	if n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0 {
		quote := data[span.Start-1 : span.Start]
		var value string
		if err := yaml.Unmarshal(slices.Concat(quote, []byte(source), quote), &value); err != nil || value != n.Value {
			return fmt.Sprintf("%s spells %q, not %q: %v", source, value, n.Value, err)
		}
	} else if !slices.Equal(strings.Fields(source), strings.Fields(n.Value[start:end])) {
		return fmt.Sprintf("%s does not spell %q", source, n.Value)
	}
	return ""
}

// editAll edits each string of a file that is a value and not a key, and says how many.
func editAll(t *testing.T, f *manifest.File, data []byte) int {
	t.Helper()
	const value = "registry.example/x@sha256:0000000000000000000000000000000000000000000000000000000000000000"
	const characters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-/:@+"
	var spans []manifest.Span
	for _, doc := range f.Documents {
		scalars(doc, func(n *yaml.Node) {
			start := strings.IndexAny(n.Value, characters)
			if n.Tag != "!!str" || start < 0 {
				return
			}
			end := len(n.Value) - len(strings.TrimLeft(n.Value[start:], characters))
			span, err := f.ScalarSpan(n, start, end)
			if err == nil {
				err = f.ReplaceSpan(span, value)
			}
			if err != nil {
				t.Error(err)
				return
			}
			spans = append(spans, span)
			n.Value = n.Value[:start] + value + n.Value[end:]
		})
	}
	edited := f.Bytes()
	slices.SortFunc(spans, func(a, b manifest.Span) int { return a.Start - b.Start })
	var want []byte
	at := 0
	for _, span := range spans {
		want = append(append(want, data[at:span.Start]...), value...)
		at = span.End
	}
	if !bytes.Equal(edited, append(want, data[at:]...)) {
		t.Errorf("%s: other bytes changed", f.Name)
	}
	again, err := manifest.Parse(f.Name, edited)
	if err != nil {
		t.Error(err)
		return 0
	}
	if len(again.Documents) != len(f.Documents) {
		t.Fatalf("%s: %d documents after edits, not %d", f.Name, len(again.Documents), len(f.Documents))
	}
	for i, doc := range f.Documents {
		if tree(doc, false) != tree(again.Documents[i], false) {
			t.Errorf("%s: document %d differs by more than its edits", f.Name, i+1)
		}
	}
	return len(spans)
}
