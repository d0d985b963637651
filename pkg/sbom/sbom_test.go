package sbom_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/sbom"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing them")

// formats are the documents, with what reports whether one is valid.
var formats = []struct {
	file  string
	make  func(*bundle.Set) ([]byte, error)
	valid func(*testing.T, []byte)
}{
	{"edge.cdx.json", sbom.CycloneDX, validCycloneDX},
	{"edge.spdx.json", sbom.SPDX, validSPDX},
}

func TestDocuments(t *testing.T) {
	for _, f := range formats {
		got, err := f.make(edge(t))
		if err != nil {
			t.Fatal(err)
		}
		f.valid(t, got)
		file := "testdata/" + f.file
		if *update {
			if err := os.WriteFile(file, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s has changed. If it was meant to: go test ./pkg/sbom -update\n%s", f.file, got)
		}
		for _, secret := range []string{"secret", "token"} {
			if bytes.Contains(got, []byte(secret)) {
				t.Errorf("%s holds %q of a source's URL", f.file, secret)
			}
		}
	}
}

// A runtime that was built, and each of its bundles alone.
func TestBuiltArtifacts(t *testing.T) {
	set := demo(t)
	sets := []*bundle.Set{set}
	for _, b := range set.Bundles {
		sets = append(sets, &bundle.Set{Root: b, Bundles: []*bundle.Artifact{b}})
	}
	for _, set := range sets {
		for _, f := range formats {
			got, err := f.make(set)
			if err != nil {
				t.Fatal(err)
			}
			f.valid(t, got)
			wanted := []string{set.Root.Descriptor.Digest.Encoded()}
			for _, b := range set.Bundles {
				wanted = append(wanted, b.Descriptor.Digest.Encoded())
				for _, image := range b.Images {
					wanted = append(wanted, strings.TrimPrefix(image.Image.DigestStr(), "sha256:"), sbom.ImageURL(image))
				}
				for _, s := range b.Bundle.Spec.Sources {
					wanted = append(wanted, s.SHA256)
				}
			}
			for _, text := range wanted {
				if !bytes.Contains(got, []byte(text)) {
					t.Errorf("%s of %s does not have %s", f.file, set.Name(), text)
				}
			}
		}
	}
}

func TestSameSetSameBytes(t *testing.T) {
	for _, f := range formats {
		want, err := f.make(edge(t))
		if err != nil {
			t.Fatal(err)
		}
		other := edge(t)
		slices.Reverse(other.Bundles)
		for _, b := range other.Bundles {
			slices.Reverse(b.Images)
			slices.Reverse(b.Bundle.Spec.Requires)
		}
		for range 5 {
			got, err := f.make(other)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Fatalf("%s changes with the order of the set", f.file)
			}
		}
	}
}

func TestCreated(t *testing.T) {
	for _, f := range formats {
		set := edge(t)
		set.Root.Manifest.Annotations = map[string]string{ocispec.AnnotationCreated: "2024-02-29T01:30:00.5+02:00"}
		got, err := f.make(set)
		if err != nil {
			t.Fatal(err)
		}
		f.valid(t, got)
		if !bytes.Contains(got, []byte(`"2024-02-28T23:30:00Z"`)) {
			t.Errorf("%s does not have the artifact's time", f.file)
		}
		set.Root.Manifest.Annotations[ocispec.AnnotationCreated] = "yesterday"
		if _, err := f.make(set); err == nil {
			t.Errorf("%s takes any text for a time", f.file)
		}
	}
}

// What an artifact says of itself may be anything: documents stay valid.
func TestOddMetadata(t *testing.T) {
	for _, odd := range []string{"", "\x00\"\n<&>", "(((", "LicenseRef-x", "MIT \n OR\tISC", "ß ∞", "https://", "a@b:c", "https://[::1"} {
		for _, f := range formats {
			set := edge(t)
			m := &set.Root.Runtime.Metadata
			m.Version, m.Description, m.Licenses, m.Source, m.Revision = odd, odd, odd, odd, odd
			b := set.Bundles[0].Bundle
			b.Spec.Category, b.Metadata.Version, b.Metadata.Licenses = odd, odd, odd
			b.Spec.Requires = []string{odd}
			b.Spec.Sources[0].Dir, b.Spec.Sources[0].Root = "x"+odd, odd
			got, err := f.make(set)
			if err != nil {
				t.Fatalf("%q: %v", odd, err)
			}
			f.valid(t, got)
			if t.Failed() {
				t.Fatalf("%s with %q", f.file, odd)
			}
		}
	}
}

func TestBadArtifacts(t *testing.T) {
	source := func(s bundle.Source) func(*bundle.Set) {
		return func(set *bundle.Set) { set.Bundles[1].Bundle.Spec.Sources[0] = s }
	}
	for what, spoil := range map[string]func(*bundle.Set){
		"no digest":         func(set *bundle.Set) { set.Bundles[0].Descriptor.Digest = "" },
		"a root's digest":   func(set *bundle.Set) { set.Root.Descriptor.Digest = "sha256:1" },
		"a source's digest": source(bundle.Source{URL: "https://example.org/a.yaml", SHA256: "1"}),
		"no URL":            source(bundle.Source{URL: "https://", SHA256: hex("1")}),
		"a chart nowhere":   source(bundle.Source{Chart: "web", SHA256: hex("1")}),
		"git nowhere":       source(bundle.Source{Git: "nowhere", SHA256: hex("1")}),
		"oci by tag":        source(bundle.Source{OCI: "example.org/web:1"}),
		"oci by sha512":     source(bundle.Source{OCI: "example.org/web@sha512:" + hex("1") + hex("1")}),
		"an image's digest": func(set *bundle.Set) {
			image, err := name.NewDigest("example.org/web@sha512:" + hex("1") + hex("1"))
			if err != nil {
				t.Fatal(err)
			}
			set.Bundles[0].Images = images.Lock{{Image: image}}
		},
	} {
		for _, f := range formats {
			set := edge(t)
			spoil(set)
			if got, err := f.make(set); err == nil {
				t.Errorf("%s: %s made of it:\n%s", what, f.file, got)
			}
		}
	}
}

func TestURIs(t *testing.T) {
	var got strings.Builder
	for _, b := range edge(t).Bundles {
		for _, s := range b.Bundle.Spec.Sources {
			uri, err := sbom.SourceURI(&s)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintln(&got, uri)
		}
		for _, image := range b.Images {
			fmt.Fprintln(&got, sbom.ImageURL(image))
		}
	}
	want := `file:manifests
file:a%20file.yaml
https://example.org/crds.yaml
https://example.org/all.tgz
file:local.zip
https://charts.example.org/stable/web@1.2.3+up1
oci://registry.example.org/charts/web@1.2.4
git+https://example.org/acme/web.git@` + strings.Repeat("8", 40) + `
git+ssh://git@example.org/acme/web.git@` + strings.Repeat("9", 40) + `
pkg:oci/web@sha256%3A` + hex("a") + `?repository_url=registry.example.org%2Ffiles%2Fweb&tag=v1
pkg:oci/nginx@sha256%3A` + hex("d") + `?repository_url=index.docker.io%2Flibrary%2Fnginx&tag=latest
pkg:oci/web@sha256%3A` + hex("e") + `?repository_url=localhost%3A5000%2Fweb
pkg:oci/nginx@sha256%3A` + hex("d") + `?repository_url=ghcr.io%2Facme%2Fnginx&tag=1.25
`
	if got.String() != want {
		t.Errorf("got:\n%swant:\n%s", got.String(), want)
	}
}
