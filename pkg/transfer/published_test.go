package transfer_test

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"

	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

// release packs a bundle without images; summary makes builds of one version differ.
func (w *world) release(name, version, summary string) ocispec.Descriptor {
	w.t.Helper()
	return w.pack(&bundle.Content{Bundle: &bundle.Bundle{
		APIVersion: bundle.APIVersion, Kind: bundle.KindBundle,
		Metadata: bundle.Metadata{Name: name, Version: version, Description: summary},
		Spec:     bundle.BundleSpec{Layer: 6, Sources: []bundle.Source{{Dir: "config"}}},
	}})
}

// A tag moves to newer versions of its name, and to all else only if that is asked for: in registries and folders,
// by a copy, a planned copy, and imports of archives as files and streams.
func TestTagsMoveOnlyToNewerVersions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Olareg})
	one, rebuilt := w.release("web", "1.0.0", "built"), w.release("web", "1.0.0", "built again")
	older, newer := w.release("web", "0.9.0", ""), w.release("web", "1.1.0", "")
	candidate, other := w.release("web", "1.0.0-rc.1", ""), w.release("db", "2.0.0", "")
	foreign := put(t, w.dist, ocispec.MediaTypeImageIndex, ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}})
	for _, c := range []struct {
		what    string
		is, new ocispec.Descriptor
		tag     string
		// want is what the error calls what is there and what comes; downgrade reports whether --allow-downgrade suffices.
		want      string
		downgrade bool
	}{
		{"nothing there", ocispec.Descriptor{}, one, "1.0.0", "", false},
		{"the same digest", one, one, "1.0.0", "", false},
		{"a rebuild", one, rebuilt, "1.0.0", "web 1.0.0, " + one.Digest.String() + " to web 1.0.0, " + rebuilt.Digest.String(), false},
		{"a rebuild under latest", one, rebuilt, "latest", "web 1.0.0, " + one.Digest.String(), false},
		{"latest goes on", one, newer, "latest", "", false},
		{"latest goes back", one, older, "latest", " to web 0.9.0, " + older.Digest.String(), true},
		{"a release follows its candidate", candidate, one, "stable", "", false},
		{"a candidate follows its release", one, candidate, "stable", " to web 1.0.0-rc.1", true},
		{"other build metadata", w.release("web", "1.2.0+1", ""), w.release("web", "1.2.0+2", ""), "latest", " to web 1.2.0+2", false},
		{"another name", one, other, "latest", " to db 2.0.0", false},
		{"an image", foreign, one, "latest", "something that is neither a bundle nor a runtime, " + foreign.Digest.String(), false},
	} {
		for where, dst := range map[string]oras.GraphTarget{
			"folder": newLayout(t), "registry": open(t, r, "krt/"+strings.ReplaceAll(c.what, " ", "-")),
		} {
			t.Run(c.what+"/"+where, func(t *testing.T) {
				if c.is.Digest != "" {
					if err := oras.CopyGraph(t.Context(), w.dist, dst, c.is, oras.DefaultCopyGraphOptions); err != nil {
						t.Fatal(err)
					}
					if err := dst.Tag(t.Context(), c.is, c.tag); err != nil {
						t.Fatal(err)
					}
				}
				sources := []transfer.Source{{Store: w.dist, Root: c.new, Tags: []string{c.tag}}}
				plan, err := transfer.NewPlan(t.Context(), sources, transfer.Options{})
				if err != nil {
					t.Fatal(err)
				}
				file := filepath.Join(t.TempDir(), "a.tar")
				if _, err := archive.WriteFile(t.Context(), file, plan.ArchiveContents(nil, nil), plan, archive.Options{}); err != nil {
					t.Fatal(err)
				}
				ways := map[string]func(transfer.Options) error{
					"plan": func(o transfer.Options) error {
						_, err := transfer.PlanCopy(t.Context(), sources, dst, o)
						return err
					},
					"import": func(o transfer.Options) error {
						from, err := archive.Open(t.Context(), file)
						if err != nil {
							t.Fatal(err)
						}
						defer from.Close()
						_, err = transfer.Import(t.Context(), from, dst, o)
						return err
					},
					"stream": func(o transfer.Options) error {
						var stream bytes.Buffer
						if err := archive.Write(t.Context(), &stream, plan.ArchiveContents(nil, nil), plan, archive.Options{}); err != nil {
							t.Fatal(err)
						}
						from, err := archive.OpenStream(t.Context(), &stream)
						if err != nil {
							t.Fatal(err)
						}
						defer from.Close()
						_, err = transfer.ImportStream(t.Context(), from, dst, o)
						return err
					},
					"copy": func(o transfer.Options) error {
						_, err := transfer.Copy(t.Context(), sources, dst, o)
						return err
					},
				}
				for name, run := range ways {
					if c.want == "" {
						continue
					}
					err := run(transfer.Options{})
					var moved *transfer.MovedTagError
					if !errors.As(err, &moved) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.new.Digest.String()) {
						t.Errorf("%s: got %v, want %q", name, err, c.want)
					}
					if at, err := dst.Resolve(t.Context(), c.tag); err != nil || at.Digest != c.is.Digest {
						t.Fatalf("%s moved the tag to %v, %v", name, at.Digest, err)
					}
				}
				err = ways["copy"](transfer.Options{AllowDowngrade: true})
				if (err == nil) != (c.want == "" || c.downgrade) {
					t.Errorf("with AllowDowngrade: got %v", err)
				}
				if err := ways["copy"](transfer.Options{MoveTags: true}); err != nil {
					t.Error(err)
				}
				if at, err := dst.Resolve(t.Context(), c.tag); err != nil || at.Digest != c.new.Digest {
					t.Errorf("tag is at %v, %v", at.Digest, err)
				}
			})
		}
	}
}

// An inventory carries the highest version of each name, so that what is older than that is not exported for the site.
// Inventories of earlier versions have no versions, and those of later ones may have more fields.
func TestInventoryKnowsVersions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one, newer := w.release("web", "1.9.0", ""), w.release("web", "1.10.0", "")
	rebuilt, db := w.release("web", "1.10.0", "built again"), w.release("db", "0.1.0", "")
	plan := func(roots ...ocispec.Descriptor) *transfer.Plan {
		var sources []transfer.Source
		for _, root := range roots {
			sources = append(sources, transfer.Source{Store: w.dist, Root: root})
		}
		p, err := transfer.NewPlan(t.Context(), sources, transfer.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	has := plan(newer, one, db).Inventory(nil).Versions
	want := []bundle.Release{{Name: "db", Version: "0.1.0", Digest: db.Digest}, {Name: "web", Version: "1.10.0", Digest: newer.Digest}}
	if len(has) != 2 || has[0] != want[0] || has[1] != want[1] {
		t.Errorf("got %v, want %v", has, want)
	}
	for _, c := range []struct {
		root ocispec.Descriptor
		want string
	}{
		{newer, ""},
		{w.release("web", "2.0.0", ""), ""},
		{w.release("new", "0.0.1", ""), ""},
		{one, "web 1.9.0, " + one.Digest.String() + " is older than web 1.10.0, " + newer.Digest.String() + ", which have.json has"},
		{rebuilt, "web 1.10.0, " + rebuilt.Digest.String() + " is another build of web 1.10.0, " + newer.Digest.String() + ", which have.json has"},
	} {
		err := plan(c.root).CheckDowngrade("have.json", has)
		if got := errorOf(err); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
	// Builds of one version have no order: a site that has several of the highest has them all.
	first, second, third := w.release("web", "3.0.0+1", ""), w.release("web", "3.0.0+2", ""), w.release("web", "3.0.0+3", "")
	has = plan(first, newer, second).Inventory(nil).Versions
	if len(has) != 2 || has[0].Digest != first.Digest || has[1].Digest != second.Digest {
		t.Errorf("got %v", has)
	}
	for _, root := range []ocispec.Descriptor{first, second} {
		if err := plan(root).CheckDowngrade("have.json", has); err != nil {
			t.Error(err)
		}
	}
	want3 := "web 3.0.0+3, " + third.Digest.String() + " is another build of web 3.0.0+1, " + first.Digest.String() + ", which have.json has: build metadata makes no version newer"
	if got := errorOf(plan(third).CheckDowngrade("have.json", has)); got != want3 {
		t.Errorf("got %q, want %q", got, want3)
	}
	for _, text := range []string{
		`{"apiVersion": "krtpkg.dev/v1alpha1", "kind": "Inventory", "roots": [], "blobs": ""}`,
		`{"apiVersion": "krtpkg.dev/v1alpha1", "kind": "Inventory", "roots": [], "blobs": "", "later": 1}`,
	} {
		if _, err := transfer.ReadInventory(strings.NewReader(text)); err != nil {
			t.Error(err)
		}
	}
}

func errorOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// A tag that already names a release says nothing about the other tags of the same copy.
func TestEachTagIsCheckedForItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	older, newer := w.release("web", "1.0.0", ""), w.release("web", "1.1.0", "")
	for _, tags := range [][]string{{"1.0.0", "stable"}, {"stable", "1.0.0"}} {
		dst := newLayout(t)
		w.publish(dst, older, "1.0.0")
		w.publish(dst, newer, "stable")
		sources := []transfer.Source{{Store: w.dist, Root: older, Tags: tags}}
		_, err := transfer.Copy(t.Context(), sources, dst, transfer.Options{})
		var moved *transfer.MovedTagError
		if !errors.As(err, &moved) || moved.Tag != "stable" || !moved.IsDowngrade() {
			t.Errorf("tags %q: error %v, want one for stable", tags, err)
		}
		if at, err := dst.Resolve(t.Context(), "stable"); err != nil || at.Digest != newer.Digest {
			t.Errorf("tags %q: stable names %s, %v", tags, at.Digest, err)
		}
	}
}
