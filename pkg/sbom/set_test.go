package sbom_test

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/memory"

	"krtpkg.dev/krtpkg/pkg/assemble"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
)

// hex returns a digest that is easy to read.
func hex(digit string) string { return strings.Repeat(digit, 64) }

func locked(t *testing.T, reference, repository, digit string) images.Locked {
	t.Helper()
	image, err := name.NewDigest(repository + "@sha256:" + hex(digit))
	if err != nil {
		t.Fatal(err)
	}
	return images.Locked{Image: image, Reference: reference}
}

func artifact(digit string, c bundle.Content) *bundle.Artifact {
	return &bundle.Artifact{
		Descriptor: ocispec.Descriptor{Digest: digest.Digest("sha256:" + hex(digit))},
		Content:    c,
	}
}

// edge returns a runtime with a source of every kind.
func edge(t *testing.T) *bundle.Set {
	t.Helper()
	base := artifact("b", bundle.Content{
		Bundle: &bundle.Bundle{
			Metadata: bundle.Metadata{Name: "base", Version: "1.0.0", Licenses: "MIT AND Apache-2.0", Source: "git@example.org:acme/base.git"},
			Spec: bundle.BundleSpec{
				Layer: 1, Category: "networking", Provides: []string{"ns"},
				Sources: []bundle.Source{
					{Dir: "manifests", SHA256: hex("1"), Include: []string{"*.yaml"}},
					{File: "a file.yaml", SHA256: hex("2")},
					{URL: "https://user:secret@example.org/crds.yaml", SHA256: hex("3")},
					{Archive: "https://example.org/all.tgz", SHA256: hex("4"), Root: "deploy"},
					{Archive: "local.zip", SHA256: hex("5")},
				},
			},
		},
	})
	web := artifact("c", bundle.Content{
		Bundle: &bundle.Bundle{
			Metadata: bundle.Metadata{Name: "web", Version: "2.0.0-rc.1+build.5", Licenses: "Proprietary, ask us", Source: "somewhere", Revision: "abc"},
			Spec: bundle.BundleSpec{
				Layer: 6, Requires: []string{"ns", "base", "web", "outside"},
				Sources: []bundle.Source{
					{Chart: "web", Repository: "https://charts.example.org/stable/", Version: "1.2.3+up1", SHA256: hex("6")},
					{Chart: "web", Repository: "oci://registry.example.org/charts", Version: "1.2.4", SHA256: hex("7")},
					{Git: "https://token@example.org/acme/web.git", Commit: strings.Repeat("8", 40), SHA256: hex("8")},
					{Git: "git@example.org:acme/web.git", Commit: strings.Repeat("9", 40), SHA256: hex("9"), Root: "deploy"},
					{OCI: "registry.example.org/files/web:v1@sha256:" + hex("a"), SHA256: hex("0")},
				},
			},
		},
		Images: images.Lock{
			locked(t, "nginx", "nginx", "d"),
			locked(t, "localhost:5000/web@sha256:"+hex("e"), "localhost:5000/web", "e"),
			locked(t, "ghcr.io/acme/nginx:1.25", "ghcr.io/acme/nginx", "d"),
		},
	})
	return &bundle.Set{
		Root: artifact("f", bundle.Content{
			Runtime: &bundle.RuntimeLock{
				Metadata: bundle.Metadata{
					Name: "edge", Version: "1.0.0", Description: "An <edge> & more", Licenses: "Apache-2.0 OR LicenseRef-Acme",
					Source: "https://example.org/acme/edge", Revision: "v1",
				},
				Provided: []string{"outside"},
			},
			Images: images.Lock{
				locked(t, "krtpkg.invalid/bundles/base@sha256:"+hex("b"), "krtpkg.invalid/bundles/base", "b"),
				locked(t, "registry.example.org/bundles/web@sha256:"+hex("c"), "registry.example.org/bundles/web", "c"),
			},
		}),
		Bundles: []*bundle.Artifact{base, web},
	}
}

// resolver gives each reference a digest of its own.
type resolver struct{}

func (resolver) Resolve(_ context.Context, ref name.Reference) (ocispec.Descriptor, error) {
	return content.NewDescriptorFromBytes(ocispec.MediaTypeImageIndex, []byte(ref.Name())), nil
}

// demo returns a runtime that was really built, and opened from where it is.
func demo(t *testing.T) *bundle.Set {
	t.Helper()
	store := memory.New()
	built, err := assemble.Build(t.Context(), "../../bundles/runtimes/demo/1.0.0", assemble.Options{Store: store, Images: resolver{}})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range built.Bundles {
		if err := store.Tag(t.Context(), b.Descriptor, b.Descriptor.Digest.String()); err != nil {
			t.Fatal(err)
		}
	}
	set, err := bundle.OpenSet(t.Context(), store, built.Descriptor)
	if err != nil {
		t.Fatal(err)
	}
	return set
}
