package images

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
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
		p, err := oci.ParsePlatform(text)
		if err != nil {
			return nil, err
		}
		r.platforms = append(r.platforms, p)
	}
	if origins == nil || store == nil {
		return nil, errors.New("restrict images to platforms: origins and a store are required, neither may be nil")
	}
	return r, nil
}

type platformResolver struct {
	origins   Origins
	store     content.Storage
	platforms []ocispec.Platform
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
	if !oci.IsIndex(whole.MediaType) {
		r.noteSingle(ctx, ref, origin, whole)
		return whole, ctx.Err()
	}
	if whole.Size > oci.MaxManifest {
		return ocispec.Descriptor{}, fmt.Errorf("the index has %d bytes, the limit is %d", whole.Size, oci.MaxManifest)
	}
	raw, err := content.FetchAll(ctx, origin, whole)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	restricted, locked, err := r.restrictIndex(ctx, whole, raw)
	if err == nil && restricted.Digest != whole.Digest {
		r.note(ref, "is locked to %s as %s: upstream's index is %s, and its signatures do not cover this digest",
			platformNames(locked), restricted.Digest, whole.Digest)
	}
	lacking := slices.DeleteFunc(slices.Clone(r.platforms), func(p ocispec.Platform) bool {
		return slices.ContainsFunc(locked, func(has ocispec.Platform) bool { return oci.FormatPlatform(has) == oci.FormatPlatform(p) })
	})
	if err == nil && len(lacking) > 0 {
		r.note(ref, "has no image for %s: nodes of these platforms cannot run it", platformNames(lacking))
	}
	return restricted, err
}

// noteSingle notes the wanted platforms that an image of a single platform does not have. It notes nothing if the image
// cannot be read: the copy of it reports why.
func (r *platformResolver) noteSingle(ctx context.Context, ref name.Reference, from content.Fetcher, desc ocispec.Descriptor) {
	if desc.Size > oci.MaxManifest {
		return
	}
	raw, err := content.FetchAll(ctx, from, desc)
	if err != nil {
		return
	}
	m, err := oci.ParseManifest(raw)
	if err != nil {
		return
	}
	has, known, err := oci.ReadPlatform(ctx, from, m)
	if err != nil || !known {
		return
	}
	lacking := slices.DeleteFunc(slices.Clone(r.platforms), func(p ocispec.Platform) bool { return oci.MatchesPlatform(p, has) })
	if len(lacking) > 0 {
		r.note(ref, "has no image for %s (available: %s): nodes of other platforms cannot run it", platformNames(lacking), oci.FormatPlatform(has))
	}
}

func (r *platformResolver) note(ref name.Reference, format string, args ...any) {
	r.notes.Emit(progress.Event{Kind: progress.Note, Subject: ref.Name(), Detail: fmt.Sprintf(format, args...)})
}

func platformNames(platforms []ocispec.Platform) string {
	names := make([]string, len(platforms))
	for i, p := range platforms {
		names[i] = oci.FormatPlatform(p)
	}
	return strings.Join(names, ", ")
}

// restrictIndex leaves the wanted platforms of an index, and lists those that it has.
func (r *platformResolver) restrictIndex(ctx context.Context, whole ocispec.Descriptor, raw []byte) (restricted ocispec.Descriptor, locked []ocispec.Platform, err error) {
	var index ocispec.Index
	if err := oci.UnmarshalJSON(raw, &index); err != nil {
		return ocispec.Descriptor{}, nil, fmt.Errorf("invalid index %s: %w", whole.Digest, err)
	}
	var kept []ocispec.Descriptor
	var has []string
	found := make([]bool, len(r.platforms))
	for _, m := range index.Manifests {
		if m.Platform == nil {
			continue
		}
		has = append(has, oci.FormatPlatform(*m.Platform))
		isWanted := false
		for i, want := range r.platforms {
			if oci.MatchesPlatform(want, *m.Platform) {
				isWanted, found[i] = true, true
			}
		}
		if isWanted {
			kept = append(kept, m)
		}
	}
	for i, want := range r.platforms {
		if found[i] {
			locked = append(locked, want)
		}
	}
	switch {
	case len(kept) == 0:
		return ocispec.Descriptor{}, nil, fmt.Errorf("no image for %s (available: %s)", platformNames(r.platforms), strings.Join(has, ", "))
	case len(kept) == len(index.Manifests):
		return whole, locked, nil
	case len(kept) == 1:
		return kept[0], locked, nil
	}
	index.Manifests = kept
	smaller, err := json.Marshal(index)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	desc := content.NewDescriptorFromBytes(whole.MediaType, smaller)
	if err := r.store.Push(ctx, desc, bytes.NewReader(smaller)); err != nil && !errors.Is(err, errdef.ErrAlreadyExists) {
		return ocispec.Descriptor{}, nil, err
	}
	return desc, locked, nil
}
