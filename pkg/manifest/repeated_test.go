package manifest_test

import (
	"fmt"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/pkg/manifest"
)

// Of a duplicate key the last value stays, and every byte of the rest.
func TestDropRepeated(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ data, want, dropped string }{
		"none":            {"a: 1 # x\nb:\n  a: 2\n", "a: 1 # x\nb:\n  a: 2\n", "[]"},
		"block":           {"a: 1 # one\nb: 2\na:   3 # three\n", "b: 2\na:   3 # three\n", "[{a 1 3}]"},
		"thrice":          {"x:\n  a: 1\n  a:\n    b: 2\n  a: 3\n  c: 4\n", "x:\n  a: 3\n  c: 4\n", "[{a 2 5} {a 3 5}]"},
		"flow":            {"{a: 1, b: {c: [1, 2], c: 2}, a: 3}\n", "{b: {c: 2}, a: 3}\n", "[{a 1 1} {c 1 1}]"},
		"JSON":            {`{"a": 1, "a": {"b": 1, "b": 2}}`, `{"a": {"b": 2}}`, "[{a 1 1} {b 1 1}]"},
		"in a list":       {"- a: 1\n  a: 2\n- a: 3\n", "- a: 2\n- a: 3\n", "[{a 1 2}]"},
		"inside dropped":  {"a:\n  b: 1\n  b: 2\na: 3\n", "a: 3\n", "[{a 1 4}]"},
		"documents":       {"# Source: a\na: 1\na: 2\n---\n# Source: b\nb: 1\n---\nb: 1\nb: 2\n", "# Source: a\na: 2\n---\n# Source: b\nb: 1\n---\nb: 2\n", "[{a 2 3} {b 8 9}]"},
		"block scalars":   {"a: |\n  b: 1\n\nb: 1\na: >-\n  x\n", "b: 1\na: >-\n  x\n", "[{a 1 5}]"},
		"quotes":          {"'a': 1\n\"a\": 2\na: 3\n", "a: 3\n", "[{a 1 3} {a 2 3}]"},
		"explicit":        {"? a\n: 1\n? a\n: 2\n", "? a\n: 2\n", "[{a 1 3}]"},
		"CRLF":            {"a: 1\r\na: 2\r\n", "a: 2\r\n", "[{a 1 2}]"},
		"an anchor stays": {"x: &x 1\na: *x\na: 2\nb: *x\n", "x: &x 1\na: 2\nb: *x\n", "[{a 2 3}]"},
		"no YAML":         {"a: [\n", "a: [\n", "[]"},
		// Two keys to helm and kubectl: true and "on".
		"old booleans": {"on: 1\n'on': 2\n", "on: 1\n'on': 2\n", "[]"},
		"types":        {"1: a\n'1': b\n", "1: a\n'1': b\n", "[]"},
	} {
		got, dropped, err := manifest.DropRepeated("f", []byte(c.data))
		if err != nil || string(got) != c.want || fmt.Sprint(dropped) != c.dropped {
			t.Errorf("%s: %v, %v\n%s", name, err, dropped, got)
		}
	}
	for name, c := range map[string]struct{ data, want string }{
		"an anchor that goes": {"a: &x 1\na: 2\nb: *x\n", `f:2:1: duplicate key "a", first at line 1`},
		"a mapping of a key":  {"? a\n: 1\na: 2\n", `f:3:1: duplicate key "a", first at line 1`},
	} {
		if got, _, err := manifest.DropRepeated("f", []byte(c.data)); err == nil || err.Error() != c.want {
			t.Errorf("%s: %v\n%s", name, err, got)
		}
	}
	deep := strings.Repeat("a: {a: 1, ", 200) + "b: 1" + strings.Repeat("}", 200) + "\n"
	if got, _, err := manifest.DropRepeated("f", []byte(deep)); err != nil {
		t.Errorf("%v\n%s", err, got)
	}
}
