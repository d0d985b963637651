package assemble_test

import (
	"bytes"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/internal/corpus"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/render"
)

// unrendered are the charts of the corpus that do not render with their own values, and why.
var unrendered = map[string]string{
	"artifact-hub/artifact-hub":                   "the chart needs postgresql 18.0.15",
	"bamboo/bamboo":                               "the chart needs common 1.2.7",
	"bamboo/common":                               "is of type library",
	"bitbucket/bitbucket":                         "the chart needs common 1.2.7",
	"bitbucket/common":                            "is of type library",
	"kubeapps/kubeapps":                           "the chart needs postgresql 16.x.x and common",
	"linkerd-control-plane/linkerd-control-plane": "Please provide the identity issuer certificate",
	"ovn-kubernetes/ovn-kubernetes":               "getImage",
	"trivy-operator/helm":                         "YAML parse error on templates/rbac/clusterrole.yaml",
}

// renderedWith are values that charts of the corpus want to be given.
var renderedWith = map[string]string{
	"anchore-k8s-inventory/k8s-inventory":                       "k8sInventory: {anchore: {url: https://anchore.example, user: u, account: a, password: p}}",
	"aws-load-balancer-controller/aws-load-balancer-controller": "clusterName: site",
	"drone/drone": "env: {DRONE_SERVER_HOST: drone.example}",
}

// prose is what schemas in the rendered charts say to people.
var prose = []string{
	"implied bits made explicit; e.g., `docker.io/library/alpine`",
	"The agent is available as a Docker image at: public.ecr.aws/aws-elb/target-optimizer/target-control-agent:latest",
	"Bundle resource: gcr.io/tekton-releases/catalog/upstream/git-clone, gcr.io/tekton-releases/catalog/upstream/*",
}

// In what the charts of both folders of the corpus render to, no container is missed, and no line that
// could name an image goes without a word.
func TestCorpusRecallOfCharts(t *testing.T) {
	t.Parallel()
	charts, containers, lines := 0, 0, 0
	all := corpusCharts(t)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		data, err := renderChart(t, all[name], renderedWith[name])
		if err != nil {
			if unrendered[name] == "" || !strings.Contains(err.Error(), unrendered[name]) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		charts++
		file, err := manifest.Parse(name, data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		found, err := new(images.Finder).Find(file)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		at, named := map[int]bool{}, map[string]int{}
		for _, f := range found {
			at[f.Line] = true
			if f.IsRun() {
				named[f.Image]++
			}
		}
		for _, doc := range file.Documents {
			var plain any
			if err := doc.Decode(&plain); err != nil {
				t.Fatal(err)
			}
			for _, image := range containerImages(plain) {
				containers++
				if named[image]--; named[image] < 0 {
					t.Errorf("%s: %q of a container is not found", name, image)
				}
			}
		}
		for _, m := range corpus.ListMentions(data) {
			lines++
			if !at[m.Line] && !slices.Contains(prose, m.Text) {
				t.Errorf("%s:%d: nothing is reported of %.200s", name, m.Line, m.Text)
			}
		}
	}
	t.Logf("%d charts, %d images of containers, %d lines that could name one, nothing missed", charts, containers, lines)
	if charts < 40 || containers < 110 || lines < 120 {
		t.Error("that is less than the corpus has")
	}
}

func containerImages(value any) (found []string) {
	switch v := value.(type) {
	case []any:
		for _, item := range v {
			found = append(found, containerImages(item)...)
		}
	case map[string]any:
		for key, item := range v {
			if list, ok := item.([]any); ok && slices.Contains([]string{"containers", "initContainers", "ephemeralContainers"}, key) {
				for _, c := range list {
					if container, ok := c.(map[string]any); ok {
						if image, ok := container["image"].(string); ok && image != "" {
							found = append(found, image)
						}
					}
				}
			}
			found = append(found, containerImages(item)...)
		}
	}
	return found
}

type corpusChart []bundle.File

// corpusCharts returns the files of the charts, by the names of products and charts.
func corpusCharts(t *testing.T) map[string]corpusChart {
	t.Helper()
	files := corpus.ListAllFiles(t)
	var dirs []string
	for _, f := range files {
		if path.Base(f.Path) == "Chart.yaml" && !strings.Contains(f.Path, "/charts/") {
			dirs = append(dirs, path.Dir(f.Path))
		}
	}
	charts := map[string]corpusChart{}
	for _, f := range files {
		for _, dir := range dirs {
			if rel, ok := strings.CutPrefix(f.Path, dir+"/"); ok {
				name := path.Base(f.Product()) + "/" + path.Base(dir)
				charts[name] = append(charts[name], bundle.File{Path: rel, Data: f.Data})
			}
		}
	}
	return charts
}

func renderChart(t *testing.T, files corpusChart, values string) ([]byte, error) {
	in := render.Input{Source: &bundle.Source{Template: bundle.TemplateHelm}, Name: "release", Files: files, Values: [][]byte{[]byte(values)}}
	out, err := render.RenderSource(t.Context(), in)
	if err != nil {
		return nil, err
	}
	return bytes.TrimSpace(out[0].Data), nil
}
