package transfer_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/internal/signtest"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/layout"
	"krtpkg.dev/krtpkg/pkg/registry"
	"krtpkg.dev/krtpkg/pkg/sign"
	"krtpkg.dev/krtpkg/pkg/transfer"
)

const (
	dockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
	dockerLayer    = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

// world is what a build leaves: bundles and runtimes in a layout, images at their origin.
type world struct {
	t      *testing.T
	dist   *layout.Store
	origin *layout.Store
}

func newWorld(t *testing.T) *world {
	return &world{t, newLayout(t), newLayout(t)}
}

func newLayout(t *testing.T) *layout.Store {
	t.Helper()
	store, err := layout.Create(filepath.Join(t.TempDir(), "layout"))
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// Origin has every image in one place.
func (w *world) Origin(_ context.Context, image name.Reference) (oras.ReadOnlyTarget, string, error) {
	return w.origin, image.Identifier(), nil
}

// put writes a blob, or a manifest as JSON.
func put(t *testing.T, store content.Pusher, mediaType string, value any) ocispec.Descriptor {
	t.Helper()
	data, isBlob := value.([]byte)
	if !isBlob {
		var err error
		if data, err = json.Marshal(value); err != nil {
			t.Fatal(err)
		}
	}
	desc := content.NewDescriptorFromBytes(mediaType, data)
	if err := store.Push(t.Context(), desc, bytes.NewReader(data)); err != nil && !errors.Is(err, errdef.ErrAlreadyExists) {
		t.Fatal(err)
	}
	return desc
}

// image puts an image of some layers at the origin.
func (w *world) image(layers ...string) ocispec.Descriptor {
	w.t.Helper()
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: put(w.t, w.origin, ocispec.MediaTypeImageConfig, map[string]any{"layers": layers}),
	}
	for _, l := range layers {
		m.Layers = append(m.Layers, put(w.t, w.origin, ocispec.MediaTypeImageLayerGzip, []byte(l)))
	}
	return put(w.t, w.origin, ocispec.MediaTypeImageManifest, m)
}

// index puts an index over images at the origin.
func (w *world) index(manifests ...ocispec.Descriptor) ocispec.Descriptor {
	w.t.Helper()
	return put(w.t, w.origin, ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: manifests,
	})
}

func lockOf(t *testing.T, repository string, descs ...ocispec.Descriptor) (lock images.Lock) {
	t.Helper()
	for _, d := range descs {
		image, err := name.NewDigest(repository + "@" + d.Digest.String())
		if err != nil {
			t.Fatal(err)
		}
		lock = append(lock, images.Locked{Image: image, Reference: image.Name()})
	}
	return lock
}

func (w *world) bundle(name string, images ...ocispec.Descriptor) ocispec.Descriptor {
	return w.pack(&bundle.Content{
		Bundle: &bundle.Bundle{
			APIVersion: bundle.APIVersion, Kind: bundle.KindBundle,
			Metadata: bundle.Metadata{Name: name, Version: "1.0.0"}, Spec: bundle.BundleSpec{Layer: 6, Sources: []bundle.Source{{Dir: "config"}}},
		},
		Images: lockOf(w.t, "origin.example/app", images...),
	})
}

func (w *world) runtime(bundles ...ocispec.Descriptor) ocispec.Descriptor {
	return w.pack(&bundle.Content{
		Runtime: &bundle.RuntimeLock{
			APIVersion: bundle.APIVersion, Kind: bundle.KindRuntimeLock,
			Metadata: bundle.Metadata{Name: "edge", Version: "1.0.0"},
		},
		Images: lockOf(w.t, "krtpkg.invalid/bundles/any", bundles...),
	})
}

func (w *world) pack(c *bundle.Content) ocispec.Descriptor {
	w.t.Helper()
	desc, err := c.Pack(w.t.Context(), w.dist, time.Time{})
	if err != nil {
		w.t.Fatal(err)
	}
	return desc
}

// edge returns a runtime with one of everything: bundles that share an image, images that share
// layers, an index, and everything that can be attached.
func (w *world) edge() ocispec.Descriptor {
	w.t.Helper()
	base := w.image("base")
	web := w.index(w.image("base", "web on amd64"), w.image("base", "web on arm64"))
	first, second := w.bundle("first", base, web), w.bundle("second", web)
	root := w.runtime(first, second)
	signer := signtest.NewSigner(w.t)
	for _, desc := range []ocispec.Descriptor{root, first} {
		signed(w.t, w.dist, desc, signer)
	}
	sbom := refer(w.t, w.dist, root, "application/spdx+json", "an SBOM")
	review := refer(w.t, w.dist, sbom, "application/vnd.in-toto+json", "a review of the SBOM")
	refer(w.t, w.dist, review, "application/vnd.in-toto+json", "a comment on the review")
	attach(w.t, w.dist, root, ".att", "an attestation")
	attach(w.t, w.dist, sbom, ".sbom", "an SBOM of the SBOM")
	return root
}

func signed(t *testing.T, store oras.GraphTarget, desc ocispec.Descriptor, signer *sign.Signer) {
	t.Helper()
	if _, err := sign.Sign(t.Context(), store, desc, sign.SignOptions{Signer: signer}); err != nil {
		t.Fatal(err)
	}
}

// refer attaches a text by the referrers API.
func refer(t *testing.T, store oras.GraphTarget, subject ocispec.Descriptor, artifactType, text string) ocispec.Descriptor {
	t.Helper()
	return put(t, store, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifactType,
		Config:  put(t, store, ocispec.MediaTypeEmptyJSON, []byte("{}")),
		Layers:  []ocispec.Descriptor{put(t, store, artifactType, []byte(text))},
		Subject: &ocispec.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size},
	})
}

// attach attaches texts by one of cosign's tags, each a layer.
func attach(t *testing.T, store oras.GraphTarget, subject ocispec.Descriptor, suffix string, texts ...string) ocispec.Descriptor {
	t.Helper()
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: put(t, store, ocispec.MediaTypeImageConfig, map[string]any{"holds": texts}),
	}
	for _, text := range texts {
		m.Layers = append(m.Layers, put(t, store, "application/vnd.dsse.envelope.v1+json", []byte(text)))
	}
	desc := put(t, store, ocispec.MediaTypeImageManifest, m)
	if err := store.Tag(t.Context(), desc, cosignTag(subject, suffix)); err != nil {
		t.Fatal(err)
	}
	return desc
}

func cosignTag(subject ocispec.Descriptor, suffix string) string {
	return strings.ReplaceAll(subject.Digest.String(), ":", "-") + suffix
}

// open returns a repository of a registry as the program does.
func open(t *testing.T, r *registrytest.Registry, repository string) oras.GraphTarget {
	t.Helper()
	client, err := registry.New(registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	repo, err := client.Repository(t.Context(), r.Host+"/"+repository)
	if err != nil {
		t.Fatal(err)
	}
	return repo
}

func (w *world) copy(root ocispec.Descriptor, dst oras.GraphTarget) (*transfer.Report, error) {
	return transfer.Copy(w.t.Context(), []transfer.Source{{Store: w.dist, Root: root, Tags: []string{"1.0.0"}}}, dst, transfer.Options{Origins: w, MoveTags: true})
}

func (w *world) mustCopy(root ocispec.Descriptor, dst oras.GraphTarget) *transfer.Report {
	w.t.Helper()
	report, err := w.copy(root, dst)
	if err != nil {
		w.t.Fatal(err)
	}
	return report
}

// copyFrom copies from a place that has everything. All roots of these tests are builds of one version.
func copyFrom(t *testing.T, src oras.ReadOnlyGraphTarget, root ocispec.Descriptor, dst oras.GraphTarget) (*transfer.Report, error) {
	return transfer.Copy(t.Context(), []transfer.Source{{Store: src, Root: root, Tags: []string{"1.0.0"}}}, dst, transfer.Options{MoveTags: true})
}

// contentOf returns everything that a store has of a root, found without the code under test: each
// digest with the digest of the bytes, and each tag and referrer with what it leads to.
func contentOf(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) map[string]string {
	t.Helper()
	all := map[string]string{}
	var down, up func(desc ocispec.Descriptor)
	down = func(desc ocispec.Descriptor) {
		if all[desc.Digest.String()] != "" {
			return
		}
		data, err := content.FetchAll(t.Context(), store, desc)
		if err != nil {
			t.Fatalf("%s: %v", desc.Digest, err)
		}
		all[desc.Digest.String()] = digest.FromBytes(data).String()
		next, err := content.Successors(t.Context(), store, desc)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range next {
			down(d)
		}
	}
	up = func(desc ocispec.Descriptor) {
		referrers, err := store.Predecessors(t.Context(), desc)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range referrers {
			all[desc.Digest.String()+" < "+d.Digest.String()] = d.ArtifactType
			down(d)
			up(d)
		}
		for _, suffix := range []string{".sig", ".att", ".sbom"} {
			named, err := store.Resolve(t.Context(), cosignTag(desc, suffix))
			if errors.Is(err, errdef.ErrNotFound) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			all[cosignTag(desc, suffix)] = named.Digest.String()
			down(named)
		}
	}
	down(root)
	up(root)
	closure := closureOf(t, store, root)
	var index ocispec.Index
	data, err := content.FetchAll(t.Context(), store, closure)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &index); err != nil {
		t.Fatal(err)
	}
	for _, m := range index.Manifests {
		if m.ArtifactType == bundle.TypeBundle {
			up(m)
		}
	}
	return all
}

// closureOf finds the closure of a root, as tools do.
func closureOf(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	referrers, err := store.Predecessors(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(referrers, func(d ocispec.Descriptor) bool { return d.ArtifactType == bundle.TypeClosure })
	if i < 0 {
		t.Fatalf("no closure among %v", referrers)
	}
	return referrers[i]
}

// contentItems returns the digests among the content.
func contentItems(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor) (items []string) {
	t.Helper()
	for key, value := range contentOf(t, store, root) {
		if key == value {
			items = append(items, key)
		}
	}
	return items
}

func equal(t *testing.T, got, want map[string]string) {
	t.Helper()
	if maps.Equal(got, want) {
		return
	}
	for key, value := range want {
		if got[key] != value {
			t.Errorf("%s is %q, want %q", key, got[key], value)
		}
	}
	for key := range got {
		if _, ok := want[key]; !ok {
			t.Errorf("%s is too much", key)
		}
	}
}

// noTag fails if a store has the tag of the copy.
func noTag(t *testing.T, store oras.GraphTarget) {
	t.Helper()
	if desc, err := store.Resolve(context.WithoutCancel(t.Context()), "1.0.0"); !errors.Is(err, errdef.ErrNotFound) {
		t.Errorf("tag 1.0.0 is %s, error %v; want none", desc.Digest, err)
	}
}

func isWrite(r registrytest.Request) bool {
	return r.Method != http.MethodGet && r.Method != http.MethodHead
}

// writes returns the requests of a registry that change something, as METHOD path.
func writes(requests []registrytest.Request) (list []string) {
	for _, r := range requests {
		if isWrite(r) {
			list = append(list, r.Method+" "+r.Path)
		}
	}
	return list
}

func closeBody(t *testing.T, c io.Closer) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}
