package resources_test

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	kappres "carvel.dev/kapp/pkg/kapp/resources"
	"carvel.dev/kapp/pkg/kapp/version"

	"krtpkg.dev/krtpkg/internal/corpus"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/resources"
)

func parse(t *testing.T, name, data string) resources.File {
	t.Helper()
	parsed, err := manifest.Parse(name, []byte(data))
	if err != nil {
		t.Fatalf("%v\n%s", err, data)
	}
	return resources.File{File: parsed, Data: []byte(data)}
}

const (
	one = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one}\ndata: {a: b}\n"
	two = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: two}\n"

	// These are in no namespace, and say that they are in NS.
	service = "apiVersion: apiregistration.k8s.io/v1\nkind: APIService\nmetadata: {name: v1.m.example, namespace: NS}\nspec: {group: m.example, version: v1, versionPriority: 1}\n"
	widget  = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: widgets.m.example}\nspec: {group: m.example, scope: Cluster, names: {kind: Widget, plural: widgets}}\n"
	thing   = "apiVersion: m.example/v1\nkind: Widget\nmetadata: {name: w, namespace: NS}\nspec: {x: 1}\n"
)

// What kapp would refuse at a site, read as something else, or lose without a word is refused.
func TestCheckRefuses(t *testing.T) {
	t.Parallel()
	for data, want := range map[string]string{
		one + "--- {apiVersion: v1, kind: ConfigMap, metadata: {name: two}}\n":                                                         "f.yaml:5:1: kapp cannot read this: invalid Yaml document separator: {apiVersion: v1, kind: ConfigMap, metadata: {name: two}} (begin the document on the line after ---)",
		"--- {apiVersion: v1, kind: ConfigMap, metadata: {name: one}}\n--- {apiVersion: v1, kind: ConfigMap, metadata: {name: two}}\n": "f.yaml:1:1: kapp cannot read this: invalid Yaml document separator: {apiVersion: v1, kind: ConfigMap, metadata: {name: one}} (begin the document on the line after ---)",
		one + "--- !!map\n" + two:                                                           "f.yaml:5:1: kapp cannot read this: invalid Yaml document separator: !!map (begin",
		"--- !!map\n" + one + "--- !!map\n" + two:                                           "f.yaml:1:1: kapp cannot read this: invalid Yaml document separator: !!map (begin the document on the line after ---)",
		one + "--- &a\n" + two:                                                              "f.yaml:5:1: kapp cannot read this: invalid Yaml document separator: &a",
		"%YAML 1.1\n---\n" + one:                                                            "f.yaml:3:1: kapp cannot read this: yaml: line 1: did not find expected <document start> (remove the % directive)",
		"%TAG ! tag:x,2000:\n---\n" + one:                                                   "(remove the % directive)",
		strings.ReplaceAll(one+"---\n"+two, "\n", "\r"):                                     "f.yaml:6:1: kapp reads 1 resources of the file's 2 (lines end in CR: use LF)",
		one + "---\r" + two:                                                                 "(lines end in CR: use LF)",
		"apiVersion: x/v1\nkind: A\nmetadata: {name: a}\nspec: {max: .inf}\n":               "f.yaml:1:1: kapp cannot read this: json: unsupported value: +Inf (JSON has neither infinity nor NaN)",
		"apiVersion: x/v1\nkind: A\nmetadata: {name: a}\nspec: {max: .nan}\n":               "unsupported value: NaN",
		"apiVersion: x/v1\nkind: A\nmetadata: {name: a}\nspec: {~: a}\n":                    "unsupported map key",
		"apiVersion: x/v1\nkind: A\nmetadata: {name: a}\nspec: {[a]: a}\n":                  "f.yaml:1:1: kapp cannot read this: yaml: invalid map key",
		"apiVersion: x/v1\nkind: Menu\nmetadata: {name: a}\nitems: [soup, fish]\n":          "f.yaml:4:8: Menu has a list of items, which kapp reads as resources: nothing else of it would be applied",
		"apiVersion: x/v1\nkind: Menu\nmetadata: {name: a}\nitems: [{a: 1}]\n":              "f.yaml:4:8: Menu has a list of items",
		"apiVersion: x/v1\nkind: Menu\nmetadata: {name: a}\nitems: []\n":                    "f.yaml:4:8: Menu has a list of items",
		"apiVersion: x/v1\nkind: WishList\nmetadata: {name: a}\nitems: [boat]\n":            "items member is not an object",
		"apiVersion: x/v1\nkind: WishList\nmetadata: {name: a}\nitems: [{size: 1}]\n":       "f.yaml:4:9: a resource of a list has no kind or apiVersion, and kapp does not inherit them from the list",
		"apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: List\n  items: []\n": "f.yaml:4:3: a list inside a list, which kapp does not expand",
		"apiVersion: v1\nkind: ConfigMapList\nitems:\n- metadata: {name: a}\n":              "f.yaml:4:3: a resource of a list has no kind or apiVersion",
		"apiVersion: v1\nkind: List\nitems: {a: 1}\n":                                       "f.yaml:1:1: List has no metadata.name",
		"apiVersion: v1\nkind: ConfigMap\n":                                                 "f.yaml:1:1: ConfigMap has no metadata.name",
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ''}\n":                           "f.yaml:1:1: ConfigMap has no metadata.name",
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: 5}\n":                            `f.yaml:3:18: metadata.name is not text (write it in quotes: "5")`,
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: on}\n":                           `f.yaml:3:18: metadata.name is not text (write it in quotes: "on")`,
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: [a]}\n":                          "f.yaml:3:18: metadata.name is not text",
		"apiVersion: batch/v1\nkind: Job\nmetadata: {generateName: a-}\n":                   "f.yaml:1:1: Job has generateName: each apply would create another one (give it a name)",
		"apiVersion: a/b/c\nkind: A\nmetadata: {name: a}\n":                                 `f.yaml:1:1: kapp cannot read this: apiVersion "a/b/c" is not of the form group/version`,
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, labels: {v: 1.10}}\n":         `f.yaml:3:33: metadata.labels: v is not text (write it in quotes: "1.10")`,
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, annotations: {v: yes}}\n":     `f.yaml:3:38: metadata.annotations: v is not text (write it in quotes: "yes")`,
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, labels: [v]}\n":               "f.yaml:3:29: metadata.labels is not a mapping",
		one + "---\n" + strings.Replace(one, "a: b", "a: c", 1):                             "f.yaml:6:1: ConfigMap one occurs twice with different content, first at f.yaml:1",
		strings.ReplaceAll(service, "NS", "a") + "---\n" + strings.Replace(strings.ReplaceAll(service, "NS", "b"), "versionPriority: 1", "versionPriority: 2", 1): "f.yaml:6:1: APIService v1.m.example occurs twice with different content, first at f.yaml:1",
		widget + "---\n" + strings.ReplaceAll(thing, "NS", "a") + "---\n" + strings.Replace(strings.ReplaceAll(thing, "NS", "b"), "x: 1", "x: 2", 1):              "f.yaml:11:1: Widget w occurs twice with different content, first at f.yaml:6",
		one + "---\n" + strings.Replace(one, "v1", "v2", 1): "f.yaml:6:1: ConfigMap one occurs twice with different content, first at f.yaml:1",
	} {
		err := resources.CheckFiles([]resources.File{parse(t, "f.yaml", data)})
		var placed *manifest.Error
		if err == nil || !strings.Contains(err.Error(), want) || !errors.As(err, &placed) || placed.Line == 0 {
			t.Errorf("%s\n got %v\nwant %s", data, err, want)
		}
	}
	err := resources.CheckFiles([]resources.File{parse(t, "a.yaml", one), parse(t, "b.yaml", strings.Replace(one, "a: b", "a: c", 1))})
	if err == nil || err.Error() != "b.yaml:1:1: ConfigMap one occurs twice with different content, first at a.yaml:1" {
		t.Errorf("got %v", err)
	}
}

const config = "apiVersion: kapp.k14s.io/v1alpha1\nkind: Config\n"

func annotated(name string, annotations ...string) string {
	text := "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: " + name + "\n  annotations:\n"
	for _, a := range annotations {
		text += "    kapp.k14s.io/" + a + "\n"
	}
	return text
}

// wrongRules are what kapp refuses at a site, or panics with there.
var wrongRules = map[string]string{
	config + "rebaseRules: 5\n": "f.yaml:1:1: rules for kapp: Unmarshaling",
	config + "evilRules: []\n":  `f.yaml:1:1: rules for kapp: unknown field "evilRules"`,
	config + "waitRules: [{conditionMatcher: [], resourceMatchers: [{allMatcher: {}}]}]\n":                      `f.yaml:1:1: rules for kapp: unknown field "conditionMatcher"`,
	config + "waitRules: [{resourceMatchers: [{allMatchers: {}}]}]\n":                                           `f.yaml:1:1: rules for kapp: unknown field "allMatchers"`,
	config + "rebaseRules: [{path: [spec], type: cpoy, resourceMatchers: [{allMatcher: {}}]}]\n":                `f.yaml:1:1: rules for kapp: rebaseRules[0]: no type "cpoy": want copy or remove`,
	config + "rebaseRules: [{type: copy, resourceMatchers: [{allMatcher: {}}]}]\n":                              "Expected either path or paths to be specified",
	config + "rebaseRules: [{path: [spec, {}], type: copy, resourceMatchers: [{allMatcher: {}}]}]\n":            "rebaseRules[0]: path[1] is neither a key nor an index",
	config + "rebaseRules: [{path: [spec, ~], type: copy, resourceMatchers: [{allMatcher: {}}]}]\n":             "rebaseRules[0]: path[1] is null",
	config + "rebaseRules: [{path: [{index: -1}], type: copy, resourceMatchers: [{allMatcher: {}}]}]\n":         "rebaseRules[0]: path[0] is a negative index",
	config + "rebaseRules: [{path: [{regex: '('}], type: copy, resourceMatchers: [{allMatcher: {}}]}]\n":        "rebaseRules[0]: path[0] error parsing regexp",
	config + "rebaseRules: [{paths: [[spec]], type: copy, resourceMatchers: [{alMatcher: {}}]}]\n":              `f.yaml:1:1: rules for kapp: unknown field "alMatcher"`,
	config + "rebaseRules: [{ytt: {}, resourceMatchers: [{allMatcher: {}}]}]\n":                                 "rebaseRules[0].ytt: no overlayContractV1",
	config + "waitRules: [{ytt: {}, resourceMatchers: [{allMatcher: {}}]}]\n":                                   "f.yaml:1:1: rules for kapp: waitRules[0].ytt: no funcContractV1",
	config + "waitRules: [{}, {resourceMatchers: [{}]}]\n":                                                      "waitRules[1].resourceMatchers: a matcher of no kind that kapp knows",
	config + "waitRules: [{resourceMatchers: [{notMatcher: {}}]}]\n":                                            "waitRules[0].resourceMatchers: a matcher of no kind that kapp knows",
	config + "waitRules: [{resourceMatchers: [{andMatcher: {matchers: [{anyMatcher: {matchers: [{}]}}]}}]}]\n":  "waitRules[0].resourceMatchers: a matcher of no kind that kapp knows",
	config + "waitRules: [{resourceMatchers: [{emptyFieldMatcher: {path: [{regex: a}]}}]}]\n":                   "waitRules[0]: path[0] is a regex, which only rebase rules take",
	config + "waitRules: [{conditionMatchers: [{type: A, status: B, timeout: soon}], resourceMatchers: []}]\n":  `waitRules[0]: timeout "soon" is not a duration`,
	config + "diffMaskRules: [{path: [{regex: a}], resourceMatchers: [{allMatcher: {}}]}]\n":                    "diffMaskRules[0]: path[0] is a regex",
	config + "templateRules: [{resourceMatchers: [], affectedResources: {objectReferences: [{path: [{}]}]}}]\n": "templateRules[0]: path[0] is neither",
	config + "ownershipLabelRules: [{path: [{regex: a}], resourceMatchers: [{allMatcher: {}}]}]\n":              "ownershipLabelRules[0]: path[0] is a regex",
	config + "labelScopingRules: [{path: [{}], resourceMatchers: [{allMatcher: {}}]}]\n":                        "labelScopingRules[0]: path[0] is neither",
	config + "diffAgainstLastAppliedFieldExclusionRules: [{path: [], resourceMatchers: [{}]}]\n":                "diffAgainstLastAppliedFieldExclusionRules[0].resourceMatchers: a matcher",
	config + "diffAgainstExistingFieldExclusionRules: [{path: [~], resourceMatchers: [{allMatcher: {}}]}]\n":    "diffAgainstExistingFieldExclusionRules[0]: path[0] is null",
	config + "changeGroupBindings: [{name: a, resourceMatchers: [{}]}]\n":                                       "changeGroupBindings[0].resourceMatchers: a matcher",
	config + "changeRuleBindings: [{rules: [], resourceMatchers: [{}]}]\n":                                      "changeRuleBindings[0].resourceMatchers: a matcher",
	config + "changeRuleBindings: [{rules: [upsert], resourceMatchers: [{allMatcher: {}}]}]\n---\n" + one:       "f.yaml:1:1: kapp finds no order: Resource configmap/one (v1) namespace: default",
	config + "preflightRules: [{name: PermissionValidations}]\n":                                                `preflightRules[0]: no check "PermissionValidations": want PermissionValidation or CRDUpgradeSafety`,
	config + "minimumRequiredVersion: v0.1\n":                                                                   "Must not have prefix 'v'",
	strings.Replace(config, "Config", "Confg", 1) + "metadata: {name: a}\n":                                     "f.yaml:1:1: rules for kapp: Expected kapp config to have kind 'Config', but was 'Confg'",
	strings.Replace(config, "v1alpha1", "v1", 1):                                                                "f.yaml:1:1: rules for kapp: Expected kapp config to have apiVersion 'kapp.k14s.io/v1alpha1'",
	strings.Replace(one, "{name: one}", "{name: one, labels: {kapp.k14s.io/config: ''}}", 1):                    "f.yaml:1:1: rules for kapp: the ConfigMap has no data for config.yml",
	"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, labels: {kapp.k14s.io/config: ''}}\ndata: {config.yml: '" + strings.TrimSpace(strings.ReplaceAll(config, "\n", "\n\n  ")) + "\n\n  waitRules: [{resourceMatchers: [{}]}]'}\n": "f.yaml:1:1: rules for kapp: waitRules[0]",
	"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, labels: {kapp.k14s.io/config: ''}}\ndata: {config.yml: ''}\n":                                                                                                                 "config.yml is empty",
	"apiVersion: v1\nkind: Secret\nmetadata: {name: a, labels: {kapp.k14s.io/config: ''}}\n":                                                                                                                                            "label kapp.k14s.io/config is not on a ConfigMap",
	annotated("a", "change-rule: upsert after upsert x"):         "f.yaml:1:1: ConfigMap a: Resource configmap/a (v1)",
	annotated("a", "change-rule: upsert after upserting"):        "Expected change rule annotation value to have format",
	annotated("a", "change-rule.one: install after upserting x"): "Unknown change rule Action",
	annotated("a", "change-group: ''"):                           "f.yaml:1:1: ConfigMap a: Expected non-empty group name",
	annotated("a", "change-group: 'a b'"):                        "to be a qualified name",
	annotated("a", "change-group.two: '{crd-kind}'"):             "Placeholder {crd-kind} does not have a value",
	annotated("a", "change-group: a", "change-rule: upsert after upserting b") + "---\n" + annotated("b", "change-group: b", "change-rule: upsert after upserting a"): "f.yaml:1:1: kapp finds no order: Detected cycle while ordering changes: [configmap/a (v1)",
	one + "---\n" + annotated("a", "change-group: a", "change-rule: upsert after upserting a"):                                                                        "f.yaml:6:1: ConfigMap a: Detected cycle",
	annotated("a", "create-strategy: fallback"):                 `f.yaml:1:1: ConfigMap a: kapp.k14s.io/create-strategy is "fallback": want "" or "fallback-on-update" or "fallback-on-update-or-noop"`,
	annotated("a", "update-strategy: replace"):                  `kapp.k14s.io/update-strategy is "replace": want`,
	annotated("a", "delete-strategy: keep"):                     `kapp.k14s.io/delete-strategy is "keep": want "" or "orphan"`,
	annotated("a", "disable-associated-resources-wait: 'true'"): `kapp.k14s.io/disable-associated-resources-wait is "true": want ""`,
	annotated("a", "renew-duration: daily"):                     `kapp.k14s.io/renew-duration is "daily": want a duration`,
	annotated("a", "versioned: ''", "num-versions: five"):       `kapp.k14s.io/num-versions is "five": want a number`,
	annotated("a", "versioned: ''", "num-versions: '0'"):        `kapp.k14s.io/num-versions is "0": want a number`,
}

// What kapp would refuse of its own rules and annotations at a site, or panic with, is refused; in the Config
// documents of a bundle that others have made also there.
func TestCheckRules(t *testing.T) {
	t.Parallel()
	for data, want := range wrongRules {
		err := resources.CheckFiles([]resources.File{parse(t, "f.yaml", data)})
		var placed *manifest.Error
		if err == nil || !strings.Contains(err.Error(), want) || !errors.As(err, &placed) || placed.Line == 0 {
			t.Errorf("%s\n got %v\nwant %s", data, err, want)
		}
		if !strings.Contains(want, "rules for kapp") {
			continue
		}
		read, err := resources.Read(fstest.MapFS{"f.yaml": {Data: []byte(data)}})
		if err == nil {
			err = resources.CheckRules(read)
		}
		if err == nil || !strings.Contains(err.Error(), want[strings.Index(want, "rules for kapp"):]) {
			t.Errorf("at a site: %s\n got %v", data, err)
		}
	}
	for _, data := range []string{
		config + "rebaseRules: [{paths: [[spec, {allIndexes: true}, {index: 0}, {regex: '^a'}, a]], type: copy, sources: [new, existing], resourceMatchers: [{notMatcher: {matcher: {allMatcher: {}}}}]}]\n" +
			"waitRules: [{supportsObservedGeneration: true, conditionMatchers: [{type: Ready, status: 'True', success: true, timeout: 5m}], resourceMatchers: [{hasNamespaceMatcher: {}}, {customResourceMatcher: {}}]}]\n" +
			"preflightRules: [{name: PermissionValidation}]\nmetadata: {name: a, labels: {a: b}}\nadditionalLabels: {x: y, z: 1}\n",
		annotated("a", "change-group: a/b", "change-rule: delete before deleting c", "num-versions: none", "create-strategy: ''", "update-strategy: skip", "delete-strategy: orphan", "renew-duration: 24h"),
		annotated("a", "change-rule: upsert after upserting of-{namespace}"),
		annotated("a", "change-group: '{name}'", "change-rule.x: upsert after upserting none", "change-rule.y: delete after deleting a") + "---\n" + annotated("b", "change-rule: upsert after upserting a"),
	} {
		if err := resources.CheckFiles([]resources.File{parse(t, "f.yaml", data)}); err != nil {
			t.Errorf("%s\n%v", data, err)
		}
	}
}

// What kapp reads as it is written passes, however it is written.
func TestCheckTakes(t *testing.T) {
	t.Parallel()
	for _, data := range []string{
		"", "---\n", "# nothing\n", one, one + "---\n" + two, one + "---\n" + one, "--- # first\n" + one + "---   \n---\n" + two + "...\n",
		strings.ReplaceAll(one+"---\n"+two, "\n", "\r\n"), "\uFEFF" + one,
		`{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}}`,
		"apiVersion: v1\nkind: List\nitems:\n- " + strings.ReplaceAll(strings.TrimSpace(one), "\n", "\n  ") + "\n- {apiVersion: v1, kind: Secret, metadata: {name: one}}\n",
		"apiVersion: v1\nkind: List\nitems: []\n", "apiVersion: x/v1\nkind: A\nmetadata: &m {name: a, labels: {a: \"1\"}}\nspec: {items: [1, 2], no: on, big: 123456789012345678901234567890}\n",
		"x: &m {name: merged}\napiVersion: &v v1\nkind: ConfigMap\nmetadata: {<<: *m, labels: {app: *v, none: ~}}\n",
		"apiVersion: kapp.k14s.io/v1alpha1\nkind: Config\n", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: \"5\", annotations: ~}\n",
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one}\ndata:\n  a: |\n    ---\n    b\n  x: \"" + strings.Repeat("x", 4096) + "\"",
		// A last line without a break that fills the reader's buffer.
		`{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}, "data": {"a": "` + strings.Repeat("x", 4096-88) + `"}}`,
	} {
		f := parse(t, "f.yaml", data)
		if err := resources.CheckFiles([]resources.File{f}); err != nil {
			t.Errorf("%.300s\n%v", data, err)
		}
		read, err := resources.Read(fstest.MapFS{"f.yaml": {Data: []byte(data)}, "other.txt": {Data: []byte("x")}})
		count := 0
		for _, doc := range f.Documents {
			count += len(manifest.ListItems(doc))
		}
		if err != nil || len(read) != count {
			t.Errorf("%.300s: %v, %d resources, want %d", data, err, len(read), count)
		}
	}
	unset := parse(t, "f.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ''}\n")
	unset.Unset = true
	if err := resources.CheckFiles([]resources.File{unset}); err != nil {
		t.Errorf("a name that a site's value brings: %v", err)
	}
}

// Upstream's manifests pass, but for those whose faults are known.
func TestCheckOfUpstream(t *testing.T) {
	t.Parallel()
	checked, refused := 0, map[string]bool{}
	for _, f := range corpus.ListFiles(t) {
		if !f.IsManifests() {
			continue
		}
		checked++
		if err := resources.CheckFiles([]resources.File{parse(t, f.Path, string(f.Data))}); err != nil {
			refused[err.Error()] = true
		}
	}
	for problem := range refused {
		if !slices.ContainsFunc(upstreamFaults, func(known string) bool { return strings.Contains(problem, known) }) {
			t.Errorf("%s", problem)
		}
	}
	if checked < 100 {
		t.Errorf("only %d files", checked)
	}
}

// upstreamFaults are what is wrong with upstream's manifests.
var upstreamFaults = []string{
	"has generateName",
	// Files of programs, which look like resources.
	"has no metadata.name",
	// A template of salt's, and samples of which one is to be applied.
	"kube-scheduler.manifest:1:1: kapp cannot read this: yaml: invalid map key", "/samples/",
}

// Nothing that kapp is given ends the program.
func TestReadEndsInNoPanic(t *testing.T) {
	t.Parallel()
	for _, data := range []string{
		"\x00", "a: [", "- ~", "5", "[]", "{}", "a: &a [*a]", "a: &a {b: *a}", "{8080: web}", "on:", "? [a]\n: b", "<<: 5", "a: !!int x", "a: !!binary '!'", "%YAML 9.9\n---\na", strings.Repeat("[", 20000),
		"apiVersion: a/b/c/d\nkind: X\nmetadata: {name: x}", "kind: {}\napiVersion: []\n", "apiVersion: v1\nkind: List\nitems: [5]", "apiVersion: v1\nkind: List\nitems: [{apiVersion: a/b/c}]",
		"apiVersion: v1\nkind: Pod\nmetadata: 5", "apiVersion: v1\nkind: Pod\nmetadata: {name: [], namespace: {}, labels: 5, annotations: [a]}", "apiVersion: 5\nkind: 6\n",
	} {
		all, err := resources.Read(fstest.MapFS{"a.yaml": {Data: []byte(data)}})
		if err != nil && strings.Contains(err.Error(), "goroutine") {
			t.Errorf("%q: %v", data, err)
		}
		for _, r := range all {
			_, _, _ = r.Description(), r.GroupKind(), r.APIGroup()
		}
	}
}

// TestKappVersion: the version that a program without build information assumes is that of go.mod.
func TestKappVersion(t *testing.T) {
	data, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if want := "carvel.dev/kapp " + version.Version + "\n"; !strings.Contains(string(data), want) {
		t.Errorf("go.mod does not have %q", want)
	}
	config := "apiVersion: kapp.k14s.io/v1alpha1\nkind: Config\nminimumRequiredVersion: "
	for required, fits := range map[string]bool{"0.30.0": true, "99.0.0": false} {
		r, err := kappres.NewResourceFromBytes([]byte(config + required + "\n"))
		if err != nil {
			t.Fatal(err)
		}
		if err := resources.CheckRules([]kappres.Resource{r}); (err == nil) != fits {
			t.Errorf("minimumRequiredVersion %s: %v", required, err)
		}
	}
}
