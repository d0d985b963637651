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
	all := []digest.Digest{set.Root.Descriptor.Digest}
	for _, b := range set.Bundles {
		all = append(all, b.Descriptor.Digest)
		for _, locked := range b.Images {
			all = append(all, digest.Digest(locked.Image.DigestStr()))
		}
	}
	for _, d := range all {
		if err := s.addManifest(ctx, c, d, 0); err != nil {
			return err
		}
	}
	return nil
}

// maxNesting limits how deep manifests refer to each other.
const maxNesting = 8

// addManifest adds a manifest, what it refers to and what is attached to it.
func (s *Server) addManifest(ctx context.Context, c closure, d digest.Digest, depth int) error {
	if c[d] {
		return nil
	}
	if depth > maxNesting {
		return fmt.Errorf("manifest %s: manifests refer to each other over %d levels", d, maxNesting)
	}
	c[d] = true
	size, err := s.stores.Stat(d)
	if errors.Is(err, errdef.ErrNotFound) || err == nil && size > maxManifest {
		return nil // not here, or not a manifest
	}
	if err != nil {
		return err
	}
	desc, err := s.stores.Resolve(ctx, d.String())
	if err != nil {
		return fmt.Errorf("manifest %s: %w", d, err)
	}
	data, err := content.FetchAll(ctx, s.stores, desc)
	if err != nil {
		return fmt.Errorf("manifest %s: %w", d, err)
	}
	m, err := oci.ParseManifest(data)
	if err != nil {
		return fmt.Errorf("manifest %s: %w", d, err)
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
