package deploy

import (
	"fmt"
	"reflect"
	"slices"
	"testing"

	"carvel.dev/kapp/pkg/kapp/diff"
	kappres "carvel.dev/kapp/pkg/kapp/resources"

	"krtpkg.dev/krtpkg/pkg/deploy/marks"
	"krtpkg.dev/krtpkg/pkg/deploy/merge"
)

// parseObject reads what the API server would have, or what is wanted of it.
func parseObject(t *testing.T, text string) kappres.Resource {
	t.Helper()
	r, err := kappres.NewResourceFromBytes([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// liveConfigMap is on the cluster; record are further annotations.
func liveConfigMap(name, value, uid, record string) string {
	return fmt.Sprintf("{apiVersion: v1, kind: ConfigMap, metadata: {name: %[1]s, namespace: here, uid: %[3]q, resourceVersion: '7', "+
		"labels: {kapp.k14s.io/app: '1'}, annotations: {%[5]q: 'v1;here//ConfigMap/%[1]s;v1'%[4]s}}, data: {a: %[2]s}}", name, value, uid, record, marks.Identity)
}

func wantedConfigMap(name, value, annotations string) string {
	return fmt.Sprintf("{apiVersion: v1, kind: ConfigMap, metadata: {name: %[1]s, namespace: here, labels: {kapp.k14s.io/app: '1'}, "+
		"annotations: {%[4]q: 'v1;here//ConfigMap/%[1]s;v1'%[3]s}}, data: {a: %[2]s}}", name, value, annotations, marks.Identity)
}

// What is found to stay as it is, is what kapp finds, in its order.
func TestUnchangedIsWhatKappKeeps(t *testing.T) {
	t.Parallel()
	record := func(name, value, sum string) string {
		return fmt.Sprintf(`, %s: '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"labels":{"kapp.k14s.io/app":"1"},"name":%q,"namespace":"here"},"data":{"a":%q}}', %s: %q`,
			marks.Original, name, value, marks.OriginalMD5, sum)
	}
	const otherSum = "0123456789abcdef0123456789abcdef"
	for name, c := range map[string]struct {
		existing, wanted []string
		quick            int // how many are found without kapp
	}{
		"no record":                          {[]string{liveConfigMap("a", "x", "1", "")}, []string{wantedConfigMap("a", "x", "")}, 1},
		"recorded":                           {[]string{liveConfigMap("a", "x", "1", record("a", "x", noDifference))}, []string{wantedConfigMap("a", "x", "")}, 1},
		"recorded, and changed":              {[]string{liveConfigMap("a", "x", "1", record("a", "x", noDifference))}, []string{wantedConfigMap("a", "z", "")}, 0},
		"drifted":                            {[]string{liveConfigMap("a", "z", "1", record("a", "x", noDifference))}, []string{wantedConfigMap("a", "x", "")}, 0},
		"drifted to what is new":             {[]string{liveConfigMap("a", "z", "1", record("a", "x", noDifference))}, []string{wantedConfigMap("a", "z", "")}, 1},
		"recorded by kapp itself":            {[]string{liveConfigMap("a", "x", "1", record("a", "x", otherSum))}, []string{wantedConfigMap("a", "x", "")}, 0},
		"another's annotation":               {[]string{liveConfigMap("a", "x", "1", ", other: z"+record("a", "x", noDifference))}, []string{wantedConfigMap("a", "x", "")}, 1},
		"more annotations":                   {[]string{liveConfigMap("a", "x", "1", "")}, []string{wantedConfigMap("a", "x", ", other: z")}, 0},
		"to exist":                           {[]string{liveConfigMap("a", "x", "1", "")}, []string{wantedConfigMap("a", "z", ", kapp.k14s.io/exists: ''")}, 0},
		"to be left alone":                   {[]string{liveConfigMap("a", "x", "1", "")}, []string{wantedConfigMap("a", "x", ", kapp.k14s.io/noop: ''")}, 0},
		"told on the cluster to leave alone": {[]string{liveConfigMap("a", "x", "1", ", kapp.k14s.io/noop: ''"+record("a", "x", noDifference))}, []string{wantedConfigMap("a", "x", "")}, 0},
		"told on the cluster that it exists": {[]string{liveConfigMap("a", "x", "1", ", kapp.k14s.io/exists: ''"+record("a", "x", noDifference))}, []string{wantedConfigMap("a", "x", "")}, 0},
		"wanted twice":                       {[]string{liveConfigMap("a", "x", "1", "")}, []string{wantedConfigMap("a", "x", ""), wantedConfigMap("a", "x", "")}, 0},
		"wanted twice, changed first":        {[]string{liveConfigMap("a", "x", "1", "")}, []string{wantedConfigMap("a", "z", ""), wantedConfigMap("a", "x", "")}, 0},
		"wanted twice, changed last":         {[]string{liveConfigMap("a", "x", "1", "")}, []string{wantedConfigMap("a", "x", ""), wantedConfigMap("a", "z", "")}, 0},
		"several": {
			[]string{liveConfigMap("gone", "x", "9", ""), liveConfigMap("b", "x", "2", ""), liveConfigMap("a", "x", "1", "")},
			[]string{wantedConfigMap("new", "x", ""), wantedConfigMap("a", "x", ""), wantedConfigMap("b", "z", ""), wantedConfigMap("last", "x", "")}, 1,
		},
		"one under two keys": {[]string{liveConfigMap("a", "x", "1", ""), liveConfigMap("b", "x", "1", "")}, []string{wantedConfigMap("a", "x", "")}, 0},
		"versioned": {
			[]string{liveConfigMap("a", "x", "1", ""), liveConfigMap("b-ver-1", "x", "2", ", kapp.k14s.io/versioned: ''")},
			[]string{wantedConfigMap("a", "x", ""), wantedConfigMap("b", "z", ", kapp.k14s.io/versioned: ''")}, 0,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			parse := func(texts []string) (all []kappres.Resource) {
				for _, text := range texts {
					all = append(all, parseObject(t, text))
				}
				return all
			}
			existing, wanted := parse(c.existing), parse(c.wanted)
			for _, r := range wanted {
				if err := merge.RecordApplied(r); err != nil {
					t.Fatal(err)
				}
			}
			conf, err := usualRules()
			if err != nil {
				t.Fatal(err)
			}
			compare, err := newComparison(conf, existing)
			if err != nil {
				t.Fatal(err)
			}
			options := diff.ChangeSetOpts{AgainstLastApplied: true}
			found, err := compare.findUnchanged(existing, wanted, options)
			if err != nil || len(found) != c.quick {
				t.Errorf("%d are found to stay as they are, error %v; want %d", len(found), err, c.quick)
			}
			got, err := compare.calculateChanges(existing, wanted, conf, options)
			kapps, kappsErr := diff.NewChangeSetWithVersionedRs(parse(c.existing), parseRecorded(t, c.wanted), conf.TemplateRules(), options, compare.ChangeFactory).Calculate()
			if fmt.Sprint(err) != fmt.Sprint(kappsErr) {
				t.Errorf("error %v, and %v by kapp", err, kappsErr)
			}
			if ops, want := describeChanges(got), describeChanges(kapps); !slices.Equal(ops, want) {
				t.Errorf("%q, and by kapp %q", ops, want)
			}
			for i, change := range got {
				if i < len(kapps) && change.Op() == diff.ChangeOpKeep && !reflect.DeepEqual(objectsOf(change), objectsOf(kapps[i])) {
					t.Errorf("%s: %v, and by kapp %v", change.NewOrExistingResource().Name(), objectsOf(change), objectsOf(kapps[i]))
				}
			}
		})
	}
}

// A record counts later if it is made of what kapp compares: of an object without the fields that rules leave out.
func TestIsAsAppliedIsWhatKappFinds(t *testing.T) {
	t.Parallel()
	const revision, rollout = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, namespace: here%s, annotations: {%s}}, spec: {replicas: 1}}",
		"deployment.kubernetes.io/revision: '1'"
	ruleOf := func(kind, path string) string {
		return fmt.Sprintf("{apiVersion: kapp.k14s.io/v1alpha1, kind: Config, %s: [{path: %s, resourceMatchers: [{apiVersionKindMatcher: {apiVersion: v1, kind: ConfigMap}}]}]}", kind, path)
	}
	for name, c := range map[string]struct {
		answer, manifest, rule string
		want                   bool
	}{
		"the same":                 {liveConfigMap("a", "x", "1", ""), wantedConfigMap("a", "x", ""), "", true},
		"another value":            {liveConfigMap("a", "z", "1", ""), wantedConfigMap("a", "x", ""), "", false},
		"a rule of the bundle":     {liveConfigMap("a", "x", "1", ""), wantedConfigMap("a", "x", ""), ruleOf("diffAgainstLastAppliedFieldExclusionRules", "[data, a]"), false},
		"a rule on another field":  {liveConfigMap("a", "x", "1", ""), wantedConfigMap("a", "x", ""), ruleOf("diffAgainstLastAppliedFieldExclusionRules", "[data, b]"), true},
		"what is never compared":   {liveConfigMap("a", "z", "1", ""), wantedConfigMap("a", "x", ""), ruleOf("diffAgainstExistingFieldExclusionRules", "[data, a]"), true},
		"a rule of kapp":           {fmt.Sprintf(revision, ", uid: '1'", rollout), fmt.Sprintf(revision, "", rollout), "", false},
		"a rollout, by controller": {fmt.Sprintf(revision, ", uid: '1'", "b: c, "+rollout), fmt.Sprintf(revision, "", "b: c"), "", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var rules []kappres.Resource
			if c.rule != "" {
				rules = append(rules, parseObject(t, c.rule))
			}
			_, conf, err := readRules(rules)
			if err != nil {
				t.Fatal(err)
			}
			answer, manifest := parseObject(t, c.answer), parseRecorded(t, []string{c.manifest})[0]
			compare, err := newComparison(conf, []kappres.Resource{answer})
			if err != nil {
				t.Fatal(err)
			}
			kapps, err := compare.NewResourceWithHistory(answer).CalculateChange(manifest)
			if err != nil {
				t.Fatal(err)
			}
			got := compare.isAsApplied(answer, manifest)
			if byKapp := kapps.OpsDiff().MinimalMD5() == noDifference; got != c.want || byKapp != c.want {
				t.Errorf("as applied: %t, and by kapp %t; want %t", got, byKapp, c.want)
			}
			text, err := manifest.AsCompactBytes()
			if err != nil {
				t.Fatal(err)
			}
			setAnnotations(answer, map[string]string{marks.Original: string(text), marks.OriginalMD5: noDifference})
			if counts := compare.NewResourceWithHistory(answer).LastAppliedResource() != nil; got != counts {
				t.Errorf("as applied: %t, and that the record of that counts: %t", got, counts)
			}
		})
	}
}

func parseRecorded(t *testing.T, texts []string) (all []kappres.Resource) {
	t.Helper()
	for _, text := range texts {
		r := parseObject(t, text)
		if err := merge.RecordApplied(r); err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

func describeChanges(changes []diff.Change) (all []string) {
	for _, c := range changes {
		all = append(all, string(c.Op())+" "+c.NewOrExistingResource().Name())
	}
	return all
}

// objectsOf are what kapp may ask of a change.
func objectsOf(c diff.Change) (all []map[string]any) {
	for _, r := range []kappres.Resource{c.NewOrExistingResource(), c.NewResource(), c.ExistingResource(), c.AppliedResource(), c.ClusterOriginalResource()} {
		if r == nil || reflect.ValueOf(r).IsNil() {
			all = append(all, nil)
		} else {
			all = append(all, r.DeepCopyRaw())
		}
	}
	return all
}

// A service account to which nothing was added is merged as kapp's template would merge it.
func TestServiceAccountsAreMergedAsByKapp(t *testing.T) {
	t.Parallel()
	conf, err := usualRules()
	if err != nil {
		t.Fatal(err)
	}
	const wanted = "{apiVersion: v1, kind: ServiceAccount, metadata: {name: app}, imagePullSecrets: [{name: mine}], automountServiceAccountToken: false}"
	for _, c := range []struct {
		name, live string
		template   bool
	}{
		{"plain", "imagePullSecrets: [{name: mine}]", false},
		{"secrets of its own", "secrets: [{name: app}, {name: other-token-abc}], imagePullSecrets: [{name: mine}, {name: more}]", false},
		{"empty", "secrets: [], imagePullSecrets: []", false},
		{"a token", "secrets: [{name: app-token-abc}], imagePullSecrets: [{name: mine}]", true},
		{"OpenShift", "secrets: [{name: app-dockercfg-abc}], imagePullSecrets: [{name: app-dockercfg-abc}]", true},
	} {
		live := parseObject(t, "{apiVersion: v1, kind: ServiceAccount, metadata: {name: app, uid: '1'}, "+c.live+"}")
		if got := hasAddedSecrets(live); got != c.template {
			t.Errorf("%s: the template is needed: %t, want %t", c.name, got, c.template)
		}
		one, err := diff.NewRebasedResource(live, parseObject(t, wanted), quickRules(conf.RebaseMods(), conf.RebaseMods())).Resource()
		if err != nil {
			t.Fatal(err)
		}
		other, err := diff.NewRebasedResource(live, parseObject(t, wanted), conf.RebaseMods()).Resource()
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(one.UnstructuredObject(), other.UnstructuredObject()) {
			t.Errorf("%s: %v, and by kapp %v", c.name, one.UnstructuredObject(), other.UnstructuredObject())
		}
	}
	// Kapp's template reads nothing else.
	if n := len(slices.DeleteFunc(quickRules(conf.RebaseMods(), conf.RebaseMods()), func(r kappres.ResourceModWithMultiple) bool {
		_, is := r.(serviceAccountRule)
		return !is
	})); n != 1 {
		t.Errorf("%d templates among kapp's rules, want 1", n)
	}
}
