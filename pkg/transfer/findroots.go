package transfer

import (
	"context"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/oci"
)

// FindRoots returns the bundles and runtimes that an archive or a layout names, with their tags.
func FindRoots(ctx context.Context, store oras.ReadOnlyGraphTarget) (sources []Source, err error) {
	tags, ok := store.(tagLister)
	if !ok {
		return nil, fmt.Errorf("%s cannot list its content", storeName(store))
	}
	byDigest := map[digest.Digest]int{}
	err = tags.Tags(ctx, "", func(page []string) error {
		for _, tag := range page {
			if strings.ContainsAny(tag, "/:") || strings.HasPrefix(tag, "sha256-") {
				continue // an image or an attached manifest
			}
			desc, err := store.Resolve(ctx, tag)
			if err != nil {
				return err
			}
			if desc.ArtifactType == "" {
				if desc, err = withArtifactType(ctx, store, desc); err != nil {
					return err
				}
			}
			if desc.ArtifactType != bundle.TypeBundle && desc.ArtifactType != bundle.TypeRuntime {
				continue
			}
			at, known := byDigest[desc.Digest]
			if !known {
				at = len(sources)
				byDigest[desc.Digest] = at
				sources = append(sources, Source{Store: store, Root: desc})
			}
			sources[at].Tags = append(sources[at].Tags, tag)
		}
		return nil
	})
	if err == nil && len(sources) == 0 {
		err = fmt.Errorf("%s contains no bundle or runtime", storeName(store))
		if maker, ok := store.(interface{ MadeBy() string }); ok && maker.MadeBy() != "" {
			err = fmt.Errorf("%w: %w", err, &archive.ForeignError{
				Is: "a layout that was written by " + maker.MadeBy(), Hint: "krtpkg reads archives of krtpkg export; push single images with skopeo copy, crane push or docker push",
			})
		}
	}
	return sources, err
}

func withArtifactType(ctx context.Context, store content.Fetcher, desc ocispec.Descriptor) (ocispec.Descriptor, error) {
	if !oci.IsManifest(desc.MediaType) {
		return desc, nil
	}
	data, err := readManifest(ctx, store, desc)
	if err != nil {
		return desc, err
	}
	m, err := oci.ParseManifest(data)
	desc.ArtifactType = m.ArtifactType
	return desc, err
}
