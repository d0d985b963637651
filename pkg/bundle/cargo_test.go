package bundle

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/memory"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/images"
)

const headOfCargo = "apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: node, version: 1.0.0}\nspec:\n  layer: 1\n"

// What a schema cannot say of files and charts is told with its place.
func TestCargoIsReadStrictly(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"": "spec.sources is missing: want sources, files or charts",
		"  files: [{url: 'https://a.example/x', path: x}]":                                 "a file needs exactly one of url and path",
		"  files: [{name: x}]":                                                             "a file needs exactly one of url and path",
		"  files: [{path: ../x}]":                                                          `path "../x" leaves its folder`,
		"  files: [{path: /x}]":                                                            `path "/x" leaves its folder`,
		"  files: [{url: 'http://a.example/x'}]":                                           "url",
		"  files: [{url: 'https://me:secret@a.example/x'}]":                                "url contains a login",
		"  files: [{url: 'https://a.example/'}]":                                           "is not the name of a file",
		"  files: [{path: x, name: a/b}]":                                                  "name",
		"  files: [{path: x, name: .profile}]":                                             "name",
		"  files: [{path: x, name: '-rf'}]":                                                "name",
		"  files: [{path: x, mode: 0755}]":                                                 "mode",
		"  files: [{path: x, mode: '4755'}]":                                               "mode",
		"  files: [{path: x, platform: arm64}]":                                            "want os/architecture",
		"  files: [{path: x}, {path: y/x}]":                                                "duplicate file x: give one of them another name, or each its platform",
		"  files: [{path: x, platform: linux/amd64}, {path: y/x, platform: linux/x86_64}]": "duplicate file x for linux/amd64",
		"  files: [{path: x, platform: linux/amd64}, {path: y/x}]":                         "file x is for one platform and for any",
		"  files: [{path: x}, {path: y/x, platform: linux/amd64}]":                         "file x is for one platform and for any",
		"  files: [{path: x}, {path: X}]":                                                  "files x and X differ by their capitals alone",
		"  charts: [{chart: web}]":                                                         "a chart needs exactly one of repository, dir and archive",
		"  charts: [{repository: 'https://a.example'}]":                                    "a chart of a repository needs its name",
		"  charts: [{chart: web, repository: 'https://a.example'}]":                        "needs a repository and a version",
		"  charts: [{chart: web, repository: 'https://a.example', version: what}]":         "neither a version nor a range",
		"  charts: [{dir: ../web}]":                                                        `dir "../web" leaves its folder`,
		"  charts: [{archive: 'https://a.example/x?token=abc'}]":                           "archive contains a secret",
		"  charts: [{chart: Web, repository: 'https://a.example', version: 1.0.0}]":        "chart",
		"  charts: [{chart: a..b, repository: 'https://a.example', version: 1.0.0}]":       "is not a name that registries take",
		"  charts: [{chart: web, repository: 'https://a.example', version: 1.0.0}, {chart: team/web, repository: 'oci://b.example', version: 1.0.0}]": "duplicate chart web 1.0.0",
		"  files: [{path: x, mode: '0775'}]": `mode "0775" lets others than its owner write`,
	} {
		_, err := Parse("bundle.yaml", []byte(headOfCargo+text+"\n"))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "bundle.yaml:") {
			t.Errorf("%s\n  %v\n  want %s", text, err, want)
		}
	}
	d, err := Parse("bundle.yaml", []byte(headOfCargo+`  files:
    - {url: "https://a.example/v1/tool%20box.tar.gz?raw=1", name: tools.tar.gz, platform: Linux/x86_64}
    - {url: "https://a.example/v1/kubelet?raw=1", platform: linux/arm/v7, mode: "755"}
    - {path: firmware/nic.bin}
`))
	if err != nil {
		t.Fatal(err)
	}
	files := d.Bundle.Spec.Files
	if files[0].Platform != "linux/amd64" || files[1].Name != "kubelet" || files[1].FileMode() != 0o755 || files[2].Name != "nic.bin" || files[2].FileMode() != 0o644 {
		t.Errorf("read as %+v", files)
	}
}

// newNode returns a bundle of files and a chart whose content is in a store.
func newNode(t *testing.T, store content.Pusher) *Content {
	t.Helper()
	c := &Content{
		Bundle: &Bundle{APIVersion: APIVersion, Kind: KindBundle, Metadata: Metadata{Name: "node", Version: "1.0.0"}, Spec: BundleSpec{Layer: 1}},
		Images: images.Lock{},
	}
	for _, f := range []CargoFile{
		{Name: "tool", Path: "amd64", Platform: "linux/amd64", Mode: "0755"},
		{Name: "tool", Path: "arm64", Platform: "linux/arm64", Mode: "0755"},
		{Name: "nic.bin", Path: "nic.bin"},
	} {
		data := []byte("this is " + f.Path)
		f.SHA256, f.Size = digest.FromBytes(data).Encoded(), int64(len(data))
		if err := store.Push(t.Context(), f.Content(), bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		c.Bundle.Spec.Files = append(c.Bundle.Spec.Files, f)
	}
	lock, err := PackFiles(t.Context(), store, c.Bundle.Spec.Files)
	if err != nil {
		t.Fatal(err)
	}
	c.Bundle.Spec.Charts = []CargoChart{{Dir: "web"}}
	charts, err := c.Bundle.Spec.Charts[0].Pack(t.Context(), store, &PackedChart{
		Data: []byte("a packed chart"), Metadata: []byte(`{"name":"web","version":"1.2.0+x"}`), Name: "web", Version: "1.2.0+x",
	})
	if err != nil {
		t.Fatal(err)
	}
	c.Cargo = lock.Merge(charts)
	return c
}

const (
	goldenIndex = "sha256:0df42b9cce38f8d78e95d510adb7b0e8765b3111e1bcde274af84443066c7d21"
	goldenFile  = "sha256:ed1ebb2a0f8c5f50ecbd578c2fdd23e9d0239120a61cee3336a1da86bf882c34"
	goldenChart = "sha256:f23a0cc479b61d268ee1d4ee6a7c7502e7ab4c13630cc4d619b4bb1bca4d2a07"
	goldenNode  = "sha256:79bcb96dcd386b60935e312bf2759463e9c50009df240f17c176769103f728be"
)

// Files and charts have these bytes: whoever has a lock finds them by these digests for good.
func TestCargoFormat(t *testing.T) {
	t.Parallel()
	store := memory.New()
	c := newNode(t, store)
	root, err := c.Pack(t.Context(), store, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	a, err := Open(t.Context(), store, root)
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Images) != 0 || len(a.Cargo) != 3 {
		t.Errorf("locked: images %v, cargo %v", a.Images, a.Cargo)
	}
	for _, of := range []struct{ what, got, want string }{
		{"index", a.Bundle.Spec.Files[0].Artifact, goldenIndex},
		{"index", a.Bundle.Spec.Files[1].Artifact, goldenIndex},
		{"file", a.Bundle.Spec.Files[2].Artifact, goldenFile},
		{"chart", a.Bundle.Spec.Charts[0].Artifact, goldenChart},
		{"bundle", root.Digest.String(), goldenNode},
	} {
		if of.got != of.want {
			t.Errorf("%s: %s, want %s", of.what, of.got, of.want)
		}
	}
	if got := a.Cargo[0].Reference; got != "krtpkg.invalid/charts/web:1.2.0_x" {
		t.Errorf("the chart is called %s", got)
	}
	var names []string
	for _, item := range a.ListCargo() {
		var out bytes.Buffer
		if err := item.CopyTo(t.Context(), store, &out); err != nil {
			t.Error(err)
		}
		names = append(names, item.Name+" "+item.Platform+" "+out.String())
	}
	if got, want := strings.Join(names, "; "), "tool linux/amd64 this is amd64; tool linux/arm64 this is arm64; nic.bin  this is nic.bin; web-1.2.0+x.tgz  a packed chart"; got != want {
		t.Errorf("carries %s\nwant %s", got, want)
	}
	// The manifest of a file says enough for other tools.
	var m ocispec.Manifest
	data, err := content.FetchAll(t.Context(), store, describe(t, store, a.Bundle.Spec.Files[2].Artifact))
	if err != nil || json.Unmarshal(data, &m) != nil {
		t.Fatal(err)
	}
	if m.ArtifactType != TypeFile || len(m.Layers) != 1 || m.Layers[0].Annotations[ocispec.AnnotationTitle] != "nic.bin" {
		t.Errorf("manifest %s", data)
	}
}

// describe finds a manifest of the store in memory, which knows no digests.
func describe(t *testing.T, store *memory.Store, wanted string) ocispec.Descriptor {
	t.Helper()
	for size := int64(1); size < 2000; size++ {
		desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.Digest(wanted), Size: size}
		if there, err := store.Exists(t.Context(), desc); err == nil && there {
			return desc
		}
	}
	t.Fatalf("no manifest %s", wanted)
	return ocispec.Descriptor{}
}

// A definition and a lock that contradict each other are refused, whichever of them was changed.
func TestCargoMustBeLocked(t *testing.T) {
	t.Parallel()
	other := digest.FromString("another artifact")
	lockAs := func(repository, reference string) func(c *Content) {
		return func(c *Content) {
			image, err := name.NewDigest(repository + "@" + other.String())
			if err != nil {
				t.Fatal(err)
			}
			c.Bundle.Spec.Charts[0].Artifact = other.String()
			c.Cargo[0] = images.Locked{Image: image, Reference: reference}
		}
	}
	const notCarried = "which is not a file or a chart of the bundle"
	for name, of := range map[string]struct {
		change func(c *Content)
		want   string
	}{
		"a file that is not locked":   {func(c *Content) { c.Cargo = c.Cargo[:1] }, "is not in .imgpkg/images.yml"},
		"a locked file of no bundle":  {func(c *Content) { c.Bundle.Spec.Files = c.Bundle.Spec.Files[:2] }, notCarried},
		"another artifact":            {func(c *Content) { c.Bundle.Spec.Files[2].Artifact = other.String() }, "file nic.bin: its artifact is"},
		"no artifact":                 {func(c *Content) { c.Bundle.Spec.Files[2].Artifact = "" }, "file nic.bin: its artifact is"},
		"other content":               {func(c *Content) { c.Bundle.Spec.Files[2].SHA256 = other.Encoded() }, "file nic.bin: its artifact is"},
		"a file without a digest":     {func(c *Content) { c.Bundle.Spec.Files[2].SHA256 = "" }, "file nic.bin has no sha256"},
		"a chart without a version":   {func(c *Content) { c.Bundle.Spec.Charts[0].Version = "" }, "chart web has no sha256, name or version"},
		"a version with a path":       {func(c *Content) { c.Bundle.Spec.Charts[0].Version = "1.0.0/../x\n" }, `has version "1.0.0/../x\n"`},
		"a chart that is not locked":  {func(c *Content) { c.Cargo = c.Cargo[1:] }, "chart web-1.2.0+x.tgz is not in"},
		"a name that leaves a folder": {func(c *Content) { c.Bundle.Spec.Files[2].Name = "../nic.bin" }, "name"},
		"a file as packed chart":      {func(c *Content) { c.Bundle.Spec.Files[2].Name = "Web-1.2.0+x.tgz" }, "and so is a file"},
		"a chart twice": {func(c *Content) {
			c.Bundle.Spec.Charts = append(c.Bundle.Spec.Charts, c.Bundle.Spec.Charts[0])
		}, "duplicate chart web 1.2.0+x"},
		"a chart called by an image's name":  {lockAs("krtpkg.invalid/charts/web", "registry.k8s.io/pause:3.10"), notCarried},
		"a chart called by another version":  {lockAs("krtpkg.invalid/charts/web", "krtpkg.invalid/charts/web:1.3.0"), notCarried},
		"a chart at another chart's place":   {lockAs("krtpkg.invalid/charts/db", "krtpkg.invalid/charts/web:1.2.0_x"), notCarried},
		"a chart at the place of files":      {lockAs("krtpkg.invalid/files", "krtpkg.invalid/files@"+other.String()), notCarried},
		"an image called by a chart's name":  {lockAs("ghcr.io/example/web", "krtpkg.invalid/charts/web:1.2.0_x"), "a name of files and charts"},
		"a file called by an image's name":   {func(c *Content) { c.Cargo[1].Reference = "registry.k8s.io/pause:3.10" }, notCarried},
		"a file that everybody may write to": {func(c *Content) { c.Bundle.Spec.Files[2].Mode = "0666" }, `mode "0666" lets others`},
	} {
		store := memory.New()
		c := newNode(t, store)
		of.change(c)
		root, err := c.Pack(t.Context(), store, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), store, root); err == nil || !strings.Contains(err.Error(), of.want) {
			t.Errorf("%s: %v, want %s", name, err, of.want)
		}
	}
}

// A file without a name is called by the last part of its origin, in a bundle as in a definition.
func TestOpenedFilesHaveNames(t *testing.T) {
	t.Parallel()
	store := memory.New()
	c := newNode(t, store)
	c.Bundle.Spec.Files[2].Name = ""
	root, err := c.Pack(t.Context(), store, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	a, err := Open(t.Context(), store, root)
	if err != nil {
		t.Fatal(err)
	}
	if got := a.ListCargo()[2].Name; got != "nic.bin" {
		t.Errorf("the file is called %q", got)
	}
}

// byDigest is a store in memory that finds manifests by their digests.
type byDigest struct{ *memory.Store }

func (s byDigest) Resolve(ctx context.Context, reference string) (ocispec.Descriptor, error) {
	for size := int64(1); size < 2000; size++ {
		desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.Digest(reference), Size: size}
		if there, err := s.Exists(ctx, desc); err != nil || there {
			return desc, err
		}
	}
	return ocispec.Descriptor{}, errdef.ErrNotFound
}

// The artifact of a chart is the chart: an image in its place would be one that nothing checks.
func TestChartArtifactIsTheChart(t *testing.T) {
	t.Parallel()
	store := memory.New()
	c := newNode(t, store)
	root, err := c.Pack(t.Context(), store, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSet(t.Context(), byDigest{store}, root); err != nil {
		t.Error(err)
	}
	image := []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[]}`)
	desc := content.NewDescriptorFromBytes(ocispec.MediaTypeImageManifest, image)
	if err := store.Push(t.Context(), desc, bytes.NewReader(image)); err != nil {
		t.Fatal(err)
	}
	chart := &c.Bundle.Spec.Charts[0]
	chart.Artifact = desc.Digest.String()
	if c.Cargo[0], err = chart.lock(); err != nil {
		t.Fatal(err)
	}
	if root, err = c.Pack(t.Context(), store, time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSet(t.Context(), byDigest{store}, root); err == nil || !strings.Contains(err.Error(), "does not hold the packed chart") {
		t.Errorf("an image as a chart: %v", err)
	}
}

// altered gives other bytes for one blob.
type altered struct {
	content.Fetcher
	digest digest.Digest
	data   string
}

func (a altered) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if desc.Digest == a.digest {
		return io.NopCloser(strings.NewReader(a.data)), nil
	}
	return a.Fetcher.Fetch(ctx, desc)
}

// Content of another digest or size is an error, whoever keeps it.
func TestCargoIsVerified(t *testing.T) {
	t.Parallel()
	store := memory.New()
	item := newNode(t, store).ListCargo()[0]
	for _, data := range []string{"this is wrong", "this is", "this is amd64 and more", ""} {
		err := item.CopyTo(t.Context(), altered{store, item.Content.Digest, data}, &bytes.Buffer{})
		if err == nil || !strings.Contains(err.Error(), "file tool") {
			t.Errorf("%q: %v", data, err)
		}
	}
	err := item.CopyTo(t.Context(), altered{store, item.Content.Digest, "this is wrong"}, &bytes.Buffer{})
	if !errors.Is(err, content.ErrMismatchedDigest) {
		t.Errorf("wrong bytes: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := item.CopyTo(ctx, store, &bytes.Buffer{}); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}
