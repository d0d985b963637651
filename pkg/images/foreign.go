package images

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	digestlib "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/progress"
)

// NoteForeign makes a resolver that notes which images have foreign layers ([oci.IsForeign]), and
// whether they come along with the image. It reads the manifest of each image, and of those in an
// index the ones for Windows and for no platform. Store holds the smaller indexes that
// [ForPlatforms] makes. Without origins it is the plain resolver.
func NoteForeign(plain Resolver, origins Origins, store content.Fetcher, notes progress.Func) Resolver {
	if origins == nil {
		return plain
	}
	return &foreignResolver{plain: plain, origins: origins, store: store, notes: notes}
}

type foreignResolver struct {
	plain   Resolver
	origins Origins
	store   content.Fetcher
	notes   progress.Func
}

// Resolve implements [Resolver].
func (r *foreignResolver) Resolve(ctx context.Context, ref name.Reference) (ocispec.Descriptor, error) {
	desc, err := r.plain.Resolve(ctx, ref)
	if err != nil {
		return desc, err
	}
	origin, _, err := r.origins.Origin(ctx, ref)
	if err != nil {
		return desc, err
	}
	f := foreignLayers{first: origin, second: r.store, layers: map[digestlib.Digest]ocispec.Descriptor{}}
	if err := f.find(ctx, desc, 0); err != nil {
		return desc, err
	}
	var copied, absent []ocispec.Descriptor
	for _, layer := range f.layers {
		has, err := origin.Exists(ctx, layer)
		if err != nil {
			return desc, err
		}
		if has {
			copied = append(copied, layer)
		} else {
			absent = append(absent, layer)
		}
	}
	if len(absent) == 1 {
		r.note(ref, "has 1 foreign layer that is not in its registry: a copy leaves it out, and nodes fetch it from %s", absent[0].URLs[0])
	} else if len(absent) > 1 {
		r.note(ref, "has %d foreign layers that are not in its registry: a copy leaves them out, and nodes fetch them from %s", len(absent), strings.Join(urls(absent), ", "))
	}
	if len(copied) == 1 {
		r.note(ref, "has 1 foreign layer, which a copy takes along: check that its license allows that")
	} else if len(copied) > 1 {
		r.note(ref, "has %d foreign layers, which a copy takes along: check that their license allows that", len(copied))
	}
	return desc, nil
}

func (r *foreignResolver) note(ref name.Reference, format string, args ...any) {
	r.notes.Emit(progress.Event{Kind: progress.Note, Subject: ref.Name(), Detail: fmt.Sprintf(format, args...)})
}

// urls returns the first of each layer's URLs, in order.
func urls(layers []ocispec.Descriptor) (list []string) {
	for _, layer := range layers {
		list = append(list, layer.URLs[0])
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// foreignLayers finds the foreign layers of an image.
type foreignLayers struct {
	first, second content.Fetcher
	layers        map[digestlib.Digest]ocispec.Descriptor
}

// maxIndexes is how deep indexes lie in each other.
const maxIndexes = 4

func (f *foreignLayers) find(ctx context.Context, desc ocispec.Descriptor, depth int) error {
	data, err := f.read(ctx, desc)
	if err != nil {
		return fmt.Errorf("read manifest %s: %w", desc.Digest, err)
	}
	m, err := oci.ParseManifest(data)
	if err != nil {
		return fmt.Errorf("invalid manifest %s: %w", desc.Digest, err)
	}
	for _, layer := range m.Layers {
		if oci.IsForeign(layer) && layer.Digest.Validate() == nil {
			f.layers[layer.Digest] = layer
		}
	}
	for _, next := range m.Manifests {
		if next.Platform != nil && next.Platform.OS != "windows" || depth == maxIndexes {
			continue
		}
		// What is missing of an image is for the copy to say.
		if err := f.find(ctx, next, depth+1); err != nil && !errors.Is(err, errdef.ErrNotFound) {
			return err
		}
	}
	return nil
}

func (f *foreignLayers) read(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	if desc.Size > oci.MaxManifest {
		return nil, fmt.Errorf("%d bytes, the limit is %d", desc.Size, oci.MaxManifest)
	}
	data, err := content.FetchAll(ctx, f.first, desc)
	if errors.Is(err, errdef.ErrNotFound) {
		return content.FetchAll(ctx, f.second, desc)
	}
	return data, err
}
