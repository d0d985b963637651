package transfer_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/internal/signtest"
	"krtpkg.dev/krtpkg/pkg/layout"
	"krtpkg.dev/krtpkg/pkg/sign"
)

func digestOf(text string) digest.Digest { return digest.FromString(text) }

// layers are what is under one of cosign's tags.
func layersOf(t *testing.T, store oras.GraphTarget, subject ocispec.Descriptor, suffix string) []ocispec.Descriptor {
	t.Helper()
	_, rc, err := oras.Fetch(t.Context(), store, cosignTag(subject, suffix), oras.DefaultFetchOptions)
	if err != nil {
		t.Fatal(err)
	}
	defer closeBody(t, rc)
	var m ocispec.Manifest
	if err := json.NewDecoder(rc).Decode(&m); err != nil {
		t.Fatal(err)
	}
	return m.Layers
}

// The site has signed as well: both signatures stay, in whatever order they come.
func TestSignaturesAreMerged(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"layout", "olareg", "ggcr-noreferrers"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			root := w.bundle("a", w.image("1"))
			dst := kinds[kind](t)
			w.mustCopy(root, dst)
			vendor, site := signtest.NewSigner(t), signtest.NewSigner(t)
			signed(t, dst, root, site)
			attach(t, dst, root, ".att", "ours", "common")
			signed(t, w.dist, root, vendor)
			attach(t, w.dist, root, ".att", "common", "theirs")
			report := w.mustCopy(root, dst)

			for _, signer := range []*sign.Signer{vendor, site} {
				policy, err := sign.KeyPolicy(signer.Key())
				if err != nil {
					t.Fatal(err)
				}
				result, err := sign.Verify(t.Context(), dst, root, policy)
				if err != nil || len(result.Verified) != 2 {
					t.Errorf("key %s: %+v %v", signer.Key().ID(), result, err)
				}
			}
			var attested []digest.Digest
			for _, l := range layersOf(t, dst, root, ".att") {
				attested = append(attested, l.Digest)
			}
			if want := []digest.Digest{digestOf("ours"), digestOf("common"), digestOf("theirs")}; !slices.Equal(attested, want) {
				t.Errorf("attestations are %v, want %v", attested, want)
			}
			for _, suffix := range []string{".sig", ".att"} {
				at, err := dst.Resolve(t.Context(), cosignTag(root, suffix))
				if err != nil || !slices.ContainsFunc(report.Attached, func(d ocispec.Descriptor) bool { return d.Digest == at.Digest }) {
					t.Errorf("the report has no %s (%v)", at.Digest, err)
				}
			}

			// Nothing is new the second time.
			before := contentOf(t, dst, root)
			if again := w.mustCopy(root, dst); again.Copied != 0 {
				t.Errorf("%d items copied again", again.Copied)
			}
			equal(t, contentOf(t, dst, root), before)

			// What the source has signed since comes along.
			signed(t, w.dist, root, signtest.NewSigner(t))
			w.mustCopy(root, dst)
			if n := len(layersOf(t, dst, root, ".sig")); n != 3 {
				t.Errorf("%d signatures, want 3", n)
			}
		})
	}
}

// Where the source has all that the target has and more, its manifest is taken as it is.
func TestSignaturesThatGrew(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.bundle("a", w.image("1"))
	attach(t, w.dist, root, ".att", "1")
	dst := newLayout(t)
	w.mustCopy(root, dst)
	want := attach(t, w.dist, root, ".att", "1", "2")
	w.mustCopy(root, dst)
	if at, err := dst.Resolve(t.Context(), cosignTag(root, ".att")); err != nil || at.Digest != want.Digest {
		t.Errorf("%s %v, want %s", at.Digest, err, want.Digest)
	}
}

// What cannot be merged is an error that names both, and nothing under the tag changes.
func TestAttachmentsThatCannotBeMerged(t *testing.T) {
	t.Parallel()
	odd := func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor, text string) ocispec.Descriptor {
		desc := put(t, store, ocispec.MediaTypeImageManifest, ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
			Config: put(t, store, "application/x-odd", []byte("{}")),
			Layers: []ocispec.Descriptor{put(t, store, "text/plain", []byte(text))},
		})
		if err := store.Tag(t.Context(), desc, cosignTag(root, ".sig")); err != nil {
			t.Fatal(err)
		}
		return desc
	}
	for _, c := range []struct {
		name, suffix string
		put          func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor, text string) ocispec.Descriptor
	}{
		{"SBOMs", ".sbom", func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor, text string) ocispec.Descriptor {
			return attach(t, store, root, ".sbom", text)
		}},
		{"other manifests", ".sig", odd},
		{"an index", ".sig", func(t *testing.T, store oras.GraphTarget, root ocispec.Descriptor, text string) ocispec.Descriptor {
			index := put(t, store, ocispec.MediaTypeImageIndex, ocispec.Index{
				Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
				Manifests: []ocispec.Descriptor{odd(t, store, root, text)},
			})
			if err := store.Tag(t.Context(), index, cosignTag(root, ".sig")); err != nil {
				t.Fatal(err)
			}
			return index
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			root := w.bundle("a", w.image("1"))
			dst := kinds["olareg"](t)
			theirs, ours := c.put(t, w.dist, root, "theirs"), c.put(t, dst, root, "ours")
			_, err := w.copy(root, dst)
			if err == nil || !strings.Contains(err.Error(), theirs.Digest.String()) || !strings.Contains(err.Error(), ours.Digest.String()) {
				t.Errorf("the error does not name both: %v", err)
			}
			if at, err := dst.Resolve(t.Context(), cosignTag(root, c.suffix)); err != nil || at.Digest != ours.Digest {
				t.Errorf("now it is %s (%v), want %s", at.Digest, err, ours.Digest)
			}
			noTag(t, dst)
		})
	}
}

// A copy that was killed between a referrer and its listing is made good by the next.
func TestUnlistedReferrers(t *testing.T) {
	t.Parallel()
	t.Run("registry", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		root := w.edge()
		r := registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.GGCR, NoReferrers: true})
		dst := open(t, r, "krt/edge")
		w.mustCopy(root, dst)
		want := contentOf(t, dst, root)
		// The fallback index is the list; an empty one in its place has forgotten all.
		empty := put(t, dst, ocispec.MediaTypeImageIndex, ocispec.Index{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{},
		})
		if err := dst.Tag(t.Context(), empty, cosignTag(root, "")); err != nil {
			t.Fatal(err)
		}
		w.mustCopy(root, open(t, r, "krt/edge"))
		equal(t, contentOf(t, open(t, r, "krt/edge"), root), want)
	})
	t.Run("layout", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		root := w.edge()
		dir := filepath.Join(t.TempDir(), "target")
		reopen := func() *layout.Store {
			dst, err := layout.Create(dir)
			if err != nil {
				t.Fatal(err)
			}
			return dst
		}
		w.mustCopy(root, reopen())
		want := contentOf(t, reopen(), root)
		if err := os.WriteFile(filepath.Join(dir, "index.json"), []byte(`{"schemaVersion":2,"manifests":[]}`), 0o644); err != nil {
			t.Fatal(err)
		}
		w.mustCopy(root, reopen())
		equal(t, contentOf(t, reopen(), root), want)
	})
}

// lying lists what is not a referrer, and an index as a layout does.
type lying struct {
	oras.GraphTarget
	more []ocispec.Descriptor
}

func (l lying) Predecessors(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	found, err := l.GraphTarget.Predecessors(ctx, desc)
	return append(found, l.more...), err
}

// A listing is not believed: only a manifest's own subject makes it a referrer.
func TestListingThatLies(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.bundle("a")
	index := put(t, w.dist, ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{root},
	})
	stranger := refer(t, w.dist, index, "text/plain", "a stranger")
	dst := newLayout(t)
	report, err := copyFrom(t, lying{w.dist, []ocispec.Descriptor{index, stranger}}, root, dst)
	if err != nil || len(report.Attached) != 0 {
		t.Fatalf("%v, error %v", report, err)
	}
	for _, d := range []ocispec.Descriptor{index, stranger} {
		if there, err := dst.Blobs.Exists(t.Context(), d); err != nil || there {
			t.Errorf("%s came along (%v)", d.Digest, err)
		}
	}
	gone := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digestOf("gone"), Size: 4}
	if _, err = copyFrom(t, lying{w.dist, []ocispec.Descriptor{gone}}, root, newLayout(t)); !errors.Is(err, errdef.ErrNotFound) || !strings.Contains(err.Error(), gone.Digest.String()) {
		t.Errorf("a referrer that is gone: %v", err)
	}
}

// A referrer that names itself like a version does not become one in a layout.
func TestReferrerWithATagOfItsOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.bundle("a", w.image("1"))
	src, dst := kinds["olareg"](t), newLayout(t)
	w.mustCopy(root, src)
	subject := ocispec.Descriptor{MediaType: root.MediaType, Digest: root.Digest, Size: root.Size}
	fake := put(t, src, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/vnd.in-toto+json",
		Config: put(t, src, ocispec.MediaTypeEmptyJSON, []byte("{}")), Layers: []ocispec.Descriptor{}, Subject: &subject,
		Annotations: map[string]string{ocispec.AnnotationRefName: "2.0.0"},
	})
	if _, err := copyFrom(t, src, root, dst); err != nil {
		t.Fatal(err)
	}
	if at, err := dst.Resolve(t.Context(), "2.0.0"); !errors.Is(err, errdef.ErrNotFound) {
		t.Errorf("2.0.0 is %s (%v)", at.Digest, err)
	}
	found, err := dst.Predecessors(t.Context(), root)
	if err != nil || !slices.ContainsFunc(found, func(d ocispec.Descriptor) bool { return d.Digest == fake.Digest }) {
		t.Errorf("the referrer is not listed: %v %v", found, err)
	}
}
