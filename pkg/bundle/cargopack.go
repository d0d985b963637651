package bundle

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/oci"
)

// PackFiles writes the manifests of files whose content is in the store, sets the artifact of each and returns their
// lock. Files of one name that have platforms are in one index. The same files give the same bytes anywhere.
func PackFiles(ctx context.Context, store content.Pusher, files []CargoFile) (images.Lock, error) {
	empty := ocispec.DescriptorEmptyJSON
	if len(files) > 0 {
		if err := pushBytes(ctx, store, empty, empty.Data); err != nil {
			return nil, err
		}
	}
	var lock images.Lock
	err := eachFileArtifact(files, func(of []int, blobs []jsonBlob, locked images.Locked) error {
		for _, blob := range blobs {
			if err := pushBytes(ctx, store, blob.desc, blob.data); err != nil {
				return err
			}
		}
		for _, i := range of {
			files[i].Artifact = locked.Image.DigestStr()
		}
		lock = append(lock, locked)
		return nil
	})
	return lock, err
}

// eachFileArtifact passes what files are packed as to take, once for all files of a name: their indexes, the manifests
// with the artifact last, and the lock of it.
func eachFileArtifact(files []CargoFile, take func(of []int, blobs []jsonBlob, locked images.Locked) error) error {
	variants := map[string][]int{}
	for i := range files {
		variants[files[i].Name] = append(variants[files[i].Name], i)
	}
	for i := range files {
		of := variants[files[i].Name]
		if of[0] != i {
			continue
		}
		blobs, err := packVariants(files, of)
		if err == nil {
			var locked images.Locked
			if locked, err = lockCargo(filesRepository, "", blobs[len(blobs)-1].desc.Digest); err == nil {
				err = take(of, blobs, locked)
			}
		}
		if err != nil {
			return fmt.Errorf("file %s: %w", files[i].Name, err)
		}
	}
	return nil
}

// packVariants returns the manifest of a file, or those of each platform and the index of them.
func packVariants(files []CargoFile, of []int) (blobs []jsonBlob, err error) {
	index := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, ArtifactType: TypeFile,
		Annotations: map[string]string{ocispec.AnnotationTitle: files[of[0]].Name},
	}
	for _, i := range of {
		f := &files[i]
		blob, err := marshalBlob(ocispec.MediaTypeImageManifest, f.manifest())
		if err != nil {
			return nil, err
		}
		blobs = append(blobs, blob)
		if f.Platform == "" {
			continue
		}
		p, err := oci.ParsePlatform(f.Platform)
		if err != nil {
			return nil, err
		}
		blob.desc.Platform, blob.desc.ArtifactType = &p, TypeFile
		index.Manifests = append(index.Manifests, blob.desc)
	}
	if len(index.Manifests) == 0 {
		return blobs, nil
	}
	slices.SortFunc(index.Manifests, func(a, b ocispec.Descriptor) int {
		return cmp.Compare(oci.FormatPlatform(*a.Platform), oci.FormatPlatform(*b.Platform))
	})
	blob, err := marshalBlob(ocispec.MediaTypeImageIndex, index)
	return append(blobs, blob), err
}

func (f *CargoFile) manifest() ocispec.Manifest {
	title := map[string]string{ocispec.AnnotationTitle: f.Name}
	layer := f.Content()
	layer.Annotations = title // by which oras names the file
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: TypeFile,
		Config: ocispec.DescriptorEmptyJSON, Layers: []ocispec.Descriptor{layer},
		Annotations: map[string]string{ocispec.AnnotationTitle: f.Name, annotationMode: cmp.Or(f.Mode, defaultMode)},
	}
	return m
}

// Content returns the blob that is the file. Its size and its digest are those of the definition.
func (f *CargoFile) Content() ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaTypeFile, Digest: digest.NewDigestFromEncoded(digest.SHA256, f.SHA256), Size: f.Size}
}

// Content returns the blob that is the packed chart.
func (c *CargoChart) Content() ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaTypeChart, Digest: digest.NewDigestFromEncoded(digest.SHA256, c.SHA256), Size: c.Size}
}

// PackedChart is a chart in the form in which repositories have it.
type PackedChart struct {
	// Data is a tar with gzip, and Metadata its Chart.yaml as JSON.
	Data, Metadata []byte
	// Name, Version and Description are those of the metadata.
	Name, Version, Description string
}

// Pack writes a packed chart as helm push does, sets the fields that a build sets and returns the chart's lock.
func (c *CargoChart) Pack(ctx context.Context, store content.Pusher, packed *PackedChart) (images.Lock, error) {
	c.Chart, c.Version = cmp.Or(c.Chart, packed.Name), packed.Version
	c.SHA256, c.Size = digest.FromBytes(packed.Data).Encoded(), int64(len(packed.Data))
	if path.Base(c.Chart) != packed.Name || !chartName.MatchString(packed.Name) {
		return nil, fmt.Errorf("chart %s is called %q in its Chart.yaml: registries need a name of lower-case letters, digits, dots and dashes", c.Origin(), packed.Name)
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: content.NewDescriptorFromBytes(mediaTypeChartConfig, packed.Metadata), Layers: []ocispec.Descriptor{c.Content()},
		Annotations: map[string]string{ocispec.AnnotationTitle: packed.Name, ocispec.AnnotationVersion: packed.Version},
	}
	if packed.Description != "" {
		m.Annotations[ocispec.AnnotationDescription] = packed.Description
	}
	if err := errors.Join(pushBytes(ctx, store, m.Config, packed.Metadata), pushBytes(ctx, store, m.Layers[0], packed.Data)); err != nil {
		return nil, err
	}
	blob, err := marshalBlob(ocispec.MediaTypeImageManifest, m)
	if err == nil {
		err = pushBytes(ctx, store, blob.desc, blob.data)
	}
	if err != nil {
		return nil, err
	}
	c.Artifact = blob.desc.Digest.String()
	locked, err := c.lock()
	return images.Lock{locked}, err
}

// lock locks the artifact of the chart.
func (c *CargoChart) lock() (images.Locked, error) {
	return lockCargo(chartsRepository+path.Base(c.Chart), c.Tag(), digest.Digest(c.Artifact))
}

// packedName is what the packed chart is called where it is fetched to, as helm pull names it.
func (c *CargoChart) packedName() string {
	return fmt.Sprintf("%s-%s.tgz", path.Base(c.Chart), c.Version)
}

// CheckManifest returns an error unless the manifest of the chart's artifact holds the packed chart and nothing else.
// Any other would be an image that goes by the name of a chart.
func (c *CargoChart) CheckManifest(m *oci.Manifest) error {
	want := c.Content()
	if m.Config != nil && m.Config.MediaType == mediaTypeChartConfig && len(m.Layers) == 1 {
		if got := m.Layers[0]; got.MediaType == want.MediaType && got.Digest == want.Digest && got.Size == want.Size {
			return nil
		}
	}
	return fmt.Errorf("chart %s: manifest %s does not hold the packed chart %s", c.packedName(), c.Artifact, want.Digest)
}

// checkChartManifests holds the manifests of a bundle's charts to its definition, as far as they are there.
func (c *Content) checkChartManifests(ctx context.Context, store ReadStore) error {
	if c.Bundle == nil {
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for i := range c.Bundle.Spec.Charts {
		chart := &c.Bundle.Spec.Charts[i]
		group.Go(func() error {
			m, err := readSmallManifest(ctx, store, chart.Artifact)
			if errors.Is(err, errdef.ErrNotFound) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("chart %s: %w", chart.packedName(), err)
			}
			return chart.CheckManifest(m)
		})
	}
	return group.Wait()
}

// readSmallManifest reads a manifest by its digest.
func readSmallManifest(ctx context.Context, store ReadStore, of string) (*oci.Manifest, error) {
	desc, err := store.Resolve(ctx, of)
	if err != nil {
		return nil, err
	}
	if desc.Digest.String() != of {
		return nil, fmt.Errorf("got %s for %s: %w", desc.Digest, of, content.ErrMismatchedDigest)
	}
	if desc.Size > oci.MaxManifest {
		return nil, fmt.Errorf("manifest %s has %d bytes, the limit is %d: %w", of, desc.Size, oci.MaxManifest, oci.ErrTooLarge)
	}
	_, budget := oci.WithBudget(ctx) // several are read at once
	if err := budget.Take(desc.Size); err != nil {
		return nil, err
	}
	defer budget.Release(desc.Size)
	data, err := content.FetchAll(ctx, store, desc)
	if err != nil {
		return nil, err
	}
	return oci.ParseManifest(data)
}

// lockCargo locks an artifact under a name that no registry has.
func lockCargo(repository, tag string, artifact digest.Digest) (images.Locked, error) {
	image, err := name.NewDigest(repository + "@" + artifact.String())
	if err != nil {
		return images.Locked{}, err
	}
	reference := image.Name()
	if tag != "" {
		reference = repository + ":" + tag
	}
	return images.Locked{Image: image, Reference: reference}, nil
}

// jsonBlob is a manifest as it is written.
type jsonBlob struct {
	desc ocispec.Descriptor
	data []byte
}

func marshalBlob(mediaType string, value any) (jsonBlob, error) {
	data, err := json.Marshal(value)
	return jsonBlob{content.NewDescriptorFromBytes(mediaType, data), data}, err
}

func pushBytes(ctx context.Context, store content.Pusher, desc ocispec.Descriptor, data []byte) error {
	err := store.Push(ctx, ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size}, bytes.NewReader(data))
	if err != nil && !errors.Is(err, errdef.ErrAlreadyExists) {
		return fmt.Errorf("write %s: %w", desc.Digest, err)
	}
	return nil
}
