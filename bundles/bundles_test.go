package bundles_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/memory"

	"krtpkg.dev/krtpkg/bundles"
	"krtpkg.dev/krtpkg/internal/bundletest"
	"krtpkg.dev/krtpkg/internal/hack"
	"krtpkg.dev/krtpkg/pkg/assemble"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/layers"
	"krtpkg.dev/krtpkg/pkg/render"
	"krtpkg.dev/krtpkg/pkg/source"
)

// own are the bundles that are no product's: what they hold is written here.
var own = []string{"gate", "hello", "hello", "network-baseline", "priority-classes", "resource-quotas", "runtime-classes", "workload-policies"}

// Every ready bundle is read strictly, lies where the model has its product, and has a name of
// its own.
func TestReadyBundlesAreOfTheModel(t *testing.T) {
	t.Parallel()
	model, err := layers.LoadModel()
	if err != nil {
		t.Fatal(err)
	}
	var known []string
	for _, layer := range model.Layers {
		for _, c := range layer.Categories {
			for _, p := range c.Products {
				known = append(known, p.Provides...)
			}
		}
	}
	ready := all(t)
	var others []string
	names := map[string]string{}
	for _, r := range ready {
		parts := strings.Split(r.Path, "/")
		folder := fmt.Sprintf("%d-%s", r.Layer, strings.ReplaceAll(layers.LayerName(r.Layer), " ", "-"))
		if parts[0] != folder || parts[1] != r.Category {
			t.Errorf("%s is of layer %d and category %s: want it in %s/%s", r.Path, r.Layer, r.Category, folder, r.Category)
		}
		category, layer, found := model.FindCategory(r.Category)
		if !found || layer != r.Layer {
			t.Errorf("%s: layer %d has no category %s", r.Path, r.Layer, r.Category)
		}
		i := slices.IndexFunc(category.Products, func(p layers.Product) bool { return p.ID == r.Product })
		switch {
		case i < 0:
			others = append(others, r.Product)
		case category.Products[i].Delivery == "retired":
			t.Errorf("%s: the model says that %s is retired", r.Path, r.Product)
		}
		if at, taken := names[r.Name]; taken && path.Dir(at) != path.Dir(r.Path) {
			t.Errorf("%s and %s are both called %s", at, r.Path, r.Name)
		}
		names[r.Name] = r.Path
		for _, p := range definition(t, r).Bundle.Spec.Provides {
			if _, ruled := model.FindCapability(p); i >= 0 && !ruled && !slices.Contains(known, p) {
				t.Errorf("%s provides %s, which no product of the model does", r.Path, p)
			}
		}
	}
	if slices.Sort(others); !slices.Equal(others, own) {
		t.Errorf("bundles of no product: %v, want %v", others, own)
	}
	if len(names) < 45 {
		t.Errorf("%d bundles, want 45 or more", len(names))
	}
}

// Each category has a ready bundle, at least one.
func TestEveryCategoryHasAReadyBundle(t *testing.T) {
	t.Parallel()
	model, err := layers.LoadModel()
	if err != nil {
		t.Fatal(err)
	}
	ready := all(t)
	var empty []string
	for _, layer := range model.Layers {
		for _, c := range layer.Categories {
			deliverable := slices.ContainsFunc(c.Products, func(p layers.Product) bool { return p.Delivery == "manifests" || p.Delivery == "chart" })
			filled := slices.ContainsFunc(ready, func(r bundles.Ready) bool {
				return slices.ContainsFunc(c.Products, func(p layers.Product) bool { return p.ID == r.Product }) || r.Category == c.ID
			})
			switch {
			case deliverable && !filled:
				t.Errorf("category %s has no ready bundle", c.ID)
			case !filled:
				empty = append(empty, c.ID)
			}
		}
	}
	// What a site has of its own.
	if want := []string{"business-applications"}; !slices.Equal(empty, want) {
		t.Errorf("categories without a bundle: %v, want %v", empty, want)
	}
}

// Every bundle whose data is in the corpus builds without a network and renders. docs/LAYERS.md has a
// table of what is shown of each.
func TestReadyBundlesBuild(t *testing.T) {
	t.Parallel()
	hack.SkipIfShort(t) // kustomize makes each of them, too
	site := bundletest.CopyDefinitions(t)
	all := all(t)
	var shown table
	t.Cleanup(func() {
		if !t.Failed() {
			shown.check(t, len(all))
		}
	})
	for _, r := range all {
		t.Run(r.Name+"@"+r.Version, func(t *testing.T) {
			t.Parallel()
			built, err := assemble.Build(t.Context(), filepath.Join(site, r.Path), options(t))
			if byHand, absent := bundletest.Absent[r.Name]; absent {
				if err == nil || !strings.Contains(err.Error(), "/nowhere/") {
					t.Errorf("want it to ask for its repository: %v", err)
				}
				shown.write(r, byHand...)
				_, reason := bundletest.AppliedIn(t, r)
				shown.leaveOut(r, "cluster", reason)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var rendered []bundle.File
			if built.Bundle.HasManifests() {
				rendered = renders(t, built)
			}
			shown.add(t, r, built, kustomizes(t, built, rendered))
			for _, image := range built.Images {
				if ref, err := name.ParseReference(image.Reference); err != nil || ref.Identifier() == "latest" {
					t.Errorf("it runs %s, which is no version: %v", image.Reference, err)
				}
			}
		})
	}
}

// Files of ready bundles have digests that somebody published, for both architectures, and no other file is taken.
func TestReadyFiles(t *testing.T) {
	t.Parallel()
	mirror := t.TempDir()
	if err := os.WriteFile(filepath.Join(mirror, "file"), []byte("something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, r := range all(t) {
		platforms := map[string][]string{}
		for _, f := range definition(t, r).Bundle.Spec.Files {
			count++
			platforms[f.Name] = append(platforms[f.Name], f.Platform)
			if f.SHA256 == "" || !strings.HasPrefix(f.URL, "https://") {
				t.Errorf("%s: file %s is not pinned: %+v", r.Path, f.Name, f)
			}
			dir := t.TempDir()
			text := fmt.Sprintf("apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: one, version: 1.0.0}\nspec: {layer: 1, files: [{url: %q, sha256: %s}]}\n", f.URL, f.SHA256)
			if err := os.WriteFile(filepath.Join(dir, "bundle.yaml"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			o := options(t)
			o.Sources.Mirrors = []source.Mirror{{Prefix: f.URL, Replacement: filepath.Join(mirror, "file")}}
			var wrong *source.DigestError
			if _, err := assemble.Build(t.Context(), dir, o); !errors.As(err, &wrong) || wrong.Want != f.SHA256 {
				t.Errorf("%s: file %s of other content: %v", r.Path, f.Name, err)
			}
		}
		for name, has := range platforms {
			if slices.Sort(has); !slices.Equal(has, []string{"linux/amd64", "linux/arm64"}) {
				t.Errorf("%s: file %s is for %v", r.Path, name, has)
			}
		}
	}
	if count < 18 {
		t.Errorf("%d files, want 18 or more", count)
	}
}

// The ready runtimes build in an order that holds.
func TestReadyRuntimesBuild(t *testing.T) {
	t.Parallel()
	site := bundletest.CopyDefinitions(t)
	for runtime, least := range map[string]int{"edge": 8, "enterprise": 30, "air-gapped": 16} {
		if testing.Short() && runtime != "edge" {
			continue // they take a minute
		}
		t.Run(runtime, func(t *testing.T) {
			t.Parallel()
			definition := filepath.Join(site, "runtimes", runtime)
			built, err := assemble.Build(t.Context(), definition, options(t))
			if err != nil {
				t.Fatal(err)
			}
			if len(built.Bundles) < least {
				t.Errorf("%d bundles, want %d or more", len(built.Bundles), least)
			}
			seen := map[string]bool{}
			filled := map[int]bool{}
			last := 0
			for _, b := range built.Bundles {
				spec := b.Bundle.Spec
				if spec.Layer < last {
					t.Errorf("%s of layer %d comes after layer %d", b.Metadata().Name, spec.Layer, last)
				}
				last = spec.Layer
				for _, r := range spec.Requires {
					if !seen[r] {
						t.Errorf("%s comes before the %s that it requires", b.Metadata().Name, r)
					}
				}
				seen[b.Metadata().Name], filled[spec.Layer] = true, true
				for _, p := range spec.Provides {
					seen[p] = true
				}
			}
			if runtime == "enterprise" && len(filled) != layers.Top+1 {
				t.Errorf("layers filled: %v, want all", filled)
			}
		})
	}
}

func all(t *testing.T) []bundles.Ready {
	t.Helper()
	ready, err := bundles.All()
	if err != nil {
		t.Fatal(err)
	}
	return ready
}

func definition(t *testing.T, r bundles.Ready) *bundle.Definition {
	t.Helper()
	data, err := bundles.Files.ReadFile(r.Path + "/bundle.yaml")
	if err != nil {
		t.Fatal(err)
	}
	d, err := bundle.Parse(r.Path, data)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// place is the repository of images at the site.
const place = "site.example/krt"

// renders returns what a bundle renders to at a site.
func renders(t *testing.T, built *assemble.Built) []bundle.File {
	t.Helper()
	values, err := render.ParseValues("site.yaml", []byte(bundletest.SiteValues(built.Metadata().Name)))
	if err != nil {
		t.Fatal(err)
	}
	files, err := render.RenderBundle(t.Context(), built.Content, values, func(d name.Digest) string { return place + "@" + d.DigestStr() })
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Error("nothing is rendered")
	}
	return files
}

func options(t *testing.T) assemble.Options {
	return assemble.Options{
		Store: memory.New(), Images: standIns{},
		Open: func(_ context.Context, ref, _ string) (content.Fetcher, ocispec.Descriptor, error) {
			return nil, ocispec.Descriptor{}, fmt.Errorf("%s is not there", ref)
		},
		Sources: source.Fetcher{Mirrors: bundletest.CorpusMirrors(t)},
	}
}

// standIns gives each image its digest, or one of its own.
type standIns struct{}

func (standIns) Resolve(_ context.Context, ref name.Reference) (ocispec.Descriptor, error) {
	desc := content.NewDescriptorFromBytes(ocispec.MediaTypeImageIndex, []byte(ref.Name()))
	if pinned, is := ref.(name.Digest); is {
		desc.Digest = digest.Digest(pinned.DigestStr())
	}
	return desc, nil
}
