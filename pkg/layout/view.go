// Package layout is the OCI image layout (image-spec v1.1, image-layout.md) as a store for oras-go:
// [Open] a folder to read, [Create] one to write. A [View] reads a layout whatever holds its files, a
// folder or an archive: it resolves tags, lists them, and finds referrers.
package layout

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/oci"
)

// Blobs is the content of a layout, by digest.
type Blobs interface {
	content.ReadOnlyStorage
	// Stat gives the size of content, or an error that is [errdef.ErrNotFound].
	Stat(d digest.Digest) (int64, error)
}

// View is a layout to read. With its Blobs it is an [oras.land/oras-go/v2.ReadOnlyGraphTarget].
type View struct {
	Blobs
	// Index gives index.json as it is now.
	Index func() (ocispec.Index, error)
	// Name is what errors call the layout.
	Name string
}

// String returns the layout's name for messages.
func (v *View) String() string { return v.Name }

// Fetch opens content, which must have the size that its descriptor says: a file that was cut
// short is damaged, unlike a connection that broke.
func (v *View) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if size, err := v.Stat(desc.Digest); err == nil && size != desc.Size {
		return nil, fmt.Errorf("%s: %s has %d bytes, want %d: %w", v.Name, desc.Digest, size, desc.Size, content.ErrInvalidDescriptorSize)
	}
	return v.Blobs.Fetch(ctx, desc)
}

// Exists reports whether content is here whole: an index counts only with everything in it,
// since a layout, unlike a registry, takes an index before its manifests.
func (v *View) Exists(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	return v.existsWhole(ctx, desc, map[digest.Digest]bool{})
}

// existsWhole looks at each index once: a few that name one another many times would not end.
func (v *View) existsWhole(ctx context.Context, desc ocispec.Descriptor, seen map[digest.Digest]bool) (bool, error) {
	if seen[desc.Digest] {
		return true, nil // or the search would have ended
	}
	seen[desc.Digest] = true
	exists, err := v.Blobs.Exists(ctx, desc)
	if err != nil || !exists || !oci.IsIndex(desc.MediaType) {
		return exists, err
	}
	m, err := v.readManifest(ctx, desc)
	if err != nil {
		return false, err
	}
	for _, child := range m.Manifests {
		if exists, err := v.existsWhole(ctx, child, seen); err != nil || !exists {
			return exists, err
		}
	}
	return true, nil
}

// ErrAmbiguous is the error of a tag that an index gives to two manifests: which one a reader
// takes would be chance.
var ErrAmbiguous = errors.New("one tag for two manifests")

// Resolve finds a manifest by its tag or digest.
func (v *View) Resolve(ctx context.Context, reference string) (ocispec.Descriptor, error) {
	index, err := v.Index()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	// A digest means what has it, and never what an index calls so.
	isDigest := digest.Digest(reference).Validate() == nil
	found, err := v.findManifest(index, reference, func(d ocispec.Descriptor) bool {
		return d.Digest.String() == reference || !isDigest && d.Annotations[ocispec.AnnotationRefName] == reference
	})
	if same := hubName(reference); err == nil && found == nil && same != "" {
		found, err = v.findManifest(index, reference, func(d ocispec.Descriptor) bool { return hubName(d.Annotations[ocispec.AnnotationRefName]) == same })
	}
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if found != nil {
		return *found, nil
	}
	if d, err := digest.Parse(reference); err == nil {
		return v.byDigest(ctx, d)
	}
	return ocispec.Descriptor{}, fmt.Errorf("%s: tag %q: %w", v.Name, reference, errdef.ErrNotFound)
}

// hubName returns the one name of an image of Docker Hub, which has several, or empty.
func hubName(reference string) string {
	rest, ok := strings.CutPrefix(strings.TrimPrefix(reference, "index."), "docker.io/")
	switch {
	case !ok:
		return ""
	case strings.Contains(rest, "/"):
		return rest
	}
	return "library/" + rest
}

// findManifest returns the one manifest of an index that is meant, or nil.
func (v *View) findManifest(index ocispec.Index, reference string, isMeant func(ocispec.Descriptor) bool) (found *ocispec.Descriptor, err error) {
	for _, d := range index.Manifests {
		if !isMeant(d) {
			continue
		}
		if found != nil && found.Digest != d.Digest {
			return nil, fmt.Errorf("%s: tag %q names %s and %s: %w", v.Name, reference, found.Digest, d.Digest, ErrAmbiguous)
		}
		if found == nil {
			found = &ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, ArtifactType: d.ArtifactType}
		}
	}
	return found, nil
}

// byDigest describes a manifest that the index does not list, from its bytes. The error is [errdef.ErrNotFound] for what is
// not here, and for content that is not a manifest; what cannot be read may be one.
func (v *View) byDigest(ctx context.Context, d digest.Digest) (ocispec.Descriptor, error) {
	size, err := v.Stat(d)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("%s: %s: %w", v.Name, d, err)
	}
	desc := ocispec.Descriptor{Digest: d, Size: size}
	data, err := v.fetchManifest(ctx, desc)
	if err != nil && !errors.Is(err, oci.ErrTooLarge) {
		return ocispec.Descriptor{}, err
	}
	var m manifestFields
	if err != nil || oci.UnmarshalJSON(data, &m) != nil || m.guessMediaType() == "" {
		return ocispec.Descriptor{}, fmt.Errorf("%s: %s is not a manifest: %w", v.Name, d, errdef.ErrNotFound)
	}
	desc.MediaType, desc.ArtifactType = m.guessMediaType(), m.ArtifactType
	return desc, nil
}

// Predecessors lists the manifests whose subject a node is: those that the index names, and
// those of a fallback index tagged sha256-<hex> (distribution-spec v1.1, referrers tag
// schema), which other tools write into layouts too.
func (v *View) Predecessors(ctx context.Context, node ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	index, err := v.Index()
	if err != nil {
		return nil, err
	}
	candidates := slices.Clone(index.Manifests)
	fallback := strings.ReplaceAll(node.Digest.String(), ":", "-")
	for _, d := range index.Manifests {
		if d.Annotations[ocispec.AnnotationRefName] == fallback && oci.IsIndex(d.MediaType) {
			m, err := v.readManifest(ctx, d)
			if err != nil {
				return nil, err
			}
			candidates = append(candidates, m.Manifests...)
		}
	}
	found, err := v.groupBySubject(ctx, candidates)
	return found[node.Digest], err
}

// AllReferrers returns the referrers of everything that the index names, by their subjects.
func (v *View) AllReferrers(ctx context.Context) (map[digest.Digest][]ocispec.Descriptor, error) {
	index, err := v.Index()
	if err != nil {
		return nil, err
	}
	candidates := slices.Clone(index.Manifests)
	for _, d := range index.Manifests {
		if oci.IsIndex(d.MediaType) && strings.HasPrefix(d.Annotations[ocispec.AnnotationRefName], "sha256-") {
			m, err := v.readManifest(ctx, d)
			if err != nil {
				return nil, err
			}
			if candidates = append(candidates, m.Manifests...); len(candidates) > 2*oci.MaxListed {
				return nil, fmt.Errorf("%s: more than %d manifests that may be referrers: %w", v.Name, oci.MaxListed, oci.ErrTooLarge)
			}
		}
	}
	return v.groupBySubject(ctx, candidates)
}

// groupBySubject reads manifests and sorts those that have a subject by it.
func (v *View) groupBySubject(ctx context.Context, candidates []ocispec.Descriptor) (map[digest.Digest][]ocispec.Descriptor, error) {
	found := map[digest.Digest][]ocispec.Descriptor{}
	seen := map[digest.Digest]bool{}
	annotations := 0
	for _, d := range candidates {
		if seen[d.Digest] || !oci.IsManifest(d.MediaType) {
			continue
		}
		if len(seen) == oci.MaxListed {
			return nil, fmt.Errorf("%s: more than %d manifests that may be referrers: %w", v.Name, oci.MaxListed, oci.ErrTooLarge)
		}
		seen[d.Digest] = true
		m, err := v.readManifest(ctx, d)
		if err != nil {
			return nil, err
		}
		if m.Subject != nil {
			for key, value := range m.Annotations {
				annotations += len(key) + len(value)
			}
			if annotations > oci.MaxAnnotations {
				return nil, fmt.Errorf("%s: annotations of referrers have more than %d bytes: %w", v.Name, oci.MaxAnnotations, oci.ErrTooLarge)
			}
			found[m.Subject.Digest] = append(found[m.Subject.Digest], *m.describeReferrer(d))
		}
	}
	return found, nil
}

// DescribeReferrer returns how a manifest is listed as a referrer, or nil where it has no subject.
func DescribeReferrer(desc ocispec.Descriptor, manifest []byte) (*ocispec.Descriptor, error) {
	_, listed, err := ReferrerOf(desc, manifest)
	return listed, err
}

// ReferrerOf returns the digest of a manifest's subject, and how the manifest is listed as its
// referrer; both are empty where it has none.
func ReferrerOf(desc ocispec.Descriptor, manifest []byte) (digest.Digest, *ocispec.Descriptor, error) {
	var n manifestFields
	if err := oci.UnmarshalJSON(manifest, &n); err != nil || n.Subject == nil {
		return "", nil, err
	}
	return n.Subject.Digest, n.describeReferrer(desc), nil
}

// MediaTypeOf returns the media type of a manifest as its content says it, or empty where that does
// not tell.
func MediaTypeOf(manifest []byte) string {
	var n manifestFields
	var old struct {
		SchemaVersion int               `json:"schemaVersion"`
		FSLayers      []json.RawMessage `json:"fsLayers"`
	}
	if oci.UnmarshalJSON(manifest, &n) != nil || oci.UnmarshalJSON(manifest, &old) != nil {
		return ""
	}
	if old.SchemaVersion == 1 && old.FSLayers != nil {
		return oci.MediaTypeDockerSchema1
	}
	return n.guessMediaType()
}

// describeReferrer describes the manifest as the distribution-spec has it listed (v1.1, listing
// referrers).
func (n manifestFields) describeReferrer(desc ocispec.Descriptor) *ocispec.Descriptor {
	return &ocispec.Descriptor{
		MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size,
		ArtifactType: cmp.Or(n.ArtifactType, n.Config.MediaType), Annotations: n.Annotations,
	}
}

// AnnotationPlatforms is of a root in an index.json: the platforms that are there of it, as
// os/architecture[/variant], parted by commas. Manifests of an index that are for others may be
// absent then; without it nothing may.
const AnnotationPlatforms = "dev.krtpkg.platforms"

// PlatformsOf lists the platforms to which a root is limited here; none where it is whole.
func (v *View) PlatformsOf(d digest.Digest) ([]string, error) {
	index, err := v.Index()
	if err != nil {
		return nil, err
	}
	for _, entry := range index.Manifests {
		if text := entry.Annotations[AnnotationPlatforms]; entry.Digest == d && text != "" {
			return strings.Split(text, ","), nil
		}
	}
	return nil, nil
}

// Tags lists the tags in order.
func (v *View) Tags(_ context.Context, _ string, fn func([]string) error) error {
	index, err := v.Index()
	if err != nil {
		return err
	}
	var tags []string
	for _, d := range index.Manifests {
		if tag := d.Annotations[ocispec.AnnotationRefName]; tag != "" {
			tags = append(tags, tag)
		}
	}
	slices.Sort(tags)
	return fn(slices.Compact(tags))
}

// manifestFields is what manifests of every kind have in common.
type manifestFields struct {
	MediaType    string               `json:"mediaType"`
	ArtifactType string               `json:"artifactType"`
	Config       ocispec.Descriptor   `json:"config"`
	Subject      *ocispec.Descriptor  `json:"subject"`
	Manifests    []ocispec.Descriptor `json:"manifests"`
	Annotations  map[string]string    `json:"annotations"`
}

// guessMediaType returns what the manifest says it is. It need not (image-spec v1.1, manifest.md), and
// then its fields tell, if they tell of one kind only.
func (n manifestFields) guessMediaType() string {
	image, index := n.Config.Digest != "", n.Manifests != nil
	switch {
	case n.MediaType != "" || image == index:
		return n.MediaType
	case index:
		return ocispec.MediaTypeImageIndex
	}
	return ocispec.MediaTypeImageManifest
}

func (v *View) fetchManifest(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	if desc.Size > oci.MaxManifest {
		return nil, fmt.Errorf("%s: the manifest has %d bytes, the limit is %d: %w", desc.Digest, desc.Size, oci.MaxManifest, oci.ErrTooLarge)
	}
	data, err := content.FetchAll(ctx, v, desc)
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", v.Name, desc.Digest, err)
	}
	return data, nil
}

func (v *View) readManifest(ctx context.Context, desc ocispec.Descriptor) (manifestFields, error) {
	data, err := v.fetchManifest(ctx, desc)
	if err != nil {
		return manifestFields{}, err
	}
	var n manifestFields
	if err := oci.UnmarshalJSON(data, &n); err != nil {
		return manifestFields{}, fmt.Errorf("%s: manifest %s: %w", v.Name, desc.Digest, err)
	}
	return n, nil
}
