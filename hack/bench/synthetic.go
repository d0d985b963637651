package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/internal/layout"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/images"
)

// synthetic writes a runtime of so many bundles of tiny images, no two alike, into a folder.
func synthetic(ctx context.Context, dir string, bundles int) error {
	store, err := layout.Create(dir)
	if err != nil {
		return err
	}
	var packed []ocispec.Descriptor
	for n := range bundles {
		desc, err := syntheticBundle(ctx, store, n)
		if err != nil {
			return err
		}
		packed = append(packed, desc)
	}
	locked, err := lock("krtpkg.invalid/bundles/any", packed)
	if err != nil {
		return err
	}
	runtime := &bundle.Content{
		Runtime: &bundle.RuntimeLock{APIVersion: bundle.APIVersion, Kind: bundle.KindRuntimeLock, Metadata: bundle.Metadata{Name: "scale", Version: "1.0.0"}},
		Images:  locked,
	}
	desc, err := runtime.Pack(ctx, store, time.Time{})
	if err != nil {
		return err
	}
	return store.Tag(ctx, desc, "1.0.0")
}

func syntheticBundle(ctx context.Context, store oras.Target, n int) (ocispec.Descriptor, error) {
	var made []ocispec.Descriptor
	for i := range imagesPerBundle {
		desc, err := syntheticImage(ctx, store, n, i)
		if err != nil {
			return desc, err
		}
		made = append(made, desc)
	}
	locked, err := lock(fmt.Sprintf("registry.example/app/%d", n), made)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	c := &bundle.Content{
		Bundle: &bundle.Bundle{
			APIVersion: bundle.APIVersion, Kind: bundle.KindBundle,
			Metadata: bundle.Metadata{Name: fmt.Sprintf("bundle-%d", n), Version: "1.0.0"}, Spec: bundle.BundleSpec{Layer: 6},
		},
		Images: locked,
	}
	return c.Pack(ctx, store, time.Time{})
}

// syntheticImage pushes a manifest with a config and layers, which nobody looks into.
func syntheticImage(ctx context.Context, store oras.Target, n, i int) (ocispec.Descriptor, error) {
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for blob := range blobsPerImage {
		mediaType := ocispec.MediaTypeImageLayerGzip
		if blob == 0 {
			mediaType = ocispec.MediaTypeImageConfig
		}
		desc, err := put(ctx, store, mediaType, fmt.Appendf(nil, `{"bundle":%d,"image":%d,"blob":%d}`, n, i, blob))
		if err != nil {
			return desc, err
		}
		if blob == 0 {
			m.Config = desc
		} else {
			m.Layers = append(m.Layers, desc)
		}
	}
	data, err := json.Marshal(m)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return put(ctx, store, m.MediaType, data)
}

// put pushes what may be there already.
func put(ctx context.Context, store oras.Target, mediaType string, data []byte) (ocispec.Descriptor, error) {
	desc := content.NewDescriptorFromBytes(mediaType, data)
	err := store.Push(ctx, desc, bytes.NewReader(data))
	if errors.Is(err, errdef.ErrAlreadyExists) {
		err = nil
	}
	return desc, err
}

func lock(repository string, descs []ocispec.Descriptor) (images.Lock, error) {
	var l images.Lock
	for i, d := range descs {
		image, err := name.NewDigest(repository + "@" + d.Digest.String())
		if err != nil {
			return nil, err
		}
		l = append(l, images.Locked{Image: image, Reference: fmt.Sprintf("%s:%d", repository, i)})
	}
	return l, nil
}
