package render_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/render"
)

const (
	zeros = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
	ones  = "sha256:1111111111111111111111111111111111111111111111111111111111111111"
)

// atSite returns where a site has its images.
func atSite(d name.Digest) string { return "site.example/krt@" + d.DigestStr() }

// web returns a bundle of a template and a plain manifest, each with an image of its own.
func web(t *testing.T) *bundle.Content {
	t.Helper()
	locked := func(reference, digest string) images.Locked {
		d, err := name.NewDigest("ghcr.io/example/web@" + digest)
		if err != nil {
			t.Fatal(err)
		}
		return images.Locked{Image: d, Reference: reference}
	}
	return &bundle.Content{
		Bundle: &bundle.Bundle{
			Metadata: bundle.Metadata{Name: "web"},
			Spec: bundle.BundleSpec{Sources: []bundle.Source{
				{Dir: "config", Path: "config", Template: bundle.TemplateYTT}, {Dir: "configs", Path: "configs"},
			}},
		},
		Images: images.Lock{locked("ghcr.io/example/web:1", zeros), locked("agent", ones)},
		Files: []bundle.File{
			{Path: "config/config/schema.yaml", Data: []byte("#@data/values-schema\n---\ntag: \"1\"\nreplicas: 1\nhosts: [\"\"]\n")},
			{Path: "config/config/web.yaml", Data: []byte(`#@ load("@ytt:data", "data")
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: #@ data.values.replicas
  template: {spec: {containers: [{name: web, image: #@ "ghcr.io/example/web:" + data.values.tag
    }]}}
`)},
			{Path: "config/configs/agent.yaml", Data: []byte("kind:   Pod # kept\nspec: {containers: [{image: 'agent'}]}\n")},
		},
	}
}

func values(t *testing.T, data string) *render.Values {
	t.Helper()
	v, err := render.ParseValues("site.yaml", []byte(data))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func text(files []bundle.File) string {
	var all strings.Builder
	for _, f := range files {
		all.WriteString(f.Path + "\n" + string(f.Data))
	}
	return all.String()
}

// Templates take the site's values; images lead to the site in rendered and in plain files,
// and plain files are otherwise what they were.
func TestBundleRendersAndRelocates(t *testing.T) {
	t.Parallel()
	const plain = "config/configs/agent.yaml\nkind:   Pod # kept\nspec: {containers: [{image: 'site.example/krt@" + ones + "'}]}\n"
	deployment := func(replicas string) string {
		return "config/config/web.yaml\napiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\nspec:\n  replicas: " + replicas +
			"\n  template:\n    spec:\n      containers:\n      - name: web\n        image: site.example/krt@" + zeros + "\n"
	}
	for name, c := range map[string]struct{ values, replicas string }{
		"defaults":                     {"", "1"},
		"a value":                      {"web: {replicas: 3}", "3"},
		"others' values":               {"dns: {replicas: 5}", "1"},
		"values in JSON":               {`{"web": {"replicas": 2}}`, "2"},
		"an anchor":                    {"dns: &v {replicas: 4}\nweb: *v\n", "4"},
		"an alias of another bundle's": {"dns: {replicas: &n 6}\nweb: {replicas: *n}\n", "6"},
		"a merge of another bundle's":  {"dns: &v {replicas: 7}\nweb: {<<: *v}\n", "7"},
		"nothing for web":              {"web: {}", "1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := render.RenderBundle(t.Context(), web(t), values(t, c.values), atSite)
			if err != nil {
				t.Fatal(err)
			}
			if want := deployment(c.replicas) + plain; text(got) != want {
				t.Errorf("got:\n%s\nwant:\n%s", text(got), want)
			}
		})
	}
	got, err := render.RenderBundle(t.Context(), web(t), nil, atSite)
	if err != nil || text(got) != deployment("1")+plain {
		t.Errorf("without values: %v\n%s", err, text(got))
	}
}

func TestBundleRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		values string
		change func(*bundle.Content)
		want   string
	}{
		"an image that a value brings in": {"web: {tag: \"2\"}", nil,
			`config/config/web.yaml:11:16: Deployment web: image "ghcr.io/example/web:2" is not in the image lock`},
		"a plain image that is not locked": {"", func(c *bundle.Content) { c.Images = c.Images[:1] },
			`config/configs/agent.yaml:2:29: Pod: image "agent" is not in the image lock`},
		"a value that the schema does not know": {"web: {replica: 3}", nil, `did you mean "replicas"?`},
		"a value of another type":               {"web: {replicas: many}", nil, "found: string"},
		"values for a bundle without templates": {"web: {replicas: 3}", func(c *bundle.Content) { c.Bundle.Spec.Sources[0].Template = "" },
			"accepts no values: none of its sources is a template"},
		"a template that fails":      {"", func(c *bundle.Content) { c.Files[1].Data = []byte("a: #@ nothing\n") }, "undefined: nothing"},
		"a template that is no YAML": {"", func(c *bundle.Content) { c.Files[1].Data = []byte("a: [\n") }, "render config/config: Unmarshaling YAML template 'web.yaml'"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			content := web(t)
			if c.change != nil {
				c.change(content)
			}
			got, err := render.RenderBundle(t.Context(), content, values(t, c.values), atSite)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v\nwant %s\n%s", err, c.want, text(got))
			}
		})
	}
}

// A template sees its own files only: its neighbour's folder starts with its name.
func TestTemplatesTakeTheirOwnFiles(t *testing.T) {
	t.Parallel()
	content := web(t)
	content.Files[2].Data = []byte("kind: Pod\n#@ this is no template\n")
	got, err := render.RenderTemplates(t.Context(), content, nil)
	if err != nil {
		t.Fatal(err)
	}
	if string(got[1].Data) != string(content.Files[2].Data) {
		t.Errorf("got %s", text(got))
	}
}

func TestTemplateOfOneFile(t *testing.T) {
	t.Parallel()
	content := &bundle.Content{
		Bundle: &bundle.Bundle{Spec: bundle.BundleSpec{Sources: []bundle.Source{{File: "a.yaml", Path: "a.yaml", Template: bundle.TemplateYTT}, {File: "b.yaml", Path: "b.yaml"}}}},
		Files:  []bundle.File{{Path: "config/a.yaml", Data: []byte("a: #@ 1 + 1\n")}, {Path: "config/b.yaml", Data: []byte("b: #@ 1 + 1\n")}},
	}
	got, err := render.RenderTemplates(t.Context(), content, nil)
	if err != nil || text(got) != "config/a.yaml\na: 2\nconfig/b.yaml\nb: #@ 1 + 1\n" {
		t.Errorf("%v\n%s", err, text(got))
	}
}

// Rendering leaves the content as it was, so that it can be rendered again.
func TestRenderingChangesNothing(t *testing.T) {
	t.Parallel()
	content := web(t)
	for range 2 {
		if _, err := render.RenderBundle(t.Context(), content, values(t, "web: {replicas: 3}"), atSite); err != nil {
			t.Fatal(err)
		}
		if got, want := text(content.Files), text(web(t).Files); got != want {
			t.Errorf("got:\n%s\nwant:\n%s", got, want)
		}
	}
}

// A bundle's name with nothing but comments below it, as show values prints it, sets nothing.
func TestParseValuesOfNothing(t *testing.T) {
	t.Parallel()
	nothing := values(t, "web:\n  # replicas: 3\n")
	if node := nothing.Node(); node != nil {
		t.Errorf("got values %+v", node)
	}
	kept := nothing.Override(values(t, "web: {replicas: 2}\n")).Node()
	if kept == nil || kept.Content[1].Content[1].Value != "2" {
		t.Errorf("over other values: %+v", kept)
	}
	if err := values(t, "wbe:\n").CheckBundles([]string{"web"}); err == nil {
		t.Error("a mistyped name of a bundle was taken")
	}
}

func TestParseValuesRefuses(t *testing.T) {
	t.Parallel()
	for data, want := range map[string]string{
		"- a\n":                 "site.yaml:1:1: values must be a mapping from bundle names to their values",
		"web: 1\n":              `site.yaml:1:6: the values of bundle "web" are not a mapping`,
		"web: ''\n":             `site.yaml:1:6: the values of bundle "web" are not a mapping`,
		"web: {}\n---\nb: {}\n": "site.yaml:3:1: a values file must be a single document, this is the second",
		"web: {}\nweb: {}\n":    `site.yaml:2:1: duplicate key "web", first at line 1`,
		"web: &w {a: *w}\n":     `site.yaml:1:13: alias *w is inside its own anchor`,
		"web: {\n":              "site.yaml:2: invalid YAML: did not find expected node content",
	} {
		if _, err := render.ParseValues("site.yaml", []byte(data)); err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", data, err, want)
		}
	}
}

// A mistyped bundle is an error and not a value that nothing reads.
func TestValuesAreForBundlesThatAreThere(t *testing.T) {
	t.Parallel()
	bundles := []string{"dns", "web"}
	const want = `site.yaml:2:1: unknown bundle "wbe" (the bundles are dns, web)`
	if err := values(t, "dns: {}\nwbe: {}\n").CheckBundles(bundles); err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
	for _, data := range []string{"", "# nothing\n", "web: {}\n", "web: {}\ndns: {}\n", "web:\n  # replicas: 3\ndns: ~\n"} {
		if err := values(t, data).CheckBundles(slices.Clone(bundles)); err != nil {
			t.Errorf("%q: %v", data, err)
		}
	}
	if err := (*render.Values)(nil).CheckBundles(bundles); err != nil {
		t.Error(err)
	}
}
