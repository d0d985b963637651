package render_test

import (
	"slices"
	"testing"

	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/render"
)

func blocks(t *testing.T, v *render.Values) string {
	t.Helper()
	node := v.Node()
	if node == nil {
		return ""
	}
	data, err := yaml.Marshal(node)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestValuesOverOthers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ base, over, want string }{
		"nothing over nothing": {"", "", ""},
		"something":            {"", "web: {a: 1} # comment\n", "web:\n    a: 1\n"},
		"stays":                {"web: {a: 1}\n", "", "web:\n    a: 1\n"},
		"other bundles":        {"web: {a: 1}\n", "dns: {b: 2}\n", "dns:\n    b: 2\nweb:\n    a: 1\n"},
		"mappings are merged":  {"web: {a: {b: 1, c: 2}, d: 3}\n", "web: {a: {b: 4}}\n", "web:\n    a:\n        b: 4\n        c: 2\n    d: 3\n"},
		"lists are replaced":   {"web: {a: [1, 2]}\n", "web: {a: [3]}\n", "web:\n    a:\n        - 3\n"},
		"strings stay strings": {"", "web: {a: \"5\", b: 'true', c: \"x\", d: 5}\n", "web:\n    a: \"5\"\n    b: \"true\"\n    c: x\n    d: 5\n"},
		"old booleans keep quotes": {"", "web: {a: \"NO\", b: NO, c: 'on', d: '1e3', e: 017, f: \"12:30\", g: ~, h: '~', 'y': 1}\n",
			"web:\n    a: \"NO\"\n    b: NO\n    c: \"on\"\n    d: \"1e3\"\n    e: 017\n    f: \"12:30\"\n    g: ~\n    h: \"~\"\n    \"y\": 1\n"},
		"keys as helm has them": {"web: {on: {a: 1}, 0x10: a, '5': a}\n", "web: {'true': {b: 2}, 'on': c, 16: b, 5: b}\n", "web:\n    true:\n        a: 1\n        b: 2\n    0x10: b\n    \"5\": b\n    \"on\": c\n"},
		"merges":                {"dns: &d {a: 1, b: 2}\n", "dns: &d {a: 1, b: 2}\nweb: {a: 0, <<: *d, b: 3}\n", "dns:\n    a: 1\n    b: 2\nweb:\n    a: 1\n    b: 3\n"},
		"a mapping by a scalar": {"web: {a: {b: 1}}\n", "web: {a: 2}\n", "web:\n    a: 2\n"},
	} {
		var base, over *render.Values
		if c.base != "" {
			base = values(t, c.base)
		}
		if c.over != "" {
			over = values(t, c.over)
		}
		both := over.Override(base)
		if got := blocks(t, both); got != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, c.want)
		}
		data, err := render.Kept{All: both, Secret: over}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		back, err := render.DecodeKept("kept", data)
		if err != nil || blocks(t, back.All) != c.want || c.over != "" && blocks(t, back.Secret) != blocks(t, over) {
			t.Errorf("%s: read back: %v\n%s", name, err, blocks(t, back.All))
		}
	}
}

func TestMaskedValues(t *testing.T) {
	t.Parallel()
	all := values(t, "web: {host: example.org, db: {user: app, password: hunter22}}\ndns: {key: [opensesame]}\n")
	secret := values(t, "web: {db: {password: hunter22}}\ndns: {key: [opensesame]}\n")
	want := "dns:\n    key: (from a Secret)\nweb:\n    host: example.org\n    db:\n        user: app\n        password: (from a Secret)\n"
	if got := blocks(t, all.MaskSecrets(secret)); got != want {
		t.Errorf("got\n%s", got)
	}
	keyed := values(t, "web: {auth: {enabled: true, adminPassword: hunter22, pin: 1234, existingSecret: admin}, secretName: tls, host: example.org}\n")
	want = "web:\n    auth:\n        enabled: true\n        adminPassword: (hidden)\n        pin: (hidden)\n        existingSecret: admin\n    secretName: tls\n    host: example.org\n"
	if got := blocks(t, keyed.MaskConfidential()); got != want {
		t.Errorf("got\n%s", got)
	}
	if got := secret.ListTexts(); len(got) != 2 || got[0] != "hunter22" || got[1] != "opensesame" {
		t.Errorf("texts %q", got)
	}
	some := values(t, "web: {replicas: 3, host: example.org, mode: fast, db: {password: 1234, tokens: [abcd]}, on: true}\n")
	if got := some.ConfidentialTexts(); !slices.Equal(got, []string{"1234", "abcd", "example.org"}) {
		t.Errorf("confidential %q", got)
	}
	if got := blocks(t, all.SelectBundles([]string{"dns", "other"})); got != "dns:\n    key:\n        - opensesame\n" {
		t.Errorf("got\n%s", got)
	}
}
