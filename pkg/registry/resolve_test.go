package registry_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/internal/registrytest"
	"krtpkg.dev/krtpkg/pkg/registry"
)

// A manifest that is resolved to be read costs one request, however often it is read.
func TestResolveToRead(t *testing.T) {
	t.Parallel()
	r := registrytest.StartRegistry(t, registrytest.Options{Kind: registrytest.Olareg, Record: true})
	client, err := registry.New(registry.Options{CAFile: r.CAFile})
	if err != nil {
		t.Fatal(err)
	}
	repository, err := client.Repository(t.Context(), r.Host+"/krt/edge")
	if err != nil {
		t.Fatal(err)
	}
	put := func(data []byte, tag string) ocispec.Descriptor {
		desc := content.NewDescriptorFromBytes(ocispec.MediaTypeImageIndex, data)
		if err := repository.PushReference(t.Context(), desc, bytes.NewReader(data), tag); err != nil {
			t.Fatal(err)
		}
		return desc
	}
	first, second := []byte(`{"schemaVersion":2,"manifests":[]}`), []byte(`{"schemaVersion":2,"manifests":[] }`)
	one, two := put(first, "1"), put(second, "2")
	before := len(r.Requests())
	for _, c := range []struct {
		reference string
		want      ocispec.Descriptor
	}{{"1", one}, {"2", two}, {one.Digest.String(), one}} {
		desc, err := repository.ResolveToRead(t.Context(), c.reference)
		if err != nil || !content.Equal(desc, c.want) {
			t.Fatalf("%s is %v, error %v", c.reference, desc, err)
		}
		for range 2 {
			body, err := repository.Fetch(t.Context(), desc)
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(body)
			if got := content.NewDescriptorFromBytes(desc.MediaType, data); err != nil || !content.Equal(got, c.want) || body.Close() != nil {
				t.Errorf("%s: %v, error %v", c.reference, got, err)
			}
		}
	}
	if n := len(r.Requests()) - before; n != 3 {
		t.Errorf("%d requests, want 3", n)
	}
	if _, err := repository.ResolveToRead(t.Context(), "3"); !errors.Is(err, errdef.ErrNotFound) {
		t.Errorf("a tag that is not there: %v", err)
	}
}
