package render_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/render"
)

// What a chart asks the cluster for is named where the answer decides, which the real tool shows by
// rendering with the API.
func TestAsked(t *testing.T) {
	t.Parallel()
	helm := tool(t, "helm")
	const monitored = "{{ if .Capabilities.APIVersions.Has \"monitoring.coreos.com/v1\" }}\n" + configMap + "{{ end }}"
	const otherwise = "renders differently if the cluster has monitoring.coreos.com/v1: list the APIs of the clusters in helm.apiVersions"
	for name, c := range map[string]struct {
		files []string
		apis  []string
		want  []string
	}{
		"nothing":                     {files: []string{"templates/a.yaml", configMap}},
		"an API":                      {files: []string{"templates/a.yaml", monitored}, want: []string{otherwise}},
		"one that is given":           {files: []string{"templates/a.yaml", monitored}, apis: []string{"monitoring.coreos.com/v1"}},
		"one of Kubernetes":           {files: []string{"templates/a.yaml", strings.ReplaceAll(monitored, "monitoring.coreos.com/v1", "batch/v1")}},
		"one that decides nothing":    {files: []string{"templates/a.yaml", "{{ if .Capabilities.APIVersions.Has \"monitoring.coreos.com/v1\" }}\n{{ end }}" + configMap}},
		"one that fails the chart":    {files: []string{"templates/a.yaml", configMap + "{{ if $.Capabilities.APIVersions.Has (\"monitoring.coreos.com/v1\") }}{{ fail \"no\" }}{{ end }}"}, want: []string{otherwise}},
		"one of two, in a packed one": {files: []string{"charts/sub-1.0.0.tgz", packed(t, "sub", "Chart.yaml", "apiVersion: v2\nname: sub\nversion: 1.0.0\n", "templates/a.yaml", monitored+"{{ if .Capabilities.APIVersions.Has `route.openshift.io/v1` }}{{ end }}")}, want: []string{otherwise}},
		"objects": {files: []string{"templates/a.yaml", "{{ $_ := lookup \"v1\" \"Secret\" \"x\" \"z\" }}{{ $_ := lookup \"v1\" \"Secret\" \"x\" \"z\" }}" + configMap + "{{ range (lookup \"v1\" \"Node\" \"\" \"\").items }}{{ end }}"},
			want: []string{"looks up Node, Secret x/z on the cluster: it renders as if that does not exist"}},
		"one that is not looked up": {files: []string{"templates/a.yaml", configMap + "{{ if .Values.a }}{{ lookup \"v1\" \"Secret\" \"x\" \"z\" }}{{ end }}"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := chartInput(c.files...)
			in.Source.Helm = &bundle.Helm{Release: "rel", Namespace: "ns", Kubernetes: "1.34.0", APIVersions: c.apis}
			got, err := render.ClusterQueries(t.Context(), in)
			if err != nil || !slices.Equal(got, c.want) {
				t.Errorf("got %q, %v, want %q", got, err, c.want)
			}
			more := *in.Source.Helm
			more.APIVersions = append(slices.Clone(c.apis), "monitoring.coreos.com/v1")
			_, without, _, err := both(t, helm, in.Files, nil, in.Source.Helm)
			_, with, _, errWith := both(t, helm, in.Files, nil, &more)
			if err != nil || slices.Contains(c.want, otherwise) == (errWith == nil && bytes.Equal(with, without)) {
				t.Errorf("helm prints the same or not with the API:\n%s%v\n%s%v", without, err, with, errWith)
			}
		})
	}
}

// A site gets no other passwords with every apply: its values settle the chart, or it is refused. A
// build takes what a site can settle.
func TestTargetRefusesUnstableCharts(t *testing.T) {
	t.Parallel()
	content := built(t)
	content.Files[2].Data = []byte(configMap + "data: {v: {{ .Values.password | default (randAlphaNum 9) | quote }}}\n")
	if content.Files[2].Path != "config/chart/templates/a.yaml" {
		t.Fatal(content.Files[2].Path)
	}
	content.Files = content.Files[:len(content.Files)-1] // an overlay without a match
	var unstable *render.UnstableError
	if got, err := render.RenderTemplates(t.Context(), content, nil); !errors.As(err, &unstable) || !strings.HasSuffix(err.Error(), "templates/a.yaml uses random values or the time: set them as values (password)") {
		t.Errorf("got %v, %v", text(got), err)
	}
	if got, err := render.RenderTemplates(t.Context(), content, []byte("password: fixed\n")); err != nil || !strings.Contains(text(got), `{v: "fixed"}`) {
		t.Errorf("got %v, %v", text(got), err)
	}
	if _, err := render.RenderDefaults(t.Context(), content); err != nil {
		t.Errorf("at the build: %v", err)
	}
}
