package cli

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/render"
)

// What show values prints is a values file as it is, and with every # before a value removed: then it has the
// defaults.
func TestSchemaValuesAreValues(t *testing.T) {
	t.Parallel()
	schema := `
properties:
  motd: {type: string, default: "line one\nline two: x\n"}
  folded:
    default: >-
      folded once

      folded twice
  script:
    default: |
      one
      two
  number: {type: string, default: "1"}
  separators: {default: "a\u2028b\u0085c\rd"}
  hidden: {default: "zero\u200bwidth \u202e order"}
  long: {default: "` + strings.TrimSpace(strings.Repeat("many words ", 40)) + `"}
  list:
    default:
      # why the first
      - name: first # and why here
        text: |
          one
          two
      - {name: second, "key\nof two lines": 2}
  alias: {default: {one: &one {text: "a\nb"}, two: *one}}
  "two\nlines": {default: 1}
  "a: b": {default: true}
  tls:
    properties:
      issuer: {default: null}
      "inner\nkey": {default: [1, 2]}
allOf:
  - properties:
      more: {default: {}}
`
	var node yaml.Node
	if err := yaml.Unmarshal([]byte(schema), &node); err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	text.WriteString("web:\n")
	if err := writeSchemaValues(&text, node.Content[0], 1, 0); err != nil {
		t.Fatal(err)
	}
	if values, err := render.ParseValues("untouched.yaml", text.Bytes()); err != nil || values.Node() != nil {
		t.Errorf("untouched: %v, error %v", values.Node(), err)
	}
	all := regexp.MustCompile(`(?m)^( *)# `).ReplaceAll(text.Bytes(), []byte("$1"))
	all = regexp.MustCompile(`(?m)^ *\(.*\)\n`).ReplaceAll(all, nil) // the notes
	values, err := render.ParseValues("all.yaml", all)
	if err != nil {
		t.Fatalf("%v in\n%s", err, all)
	}
	var want yaml.Node
	if err := yaml.Unmarshal([]byte(`web:
  more: {}
  motd: "line one\nline two: x\n"
  folded: "folded once\nfolded twice"
  script: "one\ntwo\n"
  number: "1"
  separators: "a\u2028b\u0085c\rd"
  hidden: "zero\u200bwidth \u202e order"
  long: "`+strings.TrimSpace(strings.Repeat("many words ", 40))+`"
  list: [{name: first, text: "one\ntwo\n"}, {name: second, "key\nof two lines": 2}]
  alias: {one: {text: "a\nb"}, two: {text: "a\nb"}}
  "two\nlines": 1
  "a: b": true
  tls: {issuer: null, "inner\nkey": [1, 2]}
`), &want); err != nil {
		t.Fatal(err)
	}
	got, err := manifest.EncodeYAML(values.Node())
	if err != nil {
		t.Fatal(err)
	}
	normal, err := manifest.EncodeYAML(manifest.NormalizeValues(want.Content[0]))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, normal) {
		t.Errorf("got:\n%s\nwant:\n%s\nprinted:\n%s", got, normal, text.Bytes())
	}
}
