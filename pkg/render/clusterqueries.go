package render

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/template"

	"helm.sh/helm/v4/pkg/chart/common"
	chart "helm.sh/helm/v4/pkg/chart/v2"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/lazyregexp"
)

// asksCluster matches templates that query the cluster for its resources or APIs.
var (
	asksCluster = lazyregexp.New(`\blookup\b|\.APIVersions\b`)
	askedAPI    = lazyregexp.New(`\.APIVersions\.Has\s+\(?\s*["` + "`" + `]([^"` + "`" + `\s]+)["` + "`" + `]`)
)

// maxAPIs is how many APIs are tried for whether a chart renders otherwise with them.
const maxAPIs = 20

// ClusterQueries returns what a chart asks its cluster for, if the answer changes what the chart renders to: one
// line for the user each. `helm install` queries the cluster; rendering never does. Errors are those of
// [RenderSource].
func ClusterQueries(ctx context.Context, in Input) ([]string, error) {
	if in.Source.Template != bundle.TemplateHelm {
		return nil, nil
	}
	var notes []string
	in.Note = func(text string) { notes = append(notes, text) }
	_, err := in.runTask(ctx, TaskClusterQueries)
	return notes, err
}

func (in Input) findClusterQueries() (notes []string, err error) {
	defer recoverEngine("helm", &err)
	c, err := loadChart(in)
	if err != nil {
		return nil, err
	}
	texts := templatesOf(c)
	if !slices.ContainsFunc(texts, asksCluster.Get().Match) {
		return nil, nil
	}
	looked := map[string]bool{}
	out, err := renderHelm(in, template.FuncMap{"lookup": func(apiVersion, kind, namespace, name string) (map[string]any, error) {
		looked[strings.Join(strings.Fields(kind+" "+strings.Trim(namespace+"/"+name, "/")), " ")] = true
		return map[string]any{}, nil
	}})
	if err != nil {
		return nil, err
	}
	if len(looked) > 0 {
		names := slices.Sorted(maps.Keys(looked))
		notes = append(notes, fmt.Sprintf("looks up %s on the cluster: it renders as if that does not exist", strings.Join(names, ", ")))
	}
	if apis := in.decidingAPIs(texts, out); len(apis) > 0 {
		notes = append(notes, fmt.Sprintf("renders differently if the cluster has %s: list the APIs of the clusters in helm.apiVersions", strings.Join(apis, ", ")))
	}
	return notes, nil
}

// templatesOf returns the templates of a chart and of those in it.
func templatesOf(c *chart.Chart) (all [][]byte) {
	for _, f := range c.Templates {
		all = append(all, f.Data)
	}
	for _, sub := range c.Dependencies() {
		all = append(all, templatesOf(sub)...)
	}
	return all
}

// decidingAPIs returns the APIs that the chart's templates ask for, is told not to be there, and renders
// otherwise with: each was tried.
func (in Input) decidingAPIs(texts [][]byte, without []bundle.File) (deciding []string) {
	known := slices.Clone([]string(common.DefaultVersionSet))
	options := bundle.Helm{}
	if in.Source.Helm != nil {
		options = *in.Source.Helm
	}
	known = append(known, options.APIVersions...)
	var asked []string
	for _, text := range texts {
		for _, m := range askedAPI.Get().FindAllSubmatch(text, -1) {
			api := string(m[1])
			if !slices.Contains(known, api) && !slices.Contains(asked, api) && len(asked) < maxAPIs {
				asked = append(asked, api)
			}
		}
	}
	rendersOtherwise := func(apis ...string) bool {
		source, with := *in.Source, options
		with.APIVersions = slices.Concat(options.APIVersions, apis)
		source.Helm = &with
		in.Source = &source
		out, err := renderHelm(in, template.FuncMap{})
		return err != nil || !bytes.Equal(out[0].Data, without[0].Data)
	}
	if len(asked) == 0 || !rendersOtherwise(asked...) {
		return nil
	}
	for _, api := range asked {
		if rendersOtherwise(api) {
			deciding = append(deciding, api)
		}
	}
	slices.Sort(deciding)
	return deciding
}
