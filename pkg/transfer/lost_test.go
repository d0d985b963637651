package transfer_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/registry"

	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

// site is a registry that loses content, and what was brought to it.
type site struct {
	w        *world
	root     ocispec.Descriptor
	registry *registrytest.Registry
	// lost are what a row deletes, by what it is.
	lost map[string]ocispec.Descriptor
}

func newSite(t *testing.T, kind registrytest.Kind) *site {
	w := newWorld(t)
	image := w.image("base", "app")
	index := w.index(image, w.image("base", "app of another platform"))
	first := w.bundle("first", index)
	root := w.runtime(first, w.bundle("second", w.image("base", "more")))
	s := &site{w: w, root: root, registry: registrytest.StartRegistry(t, registrytest.Options{Kind: kind, Record: true})}
	m := s.manifest(w.origin, image)
	s.lost = map[string]ocispec.Descriptor{
		"layer": m.Layers[1], "config": m.Config, "image": image, "index": index, "bundle": first,
		"layer of a bundle": s.manifest(w.dist, first).Layers[0], "root": root,
	}
	return s
}

func (s *site) manifest(store content.Fetcher, desc ocispec.Descriptor) (m ocispec.Manifest) {
	data, err := content.FetchAll(s.w.t.Context(), store, desc)
	if err == nil {
		err = json.Unmarshal(data, &m)
	}
	if err != nil {
		s.w.t.Fatal(err)
	}
	return m
}

// lose deletes an item from a repository, as a registry that loses it.
func (s *site) lose(t *testing.T, repository string, desc ocispec.Descriptor) {
	t.Helper()
	repo := open(t, s.registry, repository).(registry.Repository)
	deleter := repo.Blobs()
	if slices.Contains([]string{ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest}, desc.MediaType) {
		deleter = repo.Manifests()
	}
	if err := deleter.Delete(t.Context(), desc); err != nil {
		t.Fatal(err)
	}
	if there, err := deleter.Exists(t.Context(), desc); err != nil || there {
		t.Fatalf("not lost: %v", err)
	}
}

// What a site lost comes back with the archive, or with a copy that asks for everything; a copy that
// does not ask may miss it, but no copy leaves a tag behind that it could not set.
func TestLostContent(t *testing.T) {
	t.Parallel()
	for _, kind := range []registrytest.Kind{registrytest.Olareg, registrytest.Distribution3} {
		t.Run(registrytest.Options{Kind: kind}.String(), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, kind)
			complete := newLayout(t)
			s.w.mustCopy(s.root, complete)
			want := contentOf(t, complete, s.root)
			plan := planOf(t, complete, s.root, transfer.Options{})
			archive := export(t, plan, plan.ArchiveContents(nil, nil))
			sources := []transfer.Source{{Store: complete, Root: s.root, Tags: []string{"1.0.0"}}}
			repairs := map[string]func(dst oras.GraphTarget) (*transfer.Report, error){
				"import": func(dst oras.GraphTarget) (*transfer.Report, error) {
					imported, err := transfer.Import(t.Context(), openArchive(t, archive), dst, transfer.Options{})
					if err != nil {
						return nil, err
					}
					return imported.Report, nil
				},
				"copy": func(dst oras.GraphTarget) (*transfer.Report, error) {
					return transfer.Copy(t.Context(), sources, dst, transfer.Options{CheckTarget: true})
				},
			}
			for verb, repair := range repairs {
				repository := "site/" + verb
				dst := open(t, s.registry, repository)
				if _, err := repair(dst); err != nil {
					t.Fatal(err)
				}
				for what, desc := range s.lost {
					s.lose(t, repository, desc)
					d := compare(t, sources, dst)
					report, err := repair(dst)
					if err != nil {
						t.Errorf("%s, %s lost: %v", verb, what, err)
						continue
					}
					if report.Copied == 0 || int(report.Copied) != d.Items-d.ThereItems {
						t.Errorf("%s, %s lost: %d items copied, a comparison said %d", verb, what, report.Copied, d.Items-d.ThereItems)
					}
					equal(t, contentOf(t, dst, s.root), want)
					if at, err := dst.Resolve(t.Context(), "1.0.0"); err != nil || at.Digest != s.root.Digest {
						t.Errorf("%s, %s lost: tag is %s, %v", verb, what, at.Digest, err)
					}
				}
			}
			// A copy that is not asked to look sees that the root is lost, and then looks at everything.
			dst := open(t, s.registry, "site/copy")
			for _, what := range []string{"layer", "bundle", "root"} {
				s.lose(t, "site/copy", s.lost[what])
			}
			if _, err := copyFrom(t, complete, s.root, dst); err != nil {
				t.Errorf("root lost: %v", err)
			}
			equal(t, contentOf(t, dst, s.root), want)
		})
	}
}

// compare returns the difference that a dry run finds.
func compare(t *testing.T, sources []transfer.Source, dst oras.GraphTarget) *transfer.Difference {
	t.Helper()
	o := transfer.Options{CheckTarget: true}
	plan, err := transfer.PlanCopy(t.Context(), sources, dst, o)
	if err != nil {
		t.Fatal(err)
	}
	d, err := plan.Compare(t.Context(), dst)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// A copy with nothing to do asks for as little as before, and a checked one for each item once.
func TestCheckedRequests(t *testing.T) {
	t.Parallel()
	s := newSite(t, registrytest.Olareg)
	complete := newLayout(t)
	s.w.mustCopy(s.root, complete)
	dst := open(t, s.registry, "edge")
	if _, err := copyFrom(t, complete, s.root, dst); err != nil {
		t.Fatal(err)
	}
	for check, most := range map[bool]int{false: 8, true: 32} {
		before := len(s.registry.Requests())
		sources := []transfer.Source{{Store: complete, Root: s.root, Tags: []string{"1.0.0"}}}
		report, err := transfer.Copy(t.Context(), sources, dst, transfer.Options{CheckTarget: check})
		if err != nil || report.Copied > 0 {
			t.Errorf("%+v, error %v", report, err)
		}
		requests := s.registry.Requests()[before:]
		asked := map[string]int{}
		for _, r := range requests {
			if asked[r.Path]++; asked[r.Path] > 1 && r.Method == http.MethodHead && strings.Contains(r.Path, "sha256:") {
				t.Errorf("check %v: asked twice for %s", check, r.Path)
			}
		}
		if len(requests) > most {
			t.Errorf("check %v: %d requests, want at most %d: %v", check, len(requests), most, asked)
		}
	}
}

// An archive that builds on a version of which the site lost something names what is lost, and the
// version that brings it back.
func TestLostBase(t *testing.T) {
	t.Parallel()
	s := newSite(t, registrytest.Olareg)
	complete := newLayout(t)
	s.w.mustCopy(s.root, complete)
	base := planOf(t, complete, s.root, transfer.Options{})
	next := planOf(t, complete, s.root, transfer.Options{})
	archive := export(t, next, next.ArchiveContents(base.ContainsFunc(), []string{"edge:1.0.0@" + s.root.Digest.String()}))
	dst := open(t, s.registry, "edge")
	if _, err := copyFrom(t, complete, s.root, dst); err != nil {
		t.Fatal(err)
	}
	s.lose(t, "edge", s.lost["layer"])
	_, err := transfer.Import(t.Context(), openArchive(t, archive), dst, transfer.Options{})
	var lost *transfer.BaseError
	want := "the archive builds on edge:1.0.0@" + s.root.Digest.String() + ", of which the target lacks " + s.lost["layer"].Digest.String() + " (layer of origin.example/app@" + s.lost["index"].Digest.String() + ")"
	if !errors.As(err, &lost) || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
	_, err = transfer.Import(t.Context(), openArchive(t, archive), open(t, s.registry, "empty"), transfer.Options{})
	if want := ", which the target does not have: import that first"; !errors.As(err, &lost) || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
}

// An inventory leaves out what the site lost, so that the next archive brings it.
func TestLostInventory(t *testing.T) {
	t.Parallel()
	s := newSite(t, registrytest.Olareg)
	large := s.w.image("base", strings.Repeat("large", 1000))
	root := s.w.runtime(s.w.bundle("first", large))
	complete := newLayout(t)
	s.w.mustCopy(root, complete)
	dst := open(t, s.registry, "edge")
	if _, err := copyFrom(t, complete, root, dst); err != nil {
		t.Fatal(err)
	}
	layer := s.manifest(s.w.origin, large).Layers[1]
	for _, want := range []bool{true, false} {
		plan := planOf(t, dst, root, transfer.Options{})
		lost, err := plan.DropLost(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		i := plan.Inventory(nil)
		if there := i.ContainsFunc()(layer.Digest); there != want || (len(lost) == 0) != want {
			t.Errorf("in the inventory: %v, want %v; lost %v", there, want, lost)
		}
		if want {
			s.lose(t, "edge", layer)
		}
	}
}

// One root that is lost puts in doubt what the closures of the others name, too.
func TestLostRootOfSeveral(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	shared := w.image("base", "app")
	roots := []ocispec.Descriptor{w.bundle("first", shared), w.bundle("second", shared)}
	s := &site{w: w, registry: registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Olareg})}
	complete := newLayout(t)
	var sources []transfer.Source
	for i, root := range roots {
		w.mustCopy(root, complete)
		sources = append(sources, transfer.Source{Store: complete, Root: root, Tags: []string{[]string{"first-1.0.0", "second-1.0.0"}[i]}})
	}
	dst := open(t, s.registry, "site/several")
	if _, err := transfer.Copy(t.Context(), sources, dst, transfer.Options{}); err != nil {
		t.Fatal(err)
	}
	s.lose(t, "site/several", roots[0])
	s.lose(t, "site/several", shared)
	plan, err := transfer.NewPlan(t.Context(), sources, transfer.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plan.Copy(t.Context(), dst); err != nil {
		t.Fatal(err)
	}
	for _, root := range roots {
		equal(t, contentOf(t, dst, root), contentOf(t, complete, root))
	}
}
