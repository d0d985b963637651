package render_test

import (
	"bytes"
	"reflect"
	"testing"

	"gopkg.in/yaml.v3"
	"helm.sh/helm/v4/pkg/chart/v2/loader"

	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/render"
)

// Values that a cluster has kept are those that were given: to helm, which reads what their author
// wrote as it reads them, and byte by byte however often they are kept.
func FuzzKeptValues(f *testing.F) {
	for _, seed := range []string{
		"web: {country: \"NO\", enabled: no, date: 2024-01-02, big: 9007199254740993, octal: 017, time: 12:30:45}\n",
		"web: {on: 1, 'on': 2, 0x10: 3, \"16\": 4, ~: 5, 1e3: 6}\n", "web: &w {a: &a {b: 1}, <<: *a, c: *a}\ndns: *w\n",
		"web:\n  a: |\n    one\n     two\n  b: >-\n    one\n    two\n\n  c: \"x\\ty\\u2028\\n\\n\"\n  d: '  '\n  ? |\n    key\n  : 1\n",
		"web: {a: !!str 5, b: !!float 1, c: !!binary aGk=, d: !own [x], e: ! 5, f: !!set {a, b}}\n",
		"web: {a: , b: [, ], c: {}, d: [], '': x, \"<<\": y, =: z}\n", "web: {a: \"\\x85\\xa0\\ufeff\", b: \"a\\r\\nb\", c: \"\\n x\", d: \"a \\nb\", e: \"\\tx\\ny\"}\n",
		"{\"web\": {\"a\": \"\\ud83d\\ude00\", \"b\": 1.0, \"c\": [null, true]}}", "web:\n  a: word\n    more\n\n    and more # comment\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(checkKept)
}

func checkKept(t *testing.T, data []byte) {
	t.Helper()
	data = append(bytes.Clone(data), '\n') // as helm does, and ytt does not
	given, err := render.ParseValues("site.yaml", data)
	if err != nil || given.Node() == nil {
		return
	}
	kept := given
	for range 2 {
		text, err := render.Kept{All: kept, Secret: given}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := render.DecodeKept("kept", text)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if second, err := (render.Kept{All: again.All, Secret: again.Secret}).Encode(); err != nil || !bytes.Equal(second, text) {
			t.Fatalf("%v: kept again:\n%s\nwant\n%s", err, second, text)
		}
		kept = again.All
	}
	for i := 0; i+1 < len(given.Node().Content); i += 2 {
		name := given.Node().Content[i].Value
		first, second := render.Of(t, given, name), render.Of(t, kept, name)
		if !bytes.Equal(first, second) {
			t.Fatalf("the values of %q:\n%s\nwant\n%s", name, second, first)
		}
		want, ok := authored(t, data, name)
		if !ok {
			continue
		}
		if got, err := loader.LoadValues(bytes.NewReader(first)); err != nil || !reflect.DeepEqual(any(got), want) {
			t.Fatalf("%v: %s\n got %#v\nwant %#v", err, first, got, want)
		}
	}
}

// authored returns what helm makes of a bundle's part of what the author wrote, where that is one thing.
func authored(t *testing.T, data []byte, bundleName string) (any, bool) {
	t.Helper()
	file, err := manifest.Parse("site.yaml", data)
	if err != nil {
		t.Fatal(err)
	}
	root := file.Documents[0]
	part := manifest.GetValue(root, bundleName)
	if collides(part) || manifest.KeyName(root.Content[0]) != root.Content[0].Value {
		return nil, false
	}
	all, err := loader.LoadValues(bytes.NewReader(data))
	value, there := all[bundleName]
	return value, err == nil && there
}

// collides reports whether two keys of a mapping are one to helm, which takes either.
func collides(node *yaml.Node) bool {
	seen := map[string]bool{}
	for i, child := range node.Content {
		if node.Kind == yaml.MappingNode && i%2 == 0 {
			if key := manifest.KeyName(child); seen[key] {
				return true
			} else {
				seen[key] = true
			}
		}
		if child.Kind == yaml.AliasNode {
			child = child.Alias
		}
		if collides(child) {
			return true
		}
	}
	return false
}
