package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/result"
	"krtpkg.dev/krtpkg/pkg/sign"
)

// imageReader reads what a place has of images: each digest once, whatever versions and bundles it is of.
type imageReader struct {
	store Store
	// budget is that of all places.
	budget *oci.Budget

	known map[string]*knownImage
	// bundles are the sizes of what the manifests of bundles and roots need, by their digests.
	bundles map[string]map[digest.Digest]int64
}

// knownImage is an image with the sizes of all that it is made of.
type knownImage struct {
	result.CatalogImage
	items map[digest.Digest]int64
	// isCargo is set for a file or a chart that a bundle carries, of which only the size is of interest.
	isCargo bool
	// isReported is set once its problem was.
	isReported bool
	// listed is how many manifests its indexes list.
	listed int
}

const (
	// maxImageLevels is how deep indexes are nested.
	maxImageLevels = 4
	// maxImageManifests is how many manifests indexes of an image list: each is a request.
	maxImageManifests = 1000
)

func newImageReader(store Store, budget *oci.Budget) *imageReader {
	return &imageReader{store: store, budget: budget, known: map[string]*knownImage{}, bundles: map[string]map[digest.Digest]int64{}}
}

// readImages reads the images of a version that are not known. Its error is that of the context.
func (r *imageReader) readImages(ctx context.Context, set *bundle.Set) error {
	r.addArtifact(set.Root)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, b := range set.Bundles {
		r.addArtifact(b)
		for i, image := range slices.Concat(b.Images.DistinctImages(), b.Cargo.DistinctImages()) {
			d := image.DigestStr()
			if r.known[d] != nil {
				continue
			}
			one := &knownImage{isCargo: i >= len(b.Images.DistinctImages()), CatalogImage: result.CatalogImage{Digest: d, Platforms: []string{}, Attached: []sign.Claim{}}, items: map[digest.Digest]int64{}}
			r.known[d] = one
			group.Go(func() error { return r.readImage(ctx, one) })
		}
	}
	return group.Wait()
}

// addArtifact notes what the manifest of a root or a bundle takes.
func (r *imageReader) addArtifact(a *bundle.Artifact) {
	items := map[digest.Digest]int64{a.Descriptor.Digest: a.Descriptor.Size, a.Manifest.Config.Digest: a.Manifest.Config.Size}
	for _, layer := range a.Manifest.Layers {
		items[layer.Digest] = layer.Size
	}
	r.bundles[a.Descriptor.Digest.String()] = items
}

// readImage reads an image. What cannot be read is told of it, and is not an error.
func (r *imageReader) readImage(ctx context.Context, image *knownImage) error {
	desc, err := r.store.Resolve(ctx, image.Digest)
	if errors.Is(err, errdef.ErrNotFound) {
		image.Absent = true
		return nil
	}
	if err == nil && desc.Digest.String() != image.Digest {
		err = fmt.Errorf("got %s: %w", desc.Digest, content.ErrMismatchedDigest)
	}
	if err == nil {
		err = r.readTree(ctx, image, desc, nil, 0)
	}
	if err == nil && !image.isCargo {
		image.Attached, err = r.listAttached(ctx, desc)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		// What was read until then is less than there is.
		image.Problem, image.Platforms, image.items = err.Error(), []string{}, nil
		return nil
	}
	for _, size := range image.items {
		image.Bytes += size
	}
	slices.Sort(image.Platforms)
	image.Platforms = slices.Compact(image.Platforms)
	return nil
}

// listAttached returns what is attached to an image, without what it holds.
func (r *imageReader) listAttached(ctx context.Context, desc ocispec.Descriptor) ([]sign.Claim, error) {
	found, err := sign.ListClaims(ctx, r.store, desc)
	if err != nil {
		return []sign.Claim{}, err
	}
	var size int64
	for i := range found {
		c := &found[i]
		c.Annotations = nil // of an image they are of no interest
		if !isReport(c.PredicateType) {
			c.Predicate = nil
		}
		size += int64(len(c.Predicate)) + claimMemory(c)
	}
	if err := r.budget.Take(size); err != nil {
		return []sign.Claim{}, err
	}
	return append([]sign.Claim{}, found...), nil
}

const (
	// memoryPerItem is about what an item of an image takes in memory.
	memoryPerItem = 128
	// memoryPerClaim is about what a claim takes without its texts.
	memoryPerClaim = 400
)

// claimMemory returns about what a claim takes in memory without its predicate.
func claimMemory(c *sign.Claim) int64 {
	texts := len(c.KeyID) + len(c.Subject) + len(c.Issuer) + len(c.Reference) + len(c.PredicateType) + len(c.Problem)
	return int64(memoryPerClaim+texts) + valueMemory(c.Annotations)
}

// valueMemory returns about what decoded JSON takes in memory.
func valueMemory(value any) (bytes int64) {
	const perValue = 48
	switch v := value.(type) {
	case string:
		return perValue + int64(len(v))
	case map[string]any:
		for key, one := range v {
			bytes += perValue + int64(len(key)) + valueMemory(one)
		}
	case []any:
		for _, one := range v {
			bytes += valueMemory(one)
		}
	}
	return perValue + bytes
}

// readTree reads a manifest and those that it lists. Platform is what an index says of it.
func (r *imageReader) readTree(ctx context.Context, image *knownImage, desc ocispec.Descriptor, platform *ocispec.Platform, level int) error {
	if _, seen := image.items[desc.Digest]; seen {
		return nil
	}
	if level > maxImageLevels {
		return fmt.Errorf("%s: indexes in more than %d levels", desc.Digest, maxImageLevels)
	}
	if desc.Size > oci.MaxManifest {
		return fmt.Errorf("%s: the manifest has %d bytes, the limit is %d", desc.Digest, desc.Size, oci.MaxManifest)
	}
	data, err := content.FetchAll(ctx, r.store, desc)
	if err != nil {
		return fmt.Errorf("%s: %w", desc.Digest, err)
	}
	m, err := oci.ParseManifest(data)
	if err != nil {
		return fmt.Errorf("%s: %w", desc.Digest, err)
	}
	blobs := m.Blobs()
	if err := r.budget.Take(int64(1+len(blobs)+len(m.Manifests)) * memoryPerItem); err != nil {
		return err
	}
	if image.listed += len(m.Manifests); image.listed > maxImageManifests {
		return fmt.Errorf("indexes list more than %d manifests: %w", maxImageManifests, oci.ErrTooLarge)
	}
	image.items[desc.Digest] = desc.Size
	for _, blob := range blobs {
		image.items[blob.Digest] = max(blob.Size, 0)
	}
	for _, next := range m.Manifests {
		// A registry that is cleaned by tags loses these, and keeps the index.
		there, err := r.store.Resolve(ctx, next.Digest.String())
		if errors.Is(err, errdef.ErrNotFound) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", next.Digest, err)
		}
		if err := r.readTree(ctx, image, there, next.Platform, level+1); err != nil {
			return err
		}
	}
	if len(m.Manifests) > 0 {
		return nil
	}
	if platform == nil && m.Config != nil && m.Config.Size <= oci.MaxManifest {
		if platform, err = r.readPlatform(ctx, *m.Config); err != nil {
			return err
		}
	}
	image.addPlatform(platform)
	return nil
}

// readPlatform returns what the config of an image says; nil if it says nothing.
func (r *imageReader) readPlatform(ctx context.Context, config ocispec.Descriptor) (*ocispec.Platform, error) {
	data, err := content.FetchAll(ctx, r.store, config)
	if err != nil {
		return nil, fmt.Errorf("config %s: %w", config.Digest, err)
	}
	var p ocispec.Platform
	if json.Unmarshal(data, &p) != nil {
		return nil, nil // an artifact other than an image
	}
	return &p, nil
}

func (image *knownImage) addPlatform(p *ocispec.Platform) {
	if p != nil && p.OS != "" && p.OS != "unknown" {
		image.Platforms = append(image.Platforms, p.OS+"/"+p.Architecture)
	}
}

// platformsOf returns those of an image; nil if they are not known.
func (r *imageReader) platformsOf(digest string) []string {
	if image := r.known[digest]; image != nil && image.Problem == "" {
		return image.Platforms
	}
	return nil
}

// listProblems returns why images of a version could not be read, each digest once.
func (r *imageReader) listProblems(set *bundle.Set) (problems []error) {
	for _, b := range set.Bundles {
		for _, locked := range slices.Concat(b.Images, b.Cargo) {
			image := r.known[locked.Image.DigestStr()]
			if image != nil && image.Problem != "" && !image.isReported {
				image.isReported = true
				problems = append(problems, fmt.Errorf("image %s: %s", locked.Reference, image.Problem))
			}
		}
	}
	return problems
}

// listImages returns all images that were read, by digest, and drops the reports that are attached to them.
func (r *imageReader) listImages() []result.CatalogImage {
	var all []result.CatalogImage
	for _, d := range slices.Sorted(maps.Keys(r.known)) {
		if r.known[d].isCargo {
			continue
		}
		image := r.known[d].CatalogImage
		for i := range image.Attached {
			r.budget.Release(int64(len(image.Attached[i].Predicate)))
			image.Attached[i].Predicate = nil
		}
		all = append(all, image)
	}
	return all
}

// itemsOf returns the sizes of all that images, bundles and roots are made of; nil if one of them is not in the place.
func (r *imageReader) itemsOf(digests []string) map[digest.Digest]int64 {
	all := map[digest.Digest]int64{}
	for _, d := range digests {
		items := r.bundles[d]
		if items == nil {
			image := r.known[d]
			if image == nil || image.Absent || image.Problem != "" {
				return nil
			}
			items = image.items
		}
		maps.Copy(all, items)
	}
	return all
}

// sizeFunc returns the bytes of images and bundles of a version, or nil where not all of them are in the place.
func (r *imageReader) sizeFunc() func(digests ...string) *int64 {
	return func(digests ...string) *int64 {
		items := r.itemsOf(digests)
		if items == nil {
			return nil
		}
		var total int64
		for _, size := range items {
			total += size
		}
		return &total
	}
}

// digestsOf returns the digests of a version, its bundles, its images, and the files that these carry.
func digestsOf(set *bundle.Set) []string {
	all := []string{set.Root.Descriptor.Digest.String()}
	for _, b := range set.Bundles {
		all = append(all, b.Descriptor.Digest.String())
		for _, image := range slices.Concat(b.Images.DistinctImages(), b.Cargo.DistinctImages()) {
			all = append(all, image.DigestStr())
		}
	}
	return all
}

// measureCarry returns what a site has to get of a version that has another; nil if not all is in the place.
func (r *imageReader) measureCarry(before, after *bundle.Set) *result.Carry {
	has, wanted := r.itemsOf(digestsOf(before)), r.itemsOf(digestsOf(after))
	if has == nil || wanted == nil {
		return nil
	}
	c := &result.Carry{Base: []string{before.Root.Metadata().Version}, Items: int64(len(wanted))}
	for d, size := range wanted {
		c.Bytes += size
		if _, there := has[d]; !there {
			c.CopiedItems++
			c.CopiedBytes += size
		}
	}
	return c
}
