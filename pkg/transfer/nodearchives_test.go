package transfer_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

// Nodes get an archive for each bundle: one platform, and the names under which containerd looks for what pods ask for
// (TestRealPods starts one). The image cache of Talos has the places that its imager gives them.
func TestNodeArchives(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	amd, arm := w.image("amd64"), w.image("arm64")
	amd.Platform, arm.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}, &ocispec.Platform{OS: "linux", Architecture: "arm64"}
	index, plain := w.index(amd, arm), w.image("plain")
	lockOf := func(references ...string) (lock images.Lock) {
		for _, text := range references {
			desc := index
			if strings.Contains(text, "plain") {
				desc = plain
			}
			ref, err := name.ParseReference(text)
			if err != nil {
				t.Fatal(err)
			}
			lock = append(lock, images.Locked{Image: ref.Context().Digest(desc.Digest.String()), Reference: text})
		}
		slices.SortFunc(lock, func(a, b images.Locked) int { return strings.Compare(a.Reference, b.Reference) })
		return lock
	}
	packed := func(name string, lock images.Lock) ocispec.Descriptor {
		return w.pack(&bundle.Content{
			Bundle: &bundle.Bundle{
				APIVersion: bundle.APIVersion, Kind: bundle.KindBundle, Metadata: bundle.Metadata{Name: name, Version: "1.0.0"},
				Spec: bundle.BundleSpec{Layer: 6, Sources: []bundle.Source{{Dir: "config"}}},
			}, Images: lock,
		})
	}
	one := packed("one", lockOf("nginx:1.27", "registry.example:8443/plain"))
	two := packed("two", lockOf("ghcr.io/a/b@"+index.Digest.String(), "nginx:1.27"))
	root := w.runtime(one, two, packed("none", nil))
	plan, err := transfer.NewPlan(t.Context(), []transfer.Source{{Store: w.dist, Root: root, Tags: []string{"1.0.0"}}}, transfer.Options{Origins: w, Platforms: []string{"linux/arm64"}})
	if err != nil {
		t.Fatal(err)
	}
	called := strings.NewReplacer(index.Digest.Encoded(), "INDEX", plain.Digest.Encoded(), "PLAIN", arm.Digest.Encoded(), "ARM")
	archives := plan.NodeArchives()
	var got []string
	for _, a := range archives {
		for _, entry := range a.Contents.Named {
			got = append(got, a.Bundle.Name+": "+called.Replace(archive.FullName(entry)+" "+entry.Digest.Encoded()))
		}
		if slices.ContainsFunc(a.Contents.Manifests, func(d ocispec.Descriptor) bool { return d.Digest == amd.Digest }) {
			t.Errorf("%s has another platform", a.Bundle.Name)
		}
		file := filepath.Join(t.TempDir(), "a.tar")
		if _, err := archive.WriteFile(t.Context(), file, a.Contents, plan, archive.Options{}); err != nil {
			t.Fatal(err)
		}
		if result, err := archive.CheckFile(t.Context(), file, nil); err != nil || !slices.Equal(result.Platforms, []string{"linux/arm64"}) {
			t.Errorf("%s: %+v, %v", a.Bundle.Name, result, err)
		}
	}
	want := []string{
		"one: docker.io/library/nginx:1.27 INDEX", "one: docker.io/library/nginx@sha256:INDEX INDEX",
		"one: registry.example:8443/plain:latest PLAIN", "one: registry.example:8443/plain@sha256:PLAIN PLAIN",
		"two: docker.io/library/nginx:1.27 INDEX", "two: docker.io/library/nginx@sha256:INDEX INDEX", "two: ghcr.io/a/b@sha256:INDEX INDEX",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}

	dir := t.TempDir()
	if _, err := transfer.WriteImageCache(t.Context(), dir, archives, plan, nil); err != nil {
		t.Fatal(err)
	}
	got = nil
	blobs := 0
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		if strings.HasPrefix(rel, "blob/") {
			blobs++
			if filepath.Base(rel) != "sha256-"+digest.FromBytes(data).Encoded() {
				t.Errorf("%s is something else", rel)
			}
			return nil
		}
		got = append(got, called.Replace(filepath.ToSlash(rel)+" "+digest.FromBytes(data).Encoded()))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want = []string{
		"manifests/docker.io/library/nginx/digest/sha256-ARM ARM", "manifests/docker.io/library/nginx/digest/sha256-INDEX INDEX", "manifests/docker.io/library/nginx/reference/1.27 INDEX",
		"manifests/ghcr.io/a/b/digest/sha256-ARM ARM", "manifests/ghcr.io/a/b/digest/sha256-INDEX INDEX",
		"manifests/registry.example_8443_/plain/digest/sha256-PLAIN PLAIN", "manifests/registry.example_8443_/plain/reference/latest PLAIN",
	}
	if slices.Sort(got); !slices.Equal(got, want) || blobs < 3 {
		t.Errorf("%d blobs, and\n%s\nwant\n%s", blobs, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if written, err := transfer.WriteImageCache(t.Context(), dir, archives, plan, nil); err != nil || written > 1<<20 {
		t.Errorf("again: %d bytes, %v", written, err)
	}
	// A blob that was damaged since, with the same size, is written again.
	blob := filepath.Join(dir, "blob", "sha256-"+archives[0].Contents.Blobs[0].Digest.Encoded())
	right, err := os.ReadFile(blob)
	if err != nil {
		t.Fatal(err)
	}
	wrong := slices.Clone(right)
	wrong[0] ^= 1
	if err := os.WriteFile(blob, wrong, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := transfer.WriteImageCache(t.Context(), dir, archives, plan, nil); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(blob); err != nil || !slices.Equal(got, right) {
		t.Errorf("a damaged blob stays: %v", err)
	}

	// A runtime and a bundle of it are the same bundle, two builds of a version are not.
	other := packed("one", lockOf("registry.example:8443/plain"))
	var sources []transfer.Source
	for _, desc := range []ocispec.Descriptor{root, one, other} {
		sources = append(sources, transfer.Source{Store: w.dist, Root: desc})
	}
	if plan, err = transfer.NewPlan(t.Context(), sources, transfer.Options{Origins: w, Platforms: []string{"linux/arm64"}}); err != nil {
		t.Fatal(err)
	}
	if got := plan.NodeArchives(); len(got) != 3 || got[0].Bundle.Name != "one" || got[1].Bundle.Name != "one" || got[0].Digest == got[1].Digest {
		t.Errorf("%d archives", len(got))
	}
}
