package transfer

import (
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// diskTarget is a target on a disk.
type diskTarget interface {
	// CheckSpace returns an error if there is less free space than is needed to write blobs. Those that are there need none, and
	// what an earlier attempt has left of one counts.
	CheckSpace(blobs []ocispec.Descriptor) error
}

// checkSpace returns an error if a target on a disk has too little free space for the blobs that it lacks.
func checkSpace(dst any, blobs []ocispec.Descriptor) error {
	disk, ok := dst.(diskTarget)
	if !ok {
		return nil
	}
	if err := disk.CheckSpace(blobs); err != nil {
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
