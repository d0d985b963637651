package images_test

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	digestlib "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/pkg/images"
)

// registry resolves every reference but those named missing, and notes what it was asked.
type registry struct {
	mu    sync.Mutex
	asked []string
}

func (r *registry) Resolve(_ context.Context, ref name.Reference) (ocispec.Descriptor, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = append(r.asked, ref.Name())
	if strings.Contains(ref.Name(), "missing") {
		return ocispec.Descriptor{}, errMissing
	}
	desc := content.NewDescriptorFromBytes(ocispec.MediaTypeImageIndex, []byte(ref.Name()))
	if pinned, is := ref.(name.Digest); is && !strings.Contains(ref.Name(), "lies") {
		desc.Digest = digestlib.Digest(pinned.DigestStr())
	}
	return desc, nil
}

var errMissing = errors.New("not there")

func TestResolveAsksOnceForEachReference(t *testing.T) {
	t.Parallel()
	r := &registry{}
	lock, err := images.ResolveLock(t.Context(), []images.WantedImage{
		{Image: "web:2"}, {Image: "ghcr.io/a/b"}, {Image: "web:2"}, {Image: "docker.io/library/web:2"}, {Image: "quay.io/x@" + zeros},
	}, r)
	if err != nil {
		t.Fatal(err)
	}
	var references, names []string
	for _, l := range lock {
		references = append(references, l.Reference)
		names = append(names, l.Image.Context().Name())
	}
	// As the author wrote them, in order.
	if want := []string{"docker.io/library/web:2", "ghcr.io/a/b", "quay.io/x@" + zeros, "web:2"}; !slices.Equal(references, want) {
		t.Errorf("got %q, want %q", references, want)
	}
	if want := []string{"index.docker.io/library/web", "ghcr.io/a/b", "quay.io/x", "index.docker.io/library/web"}; !slices.Equal(names, want) {
		t.Errorf("got %q, want %q", names, want)
	}
	slices.Sort(r.asked)
	if want := []string{"ghcr.io/a/b:latest", "index.docker.io/library/web:2", "index.docker.io/library/web:2", "quay.io/x@" + zeros}; !slices.Equal(r.asked, want) {
		t.Errorf("asked for %q", r.asked)
	}
	// Two ways to write one image are one image.
	if digests := lock.DistinctImages(); len(digests) != 3 {
		t.Errorf("%d distinct images: %v", len(digests), digests)
	}
}

func TestResolveErrorsSayWhere(t *testing.T) {
	t.Parallel()
	for image, want := range map[string]string{
		"missing:1":     "a.yaml:3:4: image missing:1: not there",
		"UPPER/case":    `a.yaml:3:4: "UPPER/case" is not an image reference: could not parse reference: UPPER/case`,
		"lies@" + zeros: "a.yaml:3:4: image lies@" + zeros + " is locked to sha256:ab5057a5d079d5c8383b29f164df5a23bfd40c35d6bc8a93e9fcd4400d61c32d, which contradicts its digest",
		"a b":           `a.yaml:3:4: "a b" is not an image reference: could not parse reference: a b`,
	} {
		_, err := images.ResolveLock(t.Context(), []images.WantedImage{{Image: image, Where: "a.yaml:3:4"}, {Image: image, Where: "b.yaml:1:1"}}, &registry{})
		if err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if _, err := images.ResolveLock(t.Context(), []images.WantedImage{{Image: "missing"}}, &registry{}); !errors.Is(err, errMissing) {
		t.Errorf("the cause is lost: %v", err)
	}
}

func TestLockRoundTrip(t *testing.T) {
	t.Parallel()
	for _, lock := range []images.Lock{
		{},
		{{Image: digest(t, "index.docker.io/library/web@"+zeros), Reference: "web"}},
		{
			{Image: digest(t, "ghcr.io/a@"+ones), Reference: "0x1f:1e3"},
			{Image: digest(t, "ghcr.io/a@"+zeros), Reference: "ghcr.io/a:1"},
			{Image: digest(t, "localhost:5000/a@"+zeros), Reference: "localhost:5000/a@" + zeros},
		},
	} {
		data, err := lock.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		got, err := images.UnmarshalLock("images.yml", data)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(references(got), references(lock)) {
			t.Errorf("%s\ngot  %v\nwant %v", data, references(got), references(lock))
		}
	}
}

func references(l images.Lock) map[string]string {
	m := map[string]string{}
	for _, locked := range l {
		m[locked.Reference] = locked.Image.Name()
	}
	return m
}

// imgpkg parses the file strictly: these fields and no others.
func TestLockIsAnImagesLock(t *testing.T) {
	t.Parallel()
	data, err := images.Lock{{Image: digest(t, "ghcr.io/a@"+zeros), Reference: "ghcr.io/a:1"}}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	const want = `apiVersion: imgpkg.carvel.dev/v1alpha1
kind: ImagesLock
images:
  - image: ghcr.io/a@` + zeros + `
    annotations:
      kbld.carvel.dev/id: ghcr.io/a:1
`
	if string(data) != want {
		t.Errorf("got:\n%s\nwant:\n%s", data, want)
	}
}

func TestUnmarshalLockRefuses(t *testing.T) {
	t.Parallel()
	const head = "apiVersion: imgpkg.carvel.dev/v1alpha1\nkind: ImagesLock\n"
	for data, want := range map[string]string{
		"":                                     "images.yml: is  , want imgpkg.carvel.dev/v1alpha1 ImagesLock",
		"apiVersion: v1\nkind: ConfigMap\n":    "images.yml: is v1 ConfigMap, want imgpkg.carvel.dev/v1alpha1 ImagesLock",
		"{":                                    "images.yml: yaml: line 1: did not find expected node content",
		head + "extra: 1\n":                    "images.yml: yaml: unmarshal errors:\n  line 3: field extra not found in type images.imagesLock",
		head + "images: [{image: ghcr.io/a}]":  `images.yml: image "ghcr.io/a" is not pinned by digest: a digest must contain exactly one '@' separator (e.g. registry/repository@digest) saw: ghcr.io/a`,
		head + "images: [{image: x@sha256:1}]": `images.yml: image "x@sha256:1" is not pinned by digest: invalid checksum digest length: sha256:1`,
		head + "images:\n- {image: a@" + zeros + ", annotations: {kbld.carvel.dev/id: web}}\n- {image: b@" + ones + ", annotations: {kbld.carvel.dev/id: web}}\n": `images.yml: reference "web" is locked to two images`,
		// The manifest says which image it wants, and the lock says another one.
		head + "images:\n- {image: nginx@" + ones + ", annotations: {kbld.carvel.dev/id: nginx@" + zeros + "}}\n":     "images.yml: image nginx@" + zeros + " is locked to " + ones + ", which contradicts its digest",
		head + "images:\n- {image: nginx@" + ones + ", annotations: {kbld.carvel.dev/id: 'nginx:1@" + zeros + "'}}\n": "images.yml: image nginx:1@" + zeros + " is locked to " + ones + ", which contradicts its digest",
		head + "images:\n- {image: nginx@" + ones + ", annotations: {kbld.carvel.dev/id: 'nginx@sha512:00'}}\n":       "images.yml: image nginx@sha512:00 is locked to " + ones + ", which contradicts its digest",
	} {
		_, err := images.UnmarshalLock("images.yml", []byte(data))
		if err == nil || err.Error() != want {
			t.Errorf("%q:\ngot  %v\nwant %s", data, err, want)
		}
	}
}

// oldImage is a registry of one image, of a media type.
type oldImage string

func (o oldImage) Resolve(context.Context, name.Reference) (ocispec.Descriptor, error) {
	return ocispec.Descriptor{MediaType: string(o), Digest: digestlib.Digest(zeros), Size: 1}, nil
}

// What cannot be pushed anywhere is refused when it is locked, by its name, and not at the push.
func TestOldManifestsAreRefused(t *testing.T) {
	t.Parallel()
	for mediaType, want := range map[string]string{
		"application/vnd.docker.distribution.manifest.v1+prettyjws": "a.yaml:3:4: image old.example/web:1: " + zeros + " is a manifest of Docker's schema 1",
		"application/vnd.docker.distribution.manifest.v1+json":      "Docker's schema 1",
		"application/vnd.oci.artifact.manifest.v1+json":             "an artifact manifest",
	} {
		_, err := images.ResolveLock(t.Context(), []images.WantedImage{{Image: "old.example/web:1", Where: "a.yaml:3:4"}}, oldImage(mediaType))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "push it again") {
			t.Errorf("%s: %v", mediaType, err)
		}
	}
}
