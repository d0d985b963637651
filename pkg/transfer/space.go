package transfer

import (
	"context"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
)

// diskTarget is a target on a disk.
type diskTarget interface {
	content.ReadOnlyStorage
	// CheckSpace returns an error if there is less free space than is needed.
	CheckSpace(needed int64) error
}

// checkSpace returns an error if a target on a disk has too little free space for the blobs that it lacks.
func checkSpace(ctx context.Context, dst content.ReadOnlyStorage, blobs []ocispec.Descriptor) error {
	disk, ok := dst.(diskTarget)
	if !ok {
		return nil
	}
	needed := int64(0)
	for _, desc := range blobs {
		there, err := disk.Exists(ctx, desc)
		if err != nil {
			return fmt.Errorf("target %s: look for %s: %w", storeName(dst), desc.Digest, err)
		}
		if !there {
			needed += desc.Size
		}
	}
	if err := disk.CheckSpace(needed); err != nil {
		return fmt.Errorf("write to %s: %w", storeName(dst), err)
	}
	return nil
}

func descriptorsOf(list []topManifest) (all []ocispec.Descriptor) {
	for _, t := range list {
		all = append(all, t.desc)
	}
	return all
}
