package site_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/pkg/render"
	"krtpkg.dev/krtpkg/pkg/site"
)

// recordedValues are the objects of a cluster, by KIND/NAME:KEY, and the values of the last apply.
type recordedValues struct {
	objects map[string]string
	last    render.Kept
}

func (r *recordedValues) Read(_ context.Context, kind, name, key string) ([]byte, error) {
	text, found := r.objects[kind+"/"+name+":"+key]
	if !found {
		return nil, errors.New("not found")
	}
	return []byte(text), nil
}

func (r *recordedValues) Values(context.Context, string, int) ([]byte, error) { return r.last.Encode() }

func parseValues(t *testing.T, texts ...string) (all []*render.Values) {
	t.Helper()
	for _, text := range texts {
		values, err := render.ParseValues("site.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, values)
	}
	return all
}

func TestValuePrecedence(t *testing.T) {
	t.Parallel()
	cluster := &recordedValues{objects: map[string]string{
		"configmap/base:values.yaml": "web: {a: configmap, b: configmap, c: configmap, d: configmap}",
		"secret/login:site.yaml":     "web: {b: hidden1, c: hidden2, d: hidden3}",
		"secret/broken:values.yaml":  "hidden4",
	}, last: render.Kept{
		All:    parseValues(t, "web: {a: last, token: hidden5}\ngone: {a: last}")[0],
		Secret: parseValues(t, "web: {token: hidden5}")[0],
	}}
	config, secret := site.ClusterValues{Name: "base"}, site.ClusterValues{Secret: true, Name: "login", Key: "site.yaml"}
	assigned := func(text string) render.Assignment {
		one, err := render.ParseAssignment(text, false)
		if err != nil {
			t.Fatal(err)
		}
		return one
	}
	for name, test := range map[string]struct {
		sources     site.ValueSources
		want, hides string
		fails       string
	}{
		"all of them": {
			sources: site.ValueSources{
				Cluster: []site.ClusterValues{config, secret}, Files: parseValues(t, "web: {c: first, d: first}", "web: {c: second}"),
				Assignments: []render.Assignment{assigned("web.d=one"), assigned("web.d=two")},
			},
			want: "web: a=configmap b=hidden1 c=second d=two", hides: "hidden1 hidden2 hidden3",
		},
		"the last apply":       {want: "web: a=last token=hidden5", hides: "hidden5"},
		"over the last apply":  {sources: site.ValueSources{Assignments: []render.Assignment{assigned("web.a=new")}}, want: "web: a=new token=hidden5", hides: "hidden5"},
		"reset":                {sources: site.ValueSources{Reset: true, Assignments: []render.Assignment{assigned("web.a=new")}}, want: "web: a=new"},
		"a file":               {sources: site.ValueSources{Files: parseValues(t, "web: {b: file}")}, want: "web: b=file"},
		"an empty file":        {sources: site.ValueSources{Files: parseValues(t, "")}},
		"an unknown bundle":    {sources: site.ValueSources{Files: parseValues(t, "wbe: {b: file}")}, fails: `unknown bundle "wbe"`},
		"an absent object":     {sources: site.ValueSources{Cluster: []site.ClusterValues{{Name: "other"}}}, fails: "values from configmap/other:values.yaml: not found"},
		"a Secret of no value": {sources: site.ValueSources{Cluster: []site.ClusterValues{{Secret: true, Name: "broken"}}}, fails: "values from secret/broken:values.yaml: values.yaml is not a mapping"},
	} {
		var hidden []string
		test.sources.OnSecret = func(texts []string) { hidden = append(hidden, texts...) }
		kept, err := test.sources.MergeWithCluster(context.Background(), cluster, "edge", []string{"web", "dns"})
		switch {
		case test.fails != "":
			if err == nil || !strings.Contains(err.Error(), test.fails) || strings.Contains(err.Error(), "hidden") {
				t.Errorf("%s: %v, want %q", name, err, test.fails)
			}
			continue
		case err != nil:
			t.Errorf("%s: %v", name, err)
			continue
		}
		slices.Sort(hidden)
		if got := formatValues(kept.All); got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
		if got := strings.Join(slices.Compact(hidden), " "); got != test.hides {
			t.Errorf("%s hides %q, want %q", name, got, test.hides)
		}
	}
	merged, err := (&site.ValueSources{Files: parseValues(t, "web: {a: file, b: file}"), Assignments: []render.Assignment{assigned("web.b=one")}}).Merge([]string{"web"})
	if got := formatValues(merged); err != nil || got != "web: a=file b=one" {
		t.Errorf("without a cluster: %s, %v", got, err)
	}
}

// formatValues writes values of one level on one line.
func formatValues(values *render.Values) string {
	node := values.Node()
	if node == nil {
		return ""
	}
	var bundles []string
	for i := 0; i+1 < len(node.Content); i += 2 {
		text := node.Content[i].Value + ":"
		for k := 0; k+1 < len(node.Content[i+1].Content); k += 2 {
			text += fmt.Sprintf(" %s=%s", node.Content[i+1].Content[k].Value, node.Content[i+1].Content[k+1].Value)
		}
		bundles = append(bundles, text)
	}
	return strings.Join(bundles, "; ")
}

func TestParseClusterValues(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"secret/login": "secret/login:values.yaml", "configmap/base:site.yaml": "configmap/base:site.yaml",
		"secret/": "", "login": "", "pod/login": "", "": "",
	} {
		got, err := site.ParseClusterValues(text)
		if want == "" && err == nil || want != "" && (err != nil || got.String() != want) {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
}
