package provenance_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	slsa "github.com/in-toto/attestation/go/predicates/provenance/v1"
	attestation "github.com/in-toto/attestation/go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/mod/sumdb/dirhash"
	"google.golang.org/protobuf/encoding/protojson"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/memory"

	"krtpkg.dev/krtpkg/pkg/assemble"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/provenance"
)

var update = flag.Bool("update", false, "write the golden file instead of comparing it")

var builder = provenance.Builder{ID: "https://ci.example.org/runners/1", Version: "v1.2.3", Invocation: "https://ci.example.org/runs/7"}

func sum(digit string) string { return strings.Repeat(digit, 64) }

func locked(t *testing.T, reference, repository, digit string) images.Locked {
	t.Helper()
	image, err := name.NewDigest(repository + "@sha256:" + sum(digit))
	if err != nil {
		t.Fatal(err)
	}
	return images.Locked{Image: image, Reference: reference}
}

func artifact(digit string, c bundle.Content) *bundle.Artifact {
	return &bundle.Artifact{Descriptor: ocispec.Descriptor{Digest: digest.Digest("sha256:" + sum(digit))}, Content: c}
}

// edge returns a runtime of a bundle that was built along with it and one that was there before.
func edge(t *testing.T) *bundle.Set {
	t.Helper()
	shared := bundle.Source{URL: "https://user:secret@example.org/crds.yaml", SHA256: sum("3")}
	base := artifact("b", bundle.Content{
		Bundle: &bundle.Bundle{
			Metadata: bundle.Metadata{Name: "base", Version: "1.0.0"},
			Spec: bundle.BundleSpec{Sources: []bundle.Source{
				{Dir: "manifests", SHA256: sum("1"), Include: []string{"*.yaml"}, Exclude: []string{"a", "b"}},
				{File: "a file.yaml", SHA256: sum("2")},
				shared,
				{Archive: "https://example.org/all.tgz", SHA256: sum("4"), Root: "deploy"},
				{Archive: "https://example.org/all.tgz", SHA256: sum("4"), Root: "crds"},
				{Archive: "local.zip", SHA256: sum("5")},
			}},
		},
		Images: images.Lock{locked(t, "nginx", "nginx", "d")},
	})
	web := artifact("c", bundle.Content{
		Bundle: &bundle.Bundle{
			Metadata: bundle.Metadata{Name: "web", Version: "2.0.0"},
			Spec: bundle.BundleSpec{Sources: []bundle.Source{
				{Chart: "web", Repository: "https://charts.example.org/stable/", Version: "1.2.3", SHA256: sum("6")},
				{Git: "git@example.org:acme/web.git", Commit: strings.Repeat("9", 40), SHA256: sum("9"), Root: "deploy"},
				{OCI: "registry.example.org/files/web:v1@sha256:" + sum("a"), SHA256: sum("0")},
				shared,
			}},
		},
		Images: images.Lock{
			locked(t, "example.org/web:1", "example.org/web", "e"),
			locked(t, "ghcr.io/acme/nginx:1.25", "ghcr.io/acme/nginx", "d"),
		},
	})
	return &bundle.Set{
		Root: artifact("f", bundle.Content{
			Runtime: &bundle.RuntimeLock{Kind: bundle.KindRuntimeLock, Metadata: bundle.Metadata{Name: "edge", Version: "1.0.0"}},
			Images: images.Lock{
				locked(t, "krtpkg.invalid/bundles/base@sha256:"+sum("b"), "krtpkg.invalid/bundles/base", "b"),
				locked(t, "registry.example.org/bundles/web@sha256:"+sum("c"), "registry.example.org/bundles/web", "c"),
			},
		}),
		Bundles: []*bundle.Artifact{base, web},
	}
}

// predicate makes the predicate, and reads it back.
func predicate(t *testing.T, set *bundle.Set, b provenance.Builder) ([]byte, *slsa.Provenance) {
	t.Helper()
	data, err := provenance.EncodeSLSA(set, b)
	if err != nil {
		t.Fatal(err)
	}
	var p slsa.Provenance
	if err := protojson.Unmarshal(data, &p); err != nil {
		t.Fatal(err)
	}
	if err := p.Validate(); err != nil {
		t.Error(err)
	}
	seen := map[string]bool{}
	for _, d := range p.BuildDefinition.ResolvedDependencies {
		text := fmt.Sprint(d.Uri, d.Digest)
		if d.Uri == "" || len(d.Digest) != 1 || seen[text] {
			t.Errorf("dependency %s", text)
		}
		seen[text] = true
	}
	if !slices.IsSortedFunc(p.BuildDefinition.ResolvedDependencies, func(a, b *attestation.ResourceDescriptor) int {
		return strings.Compare(a.Uri, b.Uri)
	}) {
		t.Error("the dependencies are not in order")
	}
	return data, &p
}

func TestPredicate(t *testing.T) {
	data, _ := predicate(t, edge(t), builder)
	if bytes.Contains(data, []byte("secret")) {
		t.Error("it holds the password of a source's URL")
	}
	var got bytes.Buffer
	if err := json.Indent(&got, data, "", "  "); err != nil {
		t.Fatal(err)
	}
	got.WriteByte('\n')
	const file = "testdata/edge.json"
	if *update {
		if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%s has changed. If it was meant to: go test ./pkg/provenance -update\n%s", file, got.Bytes())
	}
}

func TestSameSetSameBytes(t *testing.T) {
	want, _ := predicate(t, edge(t), builder)
	for range 5 {
		set := edge(t)
		slices.Reverse(set.Bundles)
		for _, b := range set.Bundles {
			slices.Reverse(b.Images)
			slices.Reverse(b.Bundle.Spec.Sources)
		}
		if got, _ := predicate(t, set, builder); !bytes.Equal(got, want) {
			t.Fatalf("the order of the set matters:\n%s\n%s", got, want)
		}
	}
}

// Nothing is said that is not known, and no time but the artifact's.
func TestWhatIsLeftOut(t *testing.T) {
	data, p := predicate(t, edge(t), provenance.Builder{ID: "urn:builder"})
	if p.RunDetails.Metadata != nil || p.RunDetails.Builder.Version != nil {
		t.Errorf("run details of nothing: %s", data)
	}
	for _, key := range []string{"created", "startedOn", "finishedOn"} {
		if bytes.Contains(data, []byte(key)) {
			t.Errorf("%s: %s", key, data)
		}
	}
	set := edge(t)
	set.Root.Manifest.Annotations = map[string]string{ocispec.AnnotationCreated: "2024-01-01T00:00:00Z"}
	_, p = predicate(t, set, builder)
	if got := p.BuildDefinition.ExternalParameters.AsMap()["created"]; got != "2024-01-01T00:00:00Z" {
		t.Errorf("created %v", got)
	}
}

func TestErrors(t *testing.T) {
	source := func(s bundle.Source) *bundle.Set {
		set := edge(t)
		set.Bundles[0].Bundle.Spec.Sources[0] = s
		return set
	}
	for what, c := range map[string]struct {
		set     *bundle.Set
		builder provenance.Builder
	}{
		"no builder":        {edge(t), provenance.Builder{}},
		"no URI":            {edge(t), provenance.Builder{ID: "me"}},
		"a source's digest": {source(bundle.Source{File: "a", SHA256: "1"}), builder},
		"a commit":          {source(bundle.Source{Git: "https://example.org/a", Commit: "main"}), builder},
		"oci by tag":        {source(bundle.Source{OCI: "example.org/a:1"}), builder},
		"no text":           {source(bundle.Source{Dir: "a", Root: "\xff"}), builder},
	} {
		if got, err := provenance.EncodeSLSA(c.set, c.builder); err == nil {
			t.Errorf("%s: made of it: %s", what, got)
		}
	}
}

// resolver gives each reference a digest of its own.
type resolver struct{}

func (resolver) Resolve(_ context.Context, ref name.Reference) (ocispec.Descriptor, error) {
	return content.NewDescriptorFromBytes(ocispec.MediaTypeImageIndex, []byte(ref.Name())), nil
}

const hello = "../../bundles/6-applications/demo/hello/1.0.0"

// The digest of a folder is Go's Hash1, which in-toto calls dirHash.
func TestFolderHasDirHash(t *testing.T) {
	store := memory.New()
	built, err := assemble.Build(t.Context(), hello, assemble.Options{Store: store, Images: resolver{}})
	if err != nil {
		t.Fatal(err)
	}
	set, err := bundle.OpenSet(t.Context(), store, built.Descriptor)
	if err != nil {
		t.Fatal(err)
	}
	h1, err := dirhash.HashDir(hello+"/manifests", "", dirhash.Hash1)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(h1, "h1:"))
	if err != nil {
		t.Fatal(err)
	}
	_, p := predicate(t, set, builder)
	for _, d := range p.BuildDefinition.ResolvedDependencies {
		if d.Uri == "file:manifests" && d.Digest["dirHash"] == hex.EncodeToString(raw) {
			return
		}
	}
	t.Errorf("no file:manifests with dirHash %x in %v", raw, p.BuildDefinition.ResolvedDependencies)
}

func TestBuiltRuntime(t *testing.T) {
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
	data, p := predicate(t, set, builder)
	if got := p.BuildDefinition.ExternalParameters.AsMap()["kind"]; got != bundle.KindRuntime {
		t.Errorf("kind %v", got)
	}
	for _, b := range set.Bundles {
		for _, s := range b.Bundle.Spec.Sources {
			if !bytes.Contains(data, []byte(s.SHA256)) {
				t.Errorf("source %s of %s is missing", s.Name(), b.Metadata().Name)
			}
		}
		for _, l := range b.Images {
			if !bytes.Contains(data, []byte(strings.TrimPrefix(l.Image.DigestStr(), "sha256:"))) {
				t.Errorf("image %s is missing", l.Reference)
			}
		}
	}
}
