package trust_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/internal/signtest"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/trust"
)

// indented is text for a block scalar of YAML.
func indented(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ")
}

const head = "apiVersion: krtpkg.dev/v1alpha1\nkind: TrustPolicy\n"

// parse reads a policy whose {A} and {B} are names of files with public keys.
func parse(t *testing.T, text string, keys map[string]string) (*trust.Policy, error) {
	t.Helper()
	return trust.ParsePolicy("trust.yaml", []byte(text), func(name string) ([]byte, error) {
		if pem, known := keys[name]; known {
			return []byte(pem), nil
		}
		return nil, fmt.Errorf("open %s: no such file", name)
	})
}

func TestParse(t *testing.T) {
	_, a := signtest.NewSignerWithKey(t)
	p, err := parse(t, head+`
authorities:
- name: release
  key: |
`+indented(string(a))+`
  notAfter: 2030-01-01T00:00:00Z
rules:
- match: [registry.example/krt/**, local]
- match: [docker.io/krt/*]
- match: ["**"]
  threshold: 1
`, nil)
	if err != nil {
		t.Fatal(err)
	}
	for where, want := range map[string]string{
		"registry.example/krt/edge":     "registry.example/krt/**",
		"registry.example/krt/a/b":      "registry.example/krt/**",
		"Registry.EXAMPLE/krt/edge":     "registry.example/krt/**",
		"index.docker.io/krt/edge":      "docker.io/krt/*",
		trust.Local:                     "registry.example/krt/**",
		"registry.example/krtx/edge":    "**",
		"other.example/krt/edge":        "**",
		"registry.example.evil.com/krt": "**",
	} {
		r, err := p.FindRule(where)
		if err != nil || r.Match[0] != want {
			t.Errorf("%s: rule %+v, %v, want %s", where, r, err, want)
		}
	}
	if id := p.KeyID("release"); len(id) != 64 {
		t.Errorf("key id %q", id)
	}
}

func TestParseRefuses(t *testing.T) {
	_, a := signtest.NewSignerWithKey(t)
	keys := map[string]string{"a.pub": string(a), "same.pub": string(a), "text": "no key"}
	one := head + "authorities:\n- name: a\n  key: a.pub\n"
	for name, c := range map[string]struct{ text, want string }{
		"no document":         {"", "trust.yaml: the file is empty"},
		"no YAML":             {"{", "trust.yaml:2: invalid YAML"},
		"two documents":       {one + "---\nkind: x\n", "want a single document, this is the second"},
		"other version":       {strings.Replace(one, "v1alpha1", "v9", 1) + "rules: []\n", `trust.yaml:1:13: apiVersion is "krtpkg.dev/v9", want krtpkg.dev/v1alpha1`},
		"other kind":          {strings.Replace(one, "TrustPolicy", "Bundle", 1), `trust.yaml:2:7: kind is "Bundle", want TrustPolicy`},
		"unknown field":       {one + "rule: []\n", `trust.yaml:6:1: unknown field "rule" (did you mean "rules"?)`},
		"unknown inner field": {head + "authorities:\n- name: a\n  keys: a.pub\n", `trust.yaml:5:3: unknown field "keys" (did you mean "key"?)`},
		"a list for a text":   {head + "authorities:\n- name: [a]\n", "trust.yaml:4:9: want text"},
		"a number for a text": {head + "authorities:\n- name: 7\n", `trust.yaml:4:9: want text (write it in quotes: "7")`},
		"a text for a number": {one + "rules:\n- match: [x]\n  threshold: two\n", "trust.yaml:8: cannot unmarshal !!str `two` into int"},
		"nobody":              {head + "rules:\n- match: [x]\n", "authorities is empty"},
		"no rules":            {one, "rules is empty"},
		"no name":             {head + "authorities:\n- key: a.pub\nrules:\n- match: [x]\n", "trust.yaml:4:3: an authority has no name"},
		"a name twice":        {one + "- name: a\n  key: a.pub\nrules:\n- match: [x]\n", `trust.yaml:6:9: duplicate name "a"`},
		"a key twice":         {one + "- name: b\n  key: same.pub\nrules:\n- match: [x]\n", "trust.yaml:7:8: a has the same key: one holder would count twice"},
		"neither":             {head + "authorities:\n- name: a\nrules:\n- match: [x]\n", "authority a: want a key or an identity"},
		"both":                {head + "authorities:\n- name: a\n  key: a.pub\n  identity: {subject: x}\nrules:\n- match: [x]\n", "authority a: want a key or an identity"},
		"missing file":        {head + "authorities:\n- name: a\n  key: gone.pub\nrules:\n- match: [x]\n", "trust.yaml:5:8: open gone.pub: no such file"},
		"no key in it":        {head + "authorities:\n- name: a\n  key: text\nrules:\n- match: [x]\n", "trust.yaml:5:8: public key: no PEM block found"},
		"identity of nobody":  {head + "authorities:\n- name: a\n  identity: {issuer: x}\nrules:\n- match: [x]\n", "trust.yaml:5:13: want subject or subjectRegExp"},
		"bad pattern":         {head + "authorities:\n- name: a\n  identity: {subjectRegExp: '['}\nrules:\n- match: [x]\n", "error parsing regexp"},
		"identity, no roots":  {head + "authorities:\n- name: a\n  identity: {subject: x}\nrules:\n- match: [x]\n", "identity a: no certificate authority to trust"},
		"log, no roots":       {head + "authorities:\n- name: a\n  key: a.pub\n  requireLog: true\nrules:\n- match: [x]\n", "a: a log entry is required, but no log is trusted"},
		"ends before":         {head + "authorities:\n- name: a\n  key: a.pub\n  notBefore: 2027-01-01\n  notAfter: 2026-01-01\nrules:\n- match: [x]\n", "authority a: notAfter is before notBefore"},
		"rule for nothing":    {one + "rules:\n- threshold: 1\n", "match is empty"},
		"bad glob":            {one + "rules:\n- match: ['[']\n", `trust.yaml:7:11: "[" is not a glob`},
		"unknown authority":   {one + "rules:\n- match: [x]\n  authorities: [A]\n", `unknown authority "A": did you mean "a"?`},
		"twice in a rule":     {one + "rules:\n- match: [x]\n  authorities: [a, a]\n", `duplicate authority "a"`},
		"too high":            {one + "rules:\n- match: [x]\n  threshold: 2\n", "trust.yaml:8:14: threshold is 2, but there are 1 authorities"},
		"odd type":            {one + "rules:\n- match: [x]\n  attestations:\n  - type: sbom\n", `trust.yaml:9:11: type "sbom" is neither a URI nor one of cosign's names`},
		"odd condition":       {one + "rules:\n- match: [x]\n  attestations:\n  - type: vuln\n    condition: predicate.\n", "trust.yaml:10:16: condition: "},
		"condition of text":   {one + "rules:\n- match: [x]\n  attestations:\n  - type: vuln\n    condition: '\"yes\"'\n", "condition: returns string, want true or false"},
		"revoked key":         {one + "rules:\n- match: [x]\nrevoked:\n  keys: [abc]\n", `trust.yaml:9:10: "abc" is not a key id`},
		"revoked digest":      {one + "rules:\n- match: [x]\nrevoked:\n  digests: [abc]\n", `"abc": invalid checksum digest format`},
		"aliases":             {head + "authorities: &a\n- name: a\n  key: a.pub\nrules: *a\n", "aliases are not allowed here"},
		"a key twice in YAML": {one + "kind: TrustPolicy\n", "trust.yaml:6"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parse(t, c.text, keys)
			var placed *manifest.Error
			if err == nil || !strings.Contains(err.Error(), c.want) || !errors.As(err, &placed) {
				t.Errorf("error: %v\nwant: %s", err, c.want)
			}
		})
	}
}
