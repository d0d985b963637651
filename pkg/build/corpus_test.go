package build_test

import (
	"bytes"
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
	"krtpkg.dev/krtpkg/pkg/build"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/render"
	"krtpkg.dev/krtpkg/pkg/source"
)

// Every product of the corpus goes through: assembled, its images locked, packed, opened,
// rendered for a site. Its manifests come out byte for byte, and differ at the site in image
// references only.
func TestCorpusGoesThrough(t *testing.T) {
	t.Parallel()
	allowed := suspects(t)
	products := byProduct(t)
	var files, locked, charts, kustomizations int
	for _, product := range products {
		t.Run(product.name, func(t *testing.T) {
			definition, plain := define(t, product, allowed[product.name])
			store := memory.New()
			o := options()
			o.Store = store
			built, err := build.Build(t.Context(), definition, o)
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
			for _, d := range artifact.Images.Digests() {
				located = append(located, site(d))
			}
			all, err := render.All(&artifact.Content, nil, site)
			if err != nil {
				t.Fatal(err)
			}
			rendered := slices.Concat(all.Files, all.Later)
			after := map[string][]byte{}
			for _, f := range rendered {
				after[f.Path] = f.Data
			}
			for _, f := range artifact.Files {
				if original, isPlain := plain[strings.TrimPrefix(f.Path, "config/plain/")]; isPlain && !bytes.Equal(f.Data, original) {
					t.Errorf("%s is not as upstream has it", f.Path)
				}
				if err := corpus.OnlyReferencesDiffer(f.Data, after[f.Path], located...); err != nil {
					t.Errorf("%s: %v", f.Path, err)
				}
				files++
			}
			if len(rendered) != len(artifact.Files) || len(rendered) < len(plain) {
				t.Errorf("%d files of %d came out of %d", len(rendered), len(artifact.Files), len(plain))
			}
			locked += len(artifact.Images)
			for _, s := range artifact.Bundle.Spec.Sources {
				switch s.Template {
				case bundle.TemplateHelm:
					charts++
				case bundle.TemplateKustomize:
					kustomizations++
				}
			}
		})
	}
	t.Logf("%d products, %d files, %d references locked, %d charts and %d kustomizations rendered", len(products), files, locked, charts, kustomizations)
	if len(products) < 78 || files < 1100 || locked < 300 || charts < 13 || kustomizations < 70 {
		t.Error("that is less than the corpus has")
	}
}

type product struct {
	name  string
	files []corpus.File
}

func byProduct(t *testing.T) []product {
	t.Helper()
	var products []product
	for _, f := range corpus.Files(t) {
		if len(products) == 0 || products[len(products)-1].name != f.Product() {
			products = append(products, product{name: f.Product()})
		}
		last := &products[len(products)-1]
		last.files = append(last.files, f)
	}
	return products
}

// suspects is the reviewed list of what looks like an image in the corpus and is locked by no
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

// define writes a product's files and a definition of them into a folder: its manifests as they
// are, each chart and each kustomization that can be rendered.
func define(t *testing.T, p product, allowed []images.NotImage) (string, map[string][]byte) {
	t.Helper()
	dir := t.TempDir()
	plain := map[string][]byte{}
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
		if f.IsManifests() {
			if !slices.Contains([]string{".yaml", ".yml", ".json"}, path.Ext(rel)) {
				rel += ".yaml"
			}
			plain[rel] = f.Data
			place(t, filepath.Join(dir, "plain", rel), f.Data)
		}
	}
	if len(plain) > 0 {
		sources = append(sources, bundle.Source{Dir: "plain"})
	}
	data, err := yaml.Marshal(bundle.Bundle{
		APIVersion: bundle.APIVersion, Kind: bundle.KindBundle,
		Metadata: bundle.Metadata{Name: path.Base(p.name), Version: "1.0.0"},
		Spec:     bundle.BundleSpec{Sources: sources, NotImages: allowed},
	})
	if err != nil {
		t.Fatal(err)
	}
	place(t, filepath.Join(dir, "bundle.yaml"), data)
	return dir, plain
}

// vendor puts the charts that a chart depends on below it: the one of that name beside it, or,
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

// renders says whether a source can be rendered: some lack files that the corpus does not have
// (pkg/render's own tests list these, and hold the rest against the real engines).
func renders(t *testing.T, dir string, s bundle.Source) bool {
	t.Helper()
	tree, err := (&source.Fetcher{Dir: dir}).Folder(s.Dir, source.Pick{All: true})
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
	out, err := render.Stable(in)
	return err == nil && len(bytes.TrimSpace(out[0].Data)) > 0
}
