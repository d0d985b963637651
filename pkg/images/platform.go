package images

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/progress"
)

// Origins knows where an image comes from: a store, and the reference it has there.
type Origins interface {
	Origin(ctx context.Context, image name.Reference) (oras.ReadOnlyTarget, string, error)
}

// ForPlatforms makes a resolver that restricts multi-platform images to some platforms
// (os/arch or os/arch/variant): to the one manifest that is left, or to a smaller index,
// which goes into the store. Either has another digest than upstream's index, which
// upstream's signatures do not cover; each such image is noted. Without platforms it is the
// plain resolver.
func ForPlatforms(plain Resolver, origins Origins, store content.Storage, platforms []string, notes progress.Func) (Resolver, error) {
	if len(platforms) == 0 {
		return plain, nil
	}
	r := &platformResolver{origins: origins, store: store, notes: notes}
	for _, text := range platforms {
		p, err := v1.ParsePlatform(text)
		if err != nil || p.OS == "" || p.Architecture == "" {
			return nil, fmt.Errorf("platform %q: want os/arch or os/arch/variant", text)
		}
		r.platforms = append(r.platforms, *p)
	}
	return r, nil
}

type platformResolver struct {
	origins   Origins
	store     content.Storage
	platforms []v1.Platform
	notes     progress.Func
}

// Resolve implements [Resolver].
func (r *platformResolver) Resolve(ctx context.Context, ref name.Reference) (ocispec.Descriptor, error) {
	origin, reference, err := r.origins.Origin(ctx, ref)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	whole, err := origin.Resolve(ctx, reference)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	switch whole.MediaType {
	case ocispec.MediaTypeImageIndex, "application/vnd.docker.distribution.manifest.list.v2+json":
	default:
		return whole, nil // one platform, whichever it is
	}
	if whole.Size > oci.MaxManifest {
		return ocispec.Descriptor{}, fmt.Errorf("index of %d bytes is over the limit of %d", whole.Size, oci.MaxManifest)
	}
	raw, err := content.FetchAll(ctx, origin, whole)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	restricted, err := r.restrict(ctx, whole, raw)
	if err == nil && restricted.Digest != whole.Digest {
		r.notes.Emit(progress.Event{
			Kind: progress.Note, Subject: ref.Name(),
			Detail: fmt.Sprintf("is locked to %s as %s: upstream's index is %s, and its signatures do not cover this digest",
				r.wanted(), restricted.Digest, whole.Digest),
		})
	}
	return restricted, err
}

func (r *platformResolver) wanted() string {
	names := make([]string, len(r.platforms))
	for i, p := range r.platforms {
		names[i] = p.String()
	}
	return strings.Join(names, ", ")
}

func (r *platformResolver) restrict(ctx context.Context, whole ocispec.Descriptor, raw []byte) (ocispec.Descriptor, error) {
	var index ocispec.Index
	if err := oci.Unmarshal(raw, &index); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("invalid index %s: %w", whole.Digest, err)
	}
	var kept []ocispec.Descriptor
	var has []string
	for _, m := range index.Manifests {
		if m.Platform == nil {
			continue
		}
		p := v1.Platform{OS: m.Platform.OS, Architecture: m.Platform.Architecture, Variant: m.Platform.Variant}
		has = append(has, p.String())
		for _, want := range r.platforms {
			if p.Satisfies(want) {
				kept = append(kept, m)
				break
			}
		}
	}
	switch {
	case len(kept) == 0:
		return ocispec.Descriptor{}, fmt.Errorf("it is not there for %s, only for %s", r.wanted(), strings.Join(has, ", "))
	case len(kept) == len(index.Manifests):
		return whole, nil
	case len(kept) == 1:
		return kept[0], nil
	}
	index.Manifests = kept
	smaller, err := json.Marshal(index)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc := content.NewDescriptorFromBytes(whole.MediaType, smaller)
	if err := r.store.Push(ctx, desc, bytes.NewReader(smaller)); err != nil && !errors.Is(err, errdef.ErrAlreadyExists) {
		return ocispec.Descriptor{}, err
	}
	return desc, nil
}
