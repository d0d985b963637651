package serve

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/oci"
)

// closure is what belongs to roots that were verified: what they name, and what is attached to any of it.
type closure map[digest.Digest]bool

// addSet adds a root with its bundles and their images, as far as they are there.
func (s *Server) addSet(ctx context.Context, c closure, set *bundle.Set) error {
	for _, d := range listManifests(set) {
		if err := s.addManifest(ctx, c, d, 0); err != nil {
			return err
		}
	}
	return nil
}

// listManifests returns the manifests of a root, its bundles and their images.
func listManifests(set *bundle.Set) []digest.Digest {
	all := []digest.Digest{set.Root.Descriptor.Digest}
	for _, b := range set.Bundles {
		all = append(all, b.Descriptor.Digest)
		for _, locked := range b.Images.Merge(b.Cargo) {
			all = append(all, digest.Digest(locked.Image.DigestStr()))
		}
	}
	return all
}

// maxNesting limits how deep manifests refer to each other.
const maxNesting = 8

// addManifest adds a manifest, what it refers to and what is attached to it.
func (s *Server) addManifest(ctx context.Context, c closure, d digest.Digest, depth int) error {
	if c[d] {
		return nil
	}
	c[d] = true
	m, err := s.readManifest(ctx, d, depth)
	if err != nil || m == nil {
		return err
	}
	for _, blob := range m.Blobs() {
		c[blob.Digest] = true
	}
	for _, next := range m.Manifests {
		if err := s.addManifest(ctx, c, next.Digest, depth+1); err != nil {
			return err
		}
	}
	return s.addAttached(ctx, c, d, depth)
}

// readManifest reads a manifest; it returns nil for what is not here, or not a manifest.
func (s *Server) readManifest(ctx context.Context, d digest.Digest, depth int) (*oci.Manifest, error) {
	if depth > maxNesting {
		return nil, fmt.Errorf("manifest %s: manifests refer to each other over %d levels", d, maxNesting)
	}
	size, err := s.stores.Stat(d)
	if errors.Is(err, errdef.ErrNotFound) || err == nil && size > maxManifest {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	desc, err := s.stores.Resolve(ctx, d.String())
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", d, err)
	}
	data, err := content.FetchAll(ctx, s.stores, desc)
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", d, err)
	}
	m, err := oci.ParseManifest(data)
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", d, err)
	}
	return m, nil
}

// blobSizes are the sizes of blobs by the manifests of roots and their images.
type blobSizes map[digest.Digest]int64

// listBlobs returns the blobs that roots need, without what is attached to them: anybody can attach something.
func (s *Server) listBlobs(ctx context.Context, roots []openedRoot) (blobSizes, error) {
	sizes, seen := blobSizes{}, map[digest.Digest]bool{}
	for _, root := range roots {
		for _, d := range listManifests(root.set) {
			if err := s.addBlobs(ctx, sizes, seen, d, 0); err != nil {
				return nil, err
			}
		}
	}
	return sizes, nil
}

// addBlobs adds the blobs of a manifest and of those that it refers to.
func (s *Server) addBlobs(ctx context.Context, sizes blobSizes, seen map[digest.Digest]bool, d digest.Digest, depth int) error {
	if seen[d] {
		return nil
	}
	seen[d] = true
	m, err := s.readManifest(ctx, d, depth)
	if err != nil || m == nil {
		return err
	}
	for _, blob := range m.Blobs() {
		sizes[blob.Digest] = blob.Size
	}
	for _, next := range m.Manifests {
		if err := s.addBlobs(ctx, sizes, seen, next.Digest, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// addAttached adds what is attached to a manifest, as a referrer or by cosign's tags. A bundle or a runtime is not
// attached to anything: it would have to be verified itself.
func (s *Server) addAttached(ctx context.Context, c closure, d digest.Digest, depth int) error {
	found, err := s.stores.Predecessors(ctx, ocispec.Descriptor{Digest: d})
	if err != nil {
		return err
	}
	for _, suffix := range []string{"", ".sig", ".att", ".sbom"} {
		desc, err := s.stores.Resolve(ctx, strings.Replace(d.String(), ":", "-", 1)+suffix)
		if err != nil && !errors.Is(err, errdef.ErrNotFound) {
			return err
		}
		if err == nil {
			found = append(found, desc)
		}
	}
	for _, desc := range found {
		switch desc.ArtifactType {
		case bundle.TypeRuntime, bundle.TypeBundle, bundle.TypeCatalogue:
			continue
		}
		if err := s.addManifest(ctx, c, desc.Digest, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// isServed reports whether content may be given out: all of it if nothing was verified.
func (s *Server) isServed(d digest.Digest) bool { return s.verified == nil || s.verified[d] }

// isServedTag reports it of a tag that attaches something to a digest.
func (s *Server) isServedTag(tag string) bool {
	hex, _, _ := strings.Cut(strings.TrimPrefix(tag, "sha256-"), ".")
	return s.isServed(digest.NewDigestFromEncoded(digest.SHA256, hex))
}
