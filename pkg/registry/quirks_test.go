package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/internal/registrytest"
)

// loginTo returns the docker config with the login for a registry.
func loginTo(t *testing.T, r *registrytest.Registry) [][]byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(r.DockerConfig(t), "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	return [][]byte{data}
}

// putImage writes an image of one layer; change makes it a special one.
func putImage(ctx context.Context, repo *Repository, change func(*ocispec.Manifest)) (ocispec.Descriptor, error) {
	layer := []byte("layer")
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.DescriptorEmptyJSON, Layers: []ocispec.Descriptor{content.NewDescriptorFromBytes("text/plain", layer)},
	}
	m.Config.Data = nil
	change(&m)
	for _, blob := range [][]byte{layer, []byte("{}")} {
		desc := content.NewDescriptorFromBytes("text/plain", blob)
		there, err := repo.Exists(ctx, desc)
		if err == nil && !there {
			err = repo.Push(ctx, desc, bytes.NewReader(blob))
		}
		if err != nil {
			return desc, fmt.Errorf("blob: %w", err)
		}
		if there, err := repo.Exists(ctx, desc); err != nil || !there {
			return desc, fmt.Errorf("the blob is there: %v, error %w", there, err)
		}
	}
	data, err := json.Marshal(m)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc := content.NewDescriptorFromBytes(m.MediaType, data)
	return desc, repo.Push(ctx, desc, bytes.NewReader(data))
}

// What registries do otherwise than the specification does not show above this package.
func TestQuirks(t *testing.T) {
	t.Parallel()
	for _, o := range registrytest.QuirkyOptions() {
		t.Run(o.String(), func(t *testing.T) {
			t.Parallel()
			r := registrytest.StartRegistry(t, o)
			repo, err := newClient(t, Options{Logins: loginTo(t, r)}).Repository(t.Context(), r.Host+"/created/edge")
			if err != nil {
				t.Fatal(err)
			}
			image := checkRepository(t, repo)
			_, err = repo.Resolve(t.Context(), fallbackTag(image.Digest))
			if listed := errors.Is(err, errdef.ErrNotFound); listed != o.HasReferrers() {
				t.Errorf("the list under the fallback tag: %v", err)
			}
		})
	}
}

func checkRepository(t *testing.T, repo *Repository) ocispec.Descriptor {
	ctx := t.Context()
	if _, err := repo.Resolve(ctx, "1.0.0"); !errors.Is(err, errdef.ErrNotFound) {
		t.Errorf("a tag that is not there: %v", err)
	}
	image, err := putImage(ctx, repo, func(*ocispec.Manifest) {})
	if err != nil {
		t.Fatal(err)
	}
	for _, tag := range []string{"1.0.0", "1.1.0", "1.2.0", "1.2.0"} {
		if err := repo.Tag(ctx, image, tag); err != nil {
			t.Fatal(err)
		}
	}
	found, err := repo.Resolve(ctx, "1.0.0")
	if err != nil || found.Digest != image.Digest || found.Size != image.Size || found.MediaType != image.MediaType {
		t.Errorf("the tag is %+v, error %v; want %+v", found, err, image)
	}
	if found, err = repo.Resolve(ctx, image.Digest.String()); err != nil || found.MediaType != image.MediaType || found.Size != image.Size {
		t.Errorf("the digest is %+v, error %v; want %+v", found, err, image)
	}
	if there, err := repo.Exists(ctx, image); err != nil || !there {
		t.Errorf("the image is there: %v, error %v", there, err)
	}
	if _, body, err := oras.FetchBytes(ctx, repo, "1.0.0", oras.DefaultFetchBytesOptions); err != nil || len(body) != int(image.Size) {
		t.Errorf("the tag gives %d bytes, error %v", len(body), err)
	}
	if _, err := content.FetchAll(ctx, repo, image); err != nil {
		t.Error(err)
	}
	var tags []string
	err = repo.Tags(ctx, "", func(page []string) error {
		tags = append(tags, page...)
		return nil
	})
	if want := []string{"1.0.0", "1.1.0", "1.2.0"}; err != nil || !slices.Equal(tags, want) {
		t.Errorf("tags %q, error %v; want %q", tags, err, want)
	}

	// Referrers that are pushed in one run are listed at once.
	if all, err := repo.Predecessors(ctx, image); err != nil || len(all) > 0 {
		t.Errorf("referrers of an image without any: %v, error %v", all, err)
	}
	err = repo.GatherReferrers(ctx, func(ctx context.Context) error {
		for _, name := range []string{"a", "b"} {
			_, err := putImage(ctx, repo, func(m *ocispec.Manifest) {
				m.ArtifactType, m.Subject, m.Annotations = "application/vnd.example", &image, map[string]string{"name": name}
			})
			if err != nil {
				return err
			}
		}
		if all, err := repo.Predecessors(ctx, image); err != nil || len(all) != 2 {
			return fmt.Errorf("while they are pushed there are %v, error %w", all, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	all, err := repo.Predecessors(ctx, image)
	if err != nil || len(all) != 2 || all[0].ArtifactType != "application/vnd.example" || all[0].Annotations["name"] == "" {
		t.Errorf("referrers %+v, error %v", all, err)
	}
	blob, err := repo.Fetch(ctx, content.NewDescriptorFromBytes("text/plain", []byte("layer")))
	if err != nil {
		t.Fatal(err)
	}
	defer blob.Close()
	if data, err := io.ReadAll(blob); err != nil || string(data) != "layer" {
		t.Errorf("blob %q, error %v", data, err)
	}
	return image
}

// A registry that creates no repositories says so, and which one is missing.
func TestRepositoriesFirst(t *testing.T) {
	t.Parallel()
	r := registrytest.StartRegistry(t, registrytest.Options{Quirks: []registrytest.Quirk{registrytest.RepositoriesFirst}})
	repo, err := newClient(t, Options{}).Repository(t.Context(), r.Host+"/krt/edge")
	if err != nil {
		t.Fatal(err)
	}
	_, err = putImage(t.Context(), repo, func(*ocispec.Manifest) {})
	var missing *MissingRepositoryError
	if !errors.As(err, &missing) || missing.Repository != "krt/edge" || missing.Host != r.Host {
		t.Errorf("got %v", err)
	}
}

// A tag that cannot be moved is named, with what it names.
func TestImmutableTags(t *testing.T) {
	t.Parallel()
	r := registrytest.StartRegistry(t, registrytest.Options{NoReferrers: true, Quirks: []registrytest.Quirk{registrytest.ImmutableTags}})
	repo, err := newClient(t, Options{}).Repository(t.Context(), r.Host+"/krt/edge")
	if err != nil {
		t.Fatal(err)
	}
	put := func(name string, subject *ocispec.Descriptor) (ocispec.Descriptor, error) {
		return putImage(t.Context(), repo, func(m *ocispec.Manifest) {
			m.Annotations, m.Subject = map[string]string{"name": name}, subject
		})
	}
	first, err := put("first", nil)
	if err != nil {
		t.Fatal(err)
	}
	second, err := put("second", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := repo.Tag(t.Context(), first, "1.0.0"); err != nil {
		t.Fatal(err)
	}
	var fixed *ImmutableTagError
	if err := repo.Tag(t.Context(), second, "1.0.0"); !errors.As(err, &fixed) || fixed.Tag != "1.0.0" || fixed.Digest != first.Digest {
		t.Errorf("got %v", err)
	}
	if _, err := put("a signature", &first); err != nil {
		t.Fatal(err)
	}
	fallback := strings.ReplaceAll(first.Digest.String(), ":", "-")
	if _, err := put("another signature", &first); !errors.As(err, &fixed) || fixed.Tag != fallback {
		t.Errorf("got %v", err)
	}
}
