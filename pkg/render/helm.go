package render

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"text/template"
	"time"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/loader/archive"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	chartutil "helm.sh/helm/v4/pkg/chart/v2/util"
	"helm.sh/helm/v4/pkg/engine"
	"helm.sh/helm/v4/pkg/ignore"
	release "helm.sh/helm/v4/pkg/release/v1"
	releaseutil "helm.sh/helm/v4/pkg/release/v1/util"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/lazyregexp"
)

// manifests is the one file that helm and kustomize render to.
const manifests = "manifests.yaml"

// DefaultKubernetes is what a chart is told where its source says nothing: the version that
// helm 4.3 tells it. It stands here since helm takes it from the libraries it is built with.
const DefaultKubernetes = "v1.37.0"

// renderHelm renders a chart to the bytes that `helm template` prints, with functions over those
// that templates have.
func renderHelm(in Input, functions template.FuncMap) (rendered []bundle.File, err error) {
	defer recoverEngine("helm", &err)
	warnings := captureWarnings(func() { rendered, err = helmTemplate(in, functions) })
	noted := map[string]bool{}
	for _, line := range warnings {
		note, ok := helmWarning(line)
		if ok && in.Note != nil && functions == nil && !noted[note] {
			in.Note(note)
		}
		noted[note] = true // helm merges values several times
	}
	return rendered, err
}

// logged begins a line of package log or slog.
var logged = lazyregexp.New(`^[0-9/]+ [0-9:.]+ `)

// helmWarning returns what a line of helm's log warns of, if it does.
func helmWarning(line string) (note string, ok bool) {
	line = logged.Get().ReplaceAllString(line, "")
	for _, level := range []string{"WARN ", "warning: ", "Warning: ", "WARNING: "} {
		if note, ok := strings.CutPrefix(line, level); ok {
			return oneLineWarning(note), true
		}
	}
	return "", false
}

func helmTemplate(in Input, functions template.FuncMap) ([]bundle.File, error) {
	options := cmp.Or(in.Source.Helm, &bundle.Helm{})
	kubernetes, err := common.ParseKubeVersion(cmp.Or(options.Kubernetes, DefaultKubernetes))
	if err != nil {
		return nil, fmt.Errorf("helm.kubernetes: %q is not a version", options.Kubernetes)
	}
	if err := checkChart(in, kubernetes); err != nil {
		return nil, err
	}
	c, err := loadChart(in)
	if err != nil {
		return nil, err
	}
	values, err := in.helmValues()
	if err != nil {
		return nil, err
	}
	namespace := cmp.Or(options.Namespace, "default")
	capabilities := common.DefaultCapabilities.Copy()
	capabilities.KubeVersion = *kubernetes
	capabilities.APIVersions = append(capabilities.APIVersions, options.APIVersions...)
	hooks, written, err := renderChart(c, values, functions, capabilities, common.ReleaseOptions{
		Name: cmp.Or(options.Release, in.Name), Namespace: namespace, Revision: 1, IsInstall: true,
	})
	if err != nil {
		return nil, oneLine(err, c.Name())
	}
	var out bytes.Buffer
	if options.CreateNamespace {
		fmt.Fprintf(&out, "---\n# Source: helm.createNamespace\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: %s\n", namespace)
	}
	fmt.Fprintln(&out, strings.TrimSpace(written))
	for _, hook := range hooks {
		if slices.ContainsFunc(hook.Events, func(e release.HookEvent) bool { return e != release.HookTest }) {
			fmt.Fprintf(&out, "---\n# Source: %s\n%s\n", hook.Path, hook.Manifest)
		}
	}
	return []bundle.File{{Path: manifests, Data: out.Bytes()}}, nil
}

// renderChart renders a chart as helm's package action does for `helm template`, with the chart's CRDs before its
// manifests. That package brings a client of clusters, a database, a runtime for WebAssembly and 300 more packages, none
// of which rendering needs.
func renderChart(c *chart.Chart, values map[string]any, functions template.FuncMap, capabilities *common.Capabilities, as common.ReleaseOptions) (hooks []*release.Hook, written string, err error) {
	if err := chartutil.ValidateReleaseName(as.Name); err != nil {
		return nil, "", fmt.Errorf("release name check failed: release name %q: %w", as.Name, err)
	}
	if err := chartutil.ProcessDependencies(c, values); err != nil {
		return nil, "", fmt.Errorf("chart dependencies processing failed: %w", err)
	}
	// checkChart has held the values to the schema, without fetching what a schema refers to.
	const skipSchemaValidation = true
	all, err := util.ToRenderValuesWithSchemaValidation(c, values, as, capabilities, skipSchemaValidation)
	if err != nil {
		return nil, "", err
	}
	// A site's limit of time ends the process that this runs in.
	files, err := engine.Engine{CustomTemplateFuncs: functions}.RenderWithContext(context.Background(), c, all)
	if err != nil {
		return nil, "", err
	}
	maps.DeleteFunc(files, func(name, _ string) bool { return strings.HasSuffix(name, "NOTES.txt") })
	hooks, sorted, err := releaseutil.SortManifests(files, nil, releaseutil.InstallOrder)
	if err != nil {
		return nil, "", err
	}
	var out strings.Builder
	for _, definition := range c.CRDObjects() {
		fmt.Fprintf(&out, "---\n# Source: %s\n%s\n", definition.Filename, definition.File.Data)
	}
	for _, m := range sorted {
		fmt.Fprintf(&out, "---\n# Source: %s\n%s\n", m.Name, m.Content)
	}
	return hooks, out.String(), nil
}

// loadChart reads the chart of a source again: rendering changes it.
func loadChart(in Input) (*chart.Chart, error) {
	rules, err := helmIgnore(in)
	if err != nil {
		return nil, err
	}
	// Byte order marks and the order of files are as helm has them of a folder.
	var files []*archive.BufferedFile
	for _, f := range in.Files {
		if !isIgnored(rules, f.Path) {
			files = append(files, &archive.BufferedFile{Name: f.Path, Data: bytes.TrimPrefix(f.Data, []byte("\uFEFF"))})
		}
	}
	slices.SortStableFunc(files, func(a, b *archive.BufferedFile) int {
		return slices.Compare(strings.Split(a.Name, "/"), strings.Split(b.Name, "/"))
	})
	c, err := loader.LoadFiles(files)
	if err != nil {
		return nil, oneLine(err, "")
	}
	sortDependencies(c)
	return c, nil
}

// helmIgnore returns the rules of a chart's .helmignore, which a packed chart has behind it.
func helmIgnore(in Input) (*ignore.Rules, error) {
	if in.Source.Chart != "" {
		return ignore.Empty(), nil
	}
	rules := ignore.Empty()
	for _, f := range in.Files {
		if f.Path == ignore.HelmIgnore {
			var err error
			if rules, err = ignore.Parse(bytes.NewReader(f.Data)); err != nil {
				return nil, fmt.Errorf("%s: %w", f.Path, err)
			}
		}
	}
	rules.AddDefaults()
	return rules, nil
}

// isIgnored reports whether rules leave a file out, or a folder that it is in.
func isIgnored(rules *ignore.Rules, name string) bool {
	for i, c := range name {
		if c == '/' && rules.Ignore(name[:i], ignoreEntry{name: name[:i], dir: true}) {
			return true
		}
	}
	return rules.Ignore(name, ignoreEntry{name: name})
}

// ignoreEntry is what helm's rules want to know of a file.
type ignoreEntry struct {
	fs.FileInfo
	name string
	dir  bool
}

func (e ignoreEntry) Name() string { return path.Base(e.name) }
func (e ignoreEntry) IsDir() bool  { return e.dir }

// sortDependencies undoes that helm loads the charts of a chart in a random order, in which
// their CRDs would come out.
func sortDependencies(c *chart.Chart) {
	charts := slices.Clone(c.Dependencies())
	slices.SortStableFunc(charts, func(a, b *chart.Chart) int {
		return cmp.Or(cmp.Compare(a.Name(), b.Name()), cmp.Compare(a.Metadata.Version, b.Metadata.Version))
	})
	c.SetDependencies(charts...)
	for _, sub := range charts {
		sortDependencies(sub)
	}
}

// checkChart says what a chart lacks, in words that say what to do.
func checkChart(in Input, kubernetes *common.KubeVersion) error {
	c, err := loadChart(in)
	if err != nil {
		return err
	}
	if t := c.Metadata.Type; t != "" && t != "application" {
		return fmt.Errorf("chart %s is of type %s, which renders nothing", c.Name(), t)
	}
	values, err := in.helmValues()
	if err != nil {
		return err
	}
	all, err := util.CoalesceValues(c, values)
	if err != nil {
		return oneLine(err, c.Name())
	}
	var missing []string
	for _, d := range c.Metadata.Dependencies {
		if isEnabled(d, all) && !slices.ContainsFunc(c.Dependencies(), func(sub *chart.Chart) bool { return sub.Name() == d.Name }) {
			missing = append(missing, strings.TrimSpace(d.Name+" "+d.Version))
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("the chart needs %s, which is not under charts/: add it to dependencies, use the packed chart, or run helm dependency build",
			strings.Join(missing, " and "))
	}
	if wanted := c.Metadata.KubeVersion; wanted != "" && !chartutil.IsCompatibleRange(wanted, kubernetes.String()) {
		return fmt.Errorf("chart %s requires Kubernetes %s, but gets %s: set helm.kubernetes", c.Name(), wanted, kubernetes)
	}
	return checkValues(c, values)
}

// isEnabled reports whether a chart that another depends on is rendered with values: its first
// condition that is set decides, and else its tags (helm.sh/docs/topics/charts, "Tags and Condition").
func isEnabled(d *chart.Dependency, values common.Values) bool {
	for condition := range strings.SplitSeq(d.Condition, ",") {
		if value, err := values.PathValue(strings.TrimSpace(condition)); err == nil {
			if isOn, isBool := value.(bool); isBool {
				return isOn
			}
		}
	}
	tags, err := values.Table("tags")
	if err != nil {
		return true
	}
	isOff := false
	for _, tag := range d.Tags {
		if isOn, isBool := tags[tag].(bool); isBool && isOn {
			return true
		} else if isBool {
			isOff = true
		}
	}
	return !isOff
}

// helmValues merges values as helm does its files of them: files of the chart's own that the source
// names, then the source's, then the site's.
func (in Input) helmValues() (map[string]any, error) {
	var documents [][]byte
	if in.Source.Helm != nil {
		for _, name := range in.Source.Helm.ValuesFiles {
			i := slices.IndexFunc(in.Files, func(f bundle.File) bool { return f.Path == path.Clean(name) })
			if i < 0 {
				return nil, fmt.Errorf("helm.valuesFiles: the chart has no file %s", name)
			}
			documents = append(documents, in.Files[i].Data)
		}
	}
	return mergeValues(append(documents, in.Values...))
}

func mergeValues(documents [][]byte) (map[string]any, error) {
	values := map[string]any{}
	for _, document := range documents {
		next, err := loader.LoadValues(bytes.NewReader(document))
		if err != nil {
			return nil, fmt.Errorf("values: %w", err)
		}
		values = loader.MergeMaps(values, next)
	}
	return values, nil
}

// oneLine is an error of helm's without line breaks and without the chart's name before the
// files of the chart.
func oneLine(err error, chartName string) error {
	text := strings.Join(strings.Fields(err.Error()), " ")
	for _, dir := range []string{"templates/", "charts/"} {
		text = strings.ReplaceAll(text, chartName+"/"+dir, dir)
	}
	if len(text) > maxErrorText { // a template that calls itself repeats all of its calls
		text = strings.ToValidUTF8(text[:maxErrorText/2], "") + " … " + strings.ToValidUTF8(text[len(text)-maxErrorText/2:], "")
	}
	return errors.New(text)
}

// maxErrorText is how many bytes of an error of helm's are shown.
const maxErrorText = 1000

// fakeClockFuncs are template functions at another time, for a chart that has the time in it.
func fakeClockFuncs() template.FuncMap {
	return template.FuncMap{
		"now": func() time.Time { return time.Date(2001, 2, 3, 4, 5, 6, 7, time.UTC) },
		"ago": func(any) string { return "1s" },
	}
}

// templateAt returns the template that a line of what a chart renders is of.
func templateAt(rendered []byte, line int) string {
	name := "a template"
	for i, text := range strings.Split(string(rendered), "\n") {
		if source, ok := strings.CutPrefix(text, "# Source: "); ok {
			if _, below, found := strings.Cut(source, "/"); found {
				name = below
			}
		}
		if i+1 >= line {
			break
		}
	}
	return name
}

// firstDifference returns the template that the first difference of two renderings is of.
func firstDifference(a, b []byte) string {
	name := ""
	other := strings.Split(string(b), "\n")
	for i, line := range strings.Split(string(a), "\n") {
		if source, ok := strings.CutPrefix(line, "# Source: "); ok {
			_, name, _ = strings.Cut(source, "/")
		}
		if i >= len(other) || line != other[i] {
			break
		}
	}
	return name
}
