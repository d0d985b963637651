package transfer_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"

	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/layout"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

// A reference with a digest and no tag is no word on what latest is, and two images of one
// repository stay two. Archives call images as containerd looks for them.
func TestNamesOfImages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one, two, three := w.image("1"), w.image("2"), w.image("3")
	var lock images.Lock
	for _, l := range []struct {
		reference string
		image     ocispec.Descriptor
	}{
		{"ghcr.io/a/b@" + one.Digest.String(), one}, {"ghcr.io/a/b@" + two.Digest.String(), two},
		{"ghcr.io/a/c@" + one.Digest.String(), one}, {"ghcr.io/a/c", three},
		{"ghcr.io/a/d:1@" + one.Digest.String(), one}, {"ghcr.io/a/d@" + one.Digest.String(), one},
		{"nginx", one}, {"docker.io/nginx:1.27", two}, {"index.docker.io/library/redis@" + three.Digest.String(), three},
		{"registry.example:8443/x:V1_X", three},
	} {
		ref, err := name.ParseReference(l.reference)
		if err != nil {
			t.Fatal(err)
		}
		lock = append(lock, images.Locked{Image: ref.Context().Digest(l.image.Digest.String()), Reference: l.reference})
	}
	root := w.pack(&bundle.Content{
		Bundle: &bundle.Bundle{
			APIVersion: bundle.APIVersion, Kind: bundle.KindBundle,
			Metadata: bundle.Metadata{Name: "a", Version: "1.0.0"}, Spec: bundle.BundleSpec{Layer: 6, Sources: []bundle.Source{{Dir: "config"}}},
		},
		Images: lock,
	})
	stores := map[string]*layout.Store{}
	options := transfer.Options{Origins: w, Preserve: func(_ context.Context, path string) (oras.GraphTarget, error) {
		if stores[path] == nil {
			stores[path] = newLayout(t)
		}
		return stores[path], nil
	}}
	sources := []transfer.Source{{Store: w.dist, Root: root, Tags: []string{"1.0.0"}}}
	if _, err := transfer.Copy(t.Context(), sources, newLayout(t), options); err != nil {
		t.Fatal(err)
	}
	called := map[string]string{one.Digest.Encoded(): "ONE", two.Digest.Encoded(): "TWO", three.Digest.Encoded(): "THREE"}
	short := func(text string) string {
		for hex, word := range called {
			text = strings.ReplaceAll(text, hex, word)
		}
		return text
	}
	var got []string
	for _, path := range slices.Sorted(maps.Keys(stores)) {
		err := stores[path].Tags(t.Context(), "", func(tags []string) error {
			for _, tag := range tags {
				at, err := stores[path].Resolve(t.Context(), tag)
				if err != nil {
					return err
				}
				got = append(got, short(path+":"+tag+" "+at.Digest.Encoded()))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		"docker.io/library/nginx:1.27 TWO", "docker.io/library/nginx:latest ONE", "docker.io/library/redis:digest-THREE THREE",
		"ghcr.io/a/b:digest-ONE ONE", "ghcr.io/a/b:digest-TWO TWO", "ghcr.io/a/c:digest-ONE ONE", "ghcr.io/a/c:latest THREE",
		"ghcr.io/a/d:1 ONE", "registry.example_8443/x:V1_X THREE",
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("the mirror has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}

	plan, err := transfer.NewPlan(t.Context(), sources, transfer.Options{Origins: w})
	if err != nil {
		t.Fatal(err)
	}
	got = nil
	for _, entry := range plan.ArchiveContents(nil, nil).Named {
		if full := archive.FullName(entry); strings.Contains(full, "/") {
			got = append(got, short(full+" "+entry.Digest.Encoded()))
		}
	}
	want = []string{
		"docker.io/library/nginx:1.27 TWO", "docker.io/library/nginx:latest ONE", "docker.io/library/redis@sha256:THREE THREE",
		"ghcr.io/a/b@sha256:ONE ONE", "ghcr.io/a/b@sha256:TWO TWO", "ghcr.io/a/c:latest THREE", "ghcr.io/a/c@sha256:ONE ONE",
		"ghcr.io/a/d:1 ONE", "ghcr.io/a/d@sha256:ONE ONE", "registry.example:8443/x:V1_X THREE",
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("the archive names\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
