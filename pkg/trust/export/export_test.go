package export_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/internal/corpus"
	"krtpkg.dev/krtpkg/internal/sigstoretest"
	"krtpkg.dev/krtpkg/pkg/sign"
	"krtpkg.dev/krtpkg/pkg/trust"
	"krtpkg.dev/krtpkg/pkg/trust/export"
)

var update = flag.Bool("update", false, "write the golden files of exports")

// exported reads a policy whose files are those in testdata/export.
func exported(t *testing.T, text string, files map[string]string) *trust.Policy {
	t.Helper()
	p, err := trust.ParsePolicy("testdata/trust.yaml", []byte(head+text), func(name string) ([]byte, error) {
		if content, known := files[name]; known {
			return []byte(content), nil
		}
		return os.ReadFile(filepath.Join("testdata", name))
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// head begins a policy file.
const head = "apiVersion: krtpkg.dev/v1alpha1\nkind: TrustPolicy\n"

const (
	people = `
authorities:
- {name: build, key: a.pub}
- {name: release, key: b.pub}
- {name: audit, key: c.pub}
- name: upstream
  trustedRoot: root.json
  identity:
    subjectRegExp: https://github\.example/upstream/.*
    issuer: https://token.example
- {name: large, key: d.pub}
`
	twoRules = `
rules:
- match: [registry.example/krt/**, local]
  authorities: [build, release]
- match: ["**"]
  authorities: [upstream]
`
)

func TestExportGolden(t *testing.T) {
	valid := validators(t)
	for name, c := range map[string]struct {
		policy  string
		options export.Options
		// only is the target of what the other one cannot be told.
		only string
	}{
		"key":       {policy: people + "rules:\n- match: ['**', local]\n  authorities: [build, large]\n- match: [local]\n", options: export.Options{Enforce: true}},
		"keyless":   {policy: people + "rules:\n- match: [registry.example/*/up]\n  authorities: [upstream]\n", options: export.Options{Name: "site"}},
		"threshold": {policy: people + "rules:\n- match: [registry.example/**]\n  authorities: [build, release, audit]\n  threshold: 2\n"},
		"attestation": {policy: people + `rules:
- match: [registry.example/**]
  authorities: [release]
  attestations:
  - type: slsaprovenance1
    authorities: [build, audit]
    threshold: 2
`},
		"condition": {only: "kyverno", policy: people + `rules:
- match: [registry.example/**]
  authorities: [release]
  attestations:
  - type: slsaprovenance1
    authorities: [build, audit]
    condition: predicate.runDetails.builder.id.startsWith("https://ci.example/") // whose it is
`},
		"overlap": {only: "kyverno", policy: people + twoRules, options: export.Options{Enforce: true}},
		"images":  {policy: people + "rules:\n- match: [local]\nimages:\n- match: ['quay.io/{a,b}/**']\n  authorities: [audit]\n- match: [ghcr.io/**]\n  authorities: [build]\n"},
		"log": {policy: `
authorities:
- {name: build, key: a.pub, trustedRoot: root.json, requireLog: true}
- {name: release, key: b.pub, trustedRoot: root.json}
rules:
- match: [registry.example/**]
  threshold: 2
`},
		"pki": {only: "policy-controller", policy: `
authorities:
- {name: site, identity: {subject: build@site.example}, certificates: ca.pem}
rules:
- match: [registry.example/**]
`},
		"revoked": {policy: people + "rules:\n- match: [registry.example/**]\n  authorities: [build, release]\nrevoked:\n  keys: [{build}]\n  digests: [sha256:" + strings.Repeat("ab", 32) + "]\n", options: export.Options{Enforce: true}},
	} {
		t.Run(name, func(t *testing.T) {
			id := exported(t, people+"rules:\n- match: [x/y]\n", nil).KeyID("build")
			p := exported(t, strings.ReplaceAll(c.policy, "{build}", id), nil)
			for target, write := range map[string]func(*trust.Policy, export.Options) ([]byte, error){"kyverno": export.Kyverno, "policy-controller": export.PolicyController} {
				text, err := write(p, c.options)
				if c.only != "" && c.only != target {
					if !errors.Is(err, export.ErrInexpressible) {
						t.Errorf("%s: %v", target, err)
					}
					continue
				}
				if err != nil {
					t.Errorf("%s: %v", target, err)
					continue
				}
				golden(t, fmt.Sprintf("testdata/%s.%s.yaml", name, target), text)
				for _, document := range documents(t, text) {
					for _, v := range valid[document["kind"].(string)] {
						if err := v.Validate(document); err != nil {
							t.Errorf("%s: %v\n%s", target, err, text)
						}
						document["spec"].(map[string]any)["unknown"] = "x"
						if err := v.Validate(document); err == nil {
							t.Error("a field that is not known is valid")
						}
						delete(document["spec"].(map[string]any), "unknown")
					}
				}
				if again, err := write(p, c.options); err != nil || !bytes.Equal(again, text) {
					t.Errorf("%s: another text the second time: %v", target, err)
				}
			}
		})
	}
}

func TestExportRefuses(t *testing.T) {
	root, err := os.ReadFile("testdata/root.json")
	if err != nil {
		t.Fatal(err)
	}
	edited := func(from, to string) string {
		made := strings.Replace(string(root), from, to, 1)
		if made == string(root) {
			t.Fatalf("%s is not in the trusted root", from)
		}
		return made
	}
	files := map[string]string{
		"ending.json": edited(`"2024-01-01T00:00:00Z"`, `"2024-01-01T00:00:00Z", "end": "2999-01-01T00:00:00Z"`),
		"ended.json":  edited(`"2024-01-01T00:00:00Z"`, `"2024-01-01T00:00:00Z", "end": "2025-01-01T00:00:00Z"`),
	}
	noURL, _, _ := strings.Cut(edited("https://rekor.example", ""), ",\n \"ctlogs\"")
	files["no-url.json"] = noURL + "}"
	anyImage := "rules:\n- match: ['**']\n"
	one := func(rest string) string { return "authorities:\n- {name: one, " + rest + "}\n" + anyImage }
	identity := func(rest string) string { return one("trustedRoot: root.json, identity: {" + rest + "}") }
	two := func(a, b string) string {
		return "authorities:\n- {name: one, trustedRoot: root.json, identity: " + a + "}\n- {name: two, trustedRoot: root.json, identity: " + b + "}\n" + anyImage + "  threshold: 2\n"
	}
	const passes = "" // what is not a problem
	for name, c := range map[string]struct{ policy, kyverno, controller string }{
		"until later":        {one("key: a.pub, notAfter: 2999-01-01"), "authority one: notAfter", "authority one: notAfter"},
		"expired":            {one("key: a.pub, notAfter: 2020-01-01"), "rule 1 (**): threshold is 1, but only 0 can sign", "rule 1 (**): threshold is 1, but only 0 can sign"},
		"expired, with time": {one("key: a.pub, trustedRoot: root.json, notAfter: 2020-01-01"), "authority one: notAfter", "authority one: notAfter"},
		"from later":         {one("key: a.pub, notBefore: 2999-01-01"), "authority one: notBefore", "authority one: notBefore"},
		"since long":         {one("key: a.pub, notBefore: 2020-01-01"), passes, passes},
		"since, with time":   {one("key: a.pub, trustedRoot: root.json, notBefore: 2020-01-01"), "authority one: notBefore", "authority one: notBefore"},
		"timestamp":          {one("key: a.pub, trustedRoot: root.json, requireTimestamp: true"), "requireTimestamp with a key", "requireTimestamp with a key"},
		"private PKI":        {one("certificates: ca.pem, identity: {subject: x}"), "authority one: certificates of a private PKI", passes},
		"private timestamps": {one("certificates: ca.pem, timestamps: ca.pem, identity: {subject: x}"), "certificates of a private PKI", "authority one: timestamps of a private PKI"},
		"key and PKI":        {one("certificates: ca.pem, key: a.pub"), passes, passes},
		"revoked":            {one("key: a.pub") + "revoked: {keys: [" + exported(t, one("key: a.pub"), nil).KeyID("one") + "]}\n", "threshold is 1, but only 0 can sign", "threshold is 1, but only 0 can sign"},
		"revoked elsewhere":  {one("key: a.pub") + "revoked: {keys: [" + strings.Repeat("a", 64) + "]}\n", passes, passes},
		"revoked certificate": {identity("subject: x, issuer: y") + "revoked: {keys: [" + strings.Repeat("a", 64) + "]}\n", "authority one: the revoked key aaaa",
			"authority one: the revoked key aaaa"},
		"overlap":           {people + twoRules, passes, "rule 2 (**): that it does not hold for what rule 1 (registry.example/krt/**, local) decides"},
		"no overlap":        {people + "rules:\n- match: [r.io/*]\n- match: [r.io/*/**/x]\n", passes, passes},
		"condition":         {people + anyImage + "  attestations:\n  - {type: vuln, condition: predicate.ok}\n", passes, "rule 1 (**): attestation 1 (vuln): a condition"},
		"odd function":      {people + anyImage + "  attestations:\n  - {type: vuln, condition: '\"a\".reverse() == predicate.x'}\n", "attestation 1 (vuln): the condition: ", "a condition"},
		"wildcard":          {people + "rules:\n- match: ['r.io/?']\n", passes, "the glob r\\.io/[^/]"},
		"three stars":       {people + "rules:\n- match: ['r.io/***']\n", "glob r.io/***: contains ***", "contains ***"},
		"star and brace":    {people + "rules:\n- match: ['r.io/*{*,a}']\n", "contains *{", "contains *{"},
		"many":              {people + "rules:\n- match: ['r.io/" + strings.Repeat("{a,b}", 8) + "']\n", "expands to more than 64", "expands to more than 64"},
		"one certificate":   {two("{subjectRegExp: '.*@x', issuer: z}", "{subject: a@x, issuer: z}"), "one and two may be the same signer", "one and two may be the same signer"},
		"other subjects":    {two("{subject: b@x, issuer: z}", "{subject: a@x, issuer: z}"), passes, passes},
		"other domains":     {two("{subjectRegExp: '.*@y', issuer: z}", "{subject: a@x, issuer: z}"), passes, passes},
		"other issuers":     {two("{subjectRegExp: '.*', issuer: y}", "{subject: a@x, issuer: z}"), passes, passes},
		"ends later":        {one("trustedRoot: ending.json, identity: {subject: x, issuer: y}"), passes, "authority one: the period of the log https://rekor.example"},
		"ended":             {one("trustedRoot: ended.json, identity: {subject: x, issuer: y}"), passes, "authority one: no log with an ECDSA key is trusted now"},
		"log without a URL": {one("trustedRoot: no-url.json, identity: {subject: x, issuer: y}"), "authority one: a log without a URL", passes},
		"identity":          {identity("subject: x, issuer: y"), passes, passes},
		"threshold of many": {manyKeys(t, files, 8, 4), passes, "a threshold of 4 of 8, which is"},
	} {
		t.Run(name, func(t *testing.T) {
			p := exported(t, c.policy, files)
			o := export.Options{ReadFile: func(name string) ([]byte, error) {
				if text, known := files[name]; known {
					return []byte(text), nil
				}
				return os.ReadFile(filepath.Join("testdata", name))
			}}
			_, err := export.Kyverno(p, o)
			wantProblem(t, "Kyverno", err, c.kyverno)
			_, err = export.PolicyController(p, o)
			wantProblem(t, "policy-controller", err, c.controller)
		})
	}
}

func wantProblem(t *testing.T, target string, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("%s: %v", target, err)
	case want != "" && (!errors.Is(err, export.ErrInexpressible) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "cannot be expressed for "+target)):
		t.Errorf("%s: %v, want %s", target, err, want)
	}
}

// manyKeys returns a policy with a threshold of keys, which become files.
func manyKeys(t *testing.T, files map[string]string, count, need int) string {
	t.Helper()
	text := "authorities:\n"
	for i := range count {
		file := fmt.Sprintf("many%d.pub", i)
		_, public, err := sign.GenerateKeyPair(nil)
		if err != nil {
			t.Fatal(err)
		}
		files[file] = string(public)
		text += fmt.Sprintf("- {name: n%d, key: %s}\n", i, file)
	}
	return text + fmt.Sprintf("rules:\n- match: ['**']\n  threshold: %d\n", need)
}

// What is no matter of what targets can be told.
func TestExportFails(t *testing.T) {
	p := exported(t, people+twoRules, nil)
	for name, c := range map[string]struct {
		policy *trust.Policy
		o      export.Options
		want   string
	}{
		"name":        {p, export.Options{Name: "Ünfit"}, "is not an object name"},
		"gone":        {p, export.Options{ReadFile: func(string) ([]byte, error) { return nil, os.ErrNotExist }}, "authority build: file does not exist"},
		"another key": {p, export.Options{ReadFile: func(string) ([]byte, error) { return os.ReadFile("testdata/d.pub") }}, "authority build: key a.pub has changed since the policy was read"},
		"no file":     {&trust.Policy{}, export.Options{}, "was not read from a file"},
		"unknown field": {exported(t, "authorities:\n- {name: one, trustedRoot: root.json, identity: {subject: x, issuer: y}}\nrules:\n- match: ['**']\n", nil),
			export.Options{ReadFile: func(string) ([]byte, error) {
				root, err := os.ReadFile("testdata/root.json")
				return bytes.Replace(root, []byte(`"uri"`), []byte(`"operator": "x", "URL": "y", "uri"`), 1), err
			}}, "authority one: trusted root: "},
	} {
		t.Run(name, func(t *testing.T) {
			text, err := export.Kyverno(c.policy, c.o)
			if err == nil || text != nil || errors.Is(err, export.ErrInexpressible) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %s", err, c.want)
			}
		})
	}
}

// What a trusted root lacks is not asked for, and what it has is.
func TestExportRoots(t *testing.T) {
	valid := validators(t)
	sigstore := sigstoretest.StartSigstore(t)
	for name, c := range map[string]struct {
		parts sigstoretest.Parts
		// kyverno is the ctlog of the attestor, controller what the authority has next to the
		// identity, roots what is in the TrustRoot.
		kyverno, controller, roots string
	}{
		"log and timestamps":  {sigstoretest.Parts{}, fmt.Sprintf(`{"insecureIgnoreSCT":true,"url":%q}`, sigstore.URL), "ctlog insecureIgnoreSCT", "certificateAuthorities tLogs"},
		"log of certificates": {sigstoretest.Parts{CTLog: true}, "null", "ctlog", "certificateAuthorities ctLogs tLogs"},
		"only timestamps":     {sigstoretest.Parts{NoLog: true}, `{"insecureIgnoreSCT":true,"insecureIgnoreTlog":true}`, "insecureIgnoreSCT rfc3161timestamp", "certificateAuthorities timestampAuthorities"},
		"neither":             {sigstoretest.Parts{NoLog: true, NoTimestamp: true}, `{"insecureIgnoreSCT":true,"insecureIgnoreTlog":true}`, "insecureIgnoreSCT", "certificateAuthorities"},
	} {
		t.Run(name, func(t *testing.T) {
			files := map[string]string{"running.json": string(sigstore.TrustedRoot(c.parts))}
			p := exported(t, "authorities:\n- {name: one, trustedRoot: running.json, identity: {subject: x, issuer: y}}\nrules:\n- match: ['**']\n", files)
			o := export.Options{ReadFile: func(name string) ([]byte, error) { return []byte(files[name]), nil }}
			var all []map[string]any
			for _, write := range []func(*trust.Policy, export.Options) ([]byte, error){export.Kyverno, export.PolicyController} {
				text, err := write(p, o)
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, documents(t, text)...)
			}
			for _, document := range all {
				for _, v := range valid[document["kind"].(string)] {
					if err := v.Validate(document); err != nil {
						t.Error(err)
					}
				}
			}
			first := func(document map[string]any, list string) map[string]any {
				return document["spec"].(map[string]any)[list].([]any)[0].(map[string]any)
			}
			ctlog, err := json.Marshal(first(all[0], "attestors")["cosign"].(map[string]any)["ctlog"])
			if err != nil || string(ctlog) != c.kyverno {
				t.Errorf("ctlog is %s, want %s", ctlog, c.kyverno)
			}
			roots := slices.Sorted(maps.Keys(all[1]["spec"].(map[string]any)["sigstoreKeys"].(map[string]any)))
			if got := strings.Join(roots, " "); got != c.roots {
				t.Errorf("in the TrustRoot are %s, want %s", got, c.roots)
			}
			authority := first(all[2], "authorities")
			fields := slices.AppendSeq(slices.Collect(maps.Keys(authority)), maps.Keys(authority["keyless"].(map[string]any)))
			fields = slices.DeleteFunc(fields, func(f string) bool {
				return slices.Contains([]string{"name", "keyless", "url", "identities", "trustRootRef"}, f)
			})
			slices.Sort(fields)
			if got := strings.Join(fields, " "); got != c.controller {
				t.Errorf("the authority has %s, want %s", got, c.controller)
			}
		})
	}
}

func golden(t *testing.T, file string, text []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(text, want) {
		t.Errorf("%s differs (-update writes it):\n%s", file, text)
	}
}

// documents returns the objects of an export as JSON has them.
func documents(t *testing.T, text []byte) (all []map[string]any) {
	t.Helper()
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var document map[string]any
		if decoder.Decode(&document) != nil {
			return all
		}
		all = append(all, asJSON(t, document).(map[string]any))
	}
}

func asJSON(t *testing.T, value any) any {
	t.Helper()
	data, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	made, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// validators returns the schemas of each kind: the shapes, and the custom resource definitions where
// the corpus has them.
func validators(t *testing.T) map[string][]*jsonschema.Schema {
	t.Helper()
	data, err := os.ReadFile("testdata/shapes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var shapes map[string]any
	if err := yaml.Unmarshal(data, &shapes); err != nil {
		t.Fatal(err)
	}
	valid := map[string][]*jsonschema.Schema{}
	for kind, shape := range shapes {
		valid[kind] = append(valid[kind], compileSchema(t, shapeSchema(shape)))
	}
	for _, file := range corpus.ListFiles(t) {
		if !bytes.Contains(file.Data, []byte("kind: CustomResourceDefinition")) || !bytes.Contains(file.Data, []byte("sigstore.dev")) && !bytes.Contains(file.Data, []byte("policies.kyverno.io")) {
			continue
		}
		for _, crd := range documents(t, file.Data) {
			for kind, version := range map[string]string{"ImageValidatingPolicy": "v1", "ClusterImagePolicy": "v1beta1", "TrustRoot": "v1alpha1"} {
				if schema := definition(crd, kind, version); schema != nil {
					valid[kind] = append(valid[kind], compileSchema(t, schema))
				}
			}
		}
	}
	return valid
}

func compileSchema(t *testing.T, schema any) *jsonschema.Schema {
	t.Helper()
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft4)
	if err := compiler.AddResource("http://krtpkg.invalid/schema", asJSON(t, schema)); err != nil {
		t.Fatal(err)
	}
	compiled, err := compiler.Compile("http://krtpkg.invalid/schema")
	if err != nil {
		t.Fatal(err)
	}
	return compiled
}

func shapeSchema(shape any) map[string]any {
	switch shape := shape.(type) {
	case map[string]any:
		properties, required := map[string]any{}, []string{}
		for name, inner := range shape {
			field, must := strings.CutSuffix(name, "!")
			if must {
				required = append(required, field)
			}
			properties[field] = shapeSchema(inner)
		}
		schema := map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
		if len(required) > 0 {
			schema["required"] = required
		}
		return schema
	case []any:
		return map[string]any{"type": "array", "items": shapeSchema(shape[0])}
	}
	return map[string]any{"type": shape}
}

// definition returns the schema that a custom resource definition has for a kind, if it is of it, with
// what an API server makes of unknown fields, which is to refuse them where it is asked to.
func definition(crd map[string]any, kind, version string) any {
	spec, _ := crd["spec"].(map[string]any)
	names, _ := spec["names"].(map[string]any)
	if crd["kind"] != "CustomResourceDefinition" || names["kind"] != kind {
		return nil
	}
	for _, v := range spec["versions"].([]any) {
		v := v.(map[string]any)
		if v["name"] != version || v["served"] != true {
			continue
		}
		schema := v["schema"].(map[string]any)["openAPIV3Schema"].(map[string]any)
		properties := schema["properties"].(map[string]any)
		properties["apiVersion"], properties["kind"] = map[string]any{"type": "string"}, map[string]any{"type": "string"}
		properties["metadata"] = map[string]any{"type": "object"}
		strict(schema)
		return schema
	}
	return nil
}

func strict(schema any) {
	switch schema := schema.(type) {
	case map[string]any:
		_, named := schema["properties"].(map[string]any)
		if named && schema["type"] == "object" && schema["x-kubernetes-preserve-unknown-fields"] != true {
			schema["additionalProperties"] = false
		}
		for _, inner := range schema {
			strict(inner)
		}
	case []any:
		for _, inner := range schema {
			strict(inner)
		}
	}
}
