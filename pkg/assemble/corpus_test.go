package assemble_test

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"gopkg.in/yaml.v3"
	"oras.land/oras-go/v2/content/memory"

	"krtpkg.dev/krtpkg/internal/corpus"
	"krtpkg.dev/krtpkg/pkg/assemble"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/render"
	"krtpkg.dev/krtpkg/pkg/resources"
	"krtpkg.dev/krtpkg/pkg/source"
)

// Every product of the corpus goes through: assembled, its images locked, packed, opened,
// rendered for a site. Its manifests come out byte for byte, and differ at the site in image
// references only. With -short every third product does.
func TestCorpusGoesThrough(t *testing.T) {
	t.Parallel()
	allowed := suspects(t)
	products, part := byProduct(t), 1
	if testing.Short() {
		products, part = everyThird(products), 3
	}
	var files, locked, charts, kustomizations int
	for _, product := range products {
		t.Run(product.name, func(t *testing.T) {
			for _, definition := range define(t, product, allowed[product.name]) {
				artifact := goThrough(t, definition)
				files += len(artifact.Files)
				locked += len(artifact.Images)
				for _, s := range artifact.Bundle.Spec.Sources {
					switch s.Template {
					case bundle.TemplateHelm:
						charts++
					case bundle.TemplateKustomize:
						kustomizations++
					}
				}
			}
		})
	}
	t.Logf("%d products, %d files, %d references locked, %d charts and %d kustomizations rendered", len(products), files, locked, charts, kustomizations)
	if len(products) < 78/part || files < 1090/part || locked < 300/part || charts < 13/part || kustomizations < 70/part {
		t.Error("that is less than the corpus has")
	}
}

// goThrough builds, opens and renders a bundle, and looks at each of its files.
func goThrough(t *testing.T, d definition) *bundle.Artifact {
	t.Helper()
	store := memory.New()
	o := options()
	o.Store = store
	built, err := assemble.Build(t.Context(), d.file, o)
	if err != nil {
		t.Fatal(err)
	}
	artifact, err := bundle.Open(t.Context(), store, built.Descriptor)
	if err != nil {
		t.Fatal(err)
	}
	var located []string
	site := func(d name.Digest) string {
		return "site.example/krt@" + d.DigestStr()
	}
	for _, d := range artifact.Images.DistinctImages() {
		located = append(located, site(d))
	}
	all, err := render.RenderAll(t.Context(), &artifact.Content, nil, site)
	if err != nil {
		t.Fatal(err)
	}
	rendered := slices.Concat(all.Files, all.Later)
	after := map[string][]byte{}
	for _, f := range rendered {
		after[f.Path] = f.Data
	}
	for _, f := range artifact.Files {
		if original, isPlain := d.plain[strings.TrimPrefix(f.Path, "config/plain/")]; isPlain && !bytes.Equal(f.Data, original) {
			t.Errorf("%s is not as upstream has it", f.Path)
		}
		if err := corpus.OnlyReferencesDiffer(f.Data, after[f.Path], located...); err != nil {
			t.Errorf("%s: %v", f.Path, err)
		}
	}
	if len(rendered) != len(artifact.Files) || len(rendered) < len(d.plain) {
		t.Errorf("%d files of %d came out of %d", len(rendered), len(artifact.Files), len(d.plain))
	}
	return artifact
}

type product struct {
	name  string
	files []corpus.File
}

func byProduct(t *testing.T) []product {
	t.Helper()
	var products []product
	for _, f := range corpus.ListFiles(t) {
		if len(products) == 0 || products[len(products)-1].name != f.Product() {
			products = append(products, product{name: f.Product()})
		}
		last := &products[len(products)-1]
		last.files = append(last.files, f)
	}
	return products
}

// everyThird returns every third product, from the second on.
func everyThird(all []product) (some []product) {
	for i := 1; i < len(all); i += 3 {
		some = append(some, all[i])
	}
	return some
}

// suspects returns the reviewed list of what looks like an image in the corpus and is locked by no
// rule.
func suspects(t *testing.T) map[string][]images.NotImage {
	t.Helper()
	data, err := os.ReadFile("../../testdata/corpus/suspects.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var allowed map[string][]images.NotImage
	if err := yaml.Unmarshal(data, &allowed); err != nil {
		t.Fatal(err)
	}
	return allowed
}

// chartValues are what charts of the corpus want to be told before they render, or render the same
// twice.
var chartValues = map[string]string{
	"grafana":      "adminPassword: of-the-test",
	"external-dns": "policy: sync",
}

func valuesOf(t *testing.T, text string) (v manifest.Values) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// definition is a bundle's, with the plain files that go into it.
type definition struct {
	file  string
	plain map[string][]byte
}

// define writes a product's files and definitions of them into a folder: of each chart and each
// kustomization that can be rendered, and of its manifests as they are. Of these each resource is in a
// bundle once, and files that are not resources are in none.
func define(t *testing.T, p product, allowed []images.NotImage) (all []definition) {
	t.Helper()
	dir := t.TempDir()
	var plain []map[string][]byte
	var taken []map[string]bool
	for _, f := range p.files {
		place(t, filepath.Join(dir, "all", strings.TrimPrefix(f.Path, p.name+"/")), f.Data)
	}
	var sources []bundle.Source
	for _, f := range p.files {
		rel := strings.TrimPrefix(f.Path, p.name+"/")
		base, folder := path.Base(rel), path.Dir(rel)
		switch {
		case base == "Chart.yaml":
			vendor(t, filepath.Join(dir, "all", folder))
			s := bundle.Source{Dir: path.Join("all", folder), Template: bundle.TemplateHelm, Path: "charts/" + flat(folder), Values: valuesOf(t, chartValues[path.Base(folder)])}
			if renders(t, dir, s) {
				sources = append(sources, s)
			}
		case strings.HasPrefix(base, "kustomization.y"):
			s := bundle.Source{Dir: "all", Root: folder, Template: bundle.TemplateKustomize, Path: "kustomizations/" + flat(folder)}
			if renders(t, dir, s) {
				sources = append(sources, s)
			}
		}
		if f.IsForCluster() {
			if !slices.Contains([]string{".yaml", ".yml", ".json"}, path.Ext(rel)) {
				rel += ".yaml"
			}
			names, ok := resourcesOf(t, rel, f.Data)
			if !ok {
				continue
			}
			n := slices.IndexFunc(taken, func(t map[string]bool) bool {
				return !slices.ContainsFunc(names, func(name string) bool { return t[name] })
			})
			if n < 0 {
				n = len(plain)
				plain, taken = append(plain, map[string][]byte{}), append(taken, map[string]bool{})
			}
			for _, name := range names {
				taken[n][name] = true
			}
			plain[n][rel] = f.Data
			place(t, filepath.Join(dir, fmt.Sprint("plain", n), rel), f.Data)
		}
	}
	add := func(s bundle.Source, plain map[string][]byte) {
		data, err := yaml.Marshal(bundle.Bundle{
			APIVersion: bundle.APIVersion, Kind: bundle.KindBundle,
			Metadata: bundle.Metadata{Name: path.Base(p.name), Version: "1.0.0"},
			Spec:     bundle.BundleSpec{Sources: []bundle.Source{s}, NotImages: allowed},
		})
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, fmt.Sprintf("bundle-%d.yaml", len(all)))
		place(t, file, data)
		all = append(all, definition{file, plain})
	}
	for _, s := range sources {
		add(s, nil)
	}
	for n, files := range plain {
		add(bundle.Source{Dir: fmt.Sprint("plain", n), Path: "plain"}, files)
	}
	return all
}

// resourcesOf names the resources of a file; it reports false where kapp would refuse it.
func resourcesOf(t *testing.T, name string, data []byte) (names []string, ok bool) {
	t.Helper()
	parsed, err := manifest.Parse(name, data)
	if err != nil {
		t.Fatal(err)
	}
	if err := resources.CheckFiles([]resources.File{{File: parsed, Data: data}}); err != nil {
		return nil, false
	}
	for _, doc := range parsed.Documents {
		for _, item := range manifest.ListItems(doc) {
			metadata := manifest.GetValue(item, "metadata")
			names = append(names, manifest.GetText(item, "kind")+" "+manifest.GetText(metadata, "namespace")+"/"+manifest.GetText(metadata, "name"))
		}
	}
	return names, true
}

// vendor puts the charts that a chart depends on below it: the one of that name next to it, or,
// where the corpus has none, an empty one.
func vendor(t *testing.T, chart string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(chart, "Chart.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var about struct {
		Dependencies []struct{ Name, Version string }
	}
	if err := yaml.Unmarshal(data, &about); err != nil {
		t.Fatal(err)
	}
	for _, d := range about.Dependencies {
		to, beside := filepath.Join(chart, "charts", d.Name), filepath.Join(chart, "..", d.Name)
		if _, err := os.Stat(to); err == nil {
			continue
		}
		if _, err := os.Stat(beside); err == nil {
			if err := os.CopyFS(to, os.DirFS(beside)); err != nil {
				t.Fatal(err)
			}
			continue
		}
		version := strings.ReplaceAll(d.Version, "x", "0")
		place(t, filepath.Join(to, "Chart.yaml"), []byte("apiVersion: v2\nname: "+d.Name+"\nversion: "+version+"\n"))
	}
}

func flat(folder string) string { return strings.ReplaceAll(folder, "/", "_") }

func place(t *testing.T, file string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// renders reports whether a source can be rendered and applied: some lack files that the corpus does not have
// (pkg/render's own tests list these, and hold the rest against the real engines).
func renders(t *testing.T, dir string, s bundle.Source) bool {
	t.Helper()
	tree, err := (&source.Fetcher{Dir: dir}).ReadFolder(s.Dir, source.Pick{All: true})
	if err != nil {
		t.Fatal(err)
	}
	in := render.Input{Source: &s, Name: "release"}
	for _, f := range tree.Files {
		in.Files = append(in.Files, bundle.File{Path: f.Path, Data: f.Data})
	}
	values, err := s.Values.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	in.Values = [][]byte{values}
	out, err := render.RenderStable(t.Context(), in)
	if err != nil || len(bytes.TrimSpace(out[0].Data)) == 0 {
		return false
	}
	// One has a resource in two versions of its API, and to kapp that is one.
	_, ok := resourcesOf(t, out[0].Path, out[0].Data)
	return ok
}
