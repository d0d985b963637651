package serve

import (
	"context"
	"io"
	"maps"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"
)

// Content is what a server gives out under one of its repositories, without HTTP: what was not verified is not there.
type Content struct {
	server     *Server
	repository *repository
}

// Content returns that of the repository of a root; nil if there is no root of that name.
func (s *Server) Content(name string) *Content {
	r := s.repositories[name]
	if r == nil || r.stores == nil {
		return nil
	}
	return &Content{s, r}
}

// Fetch returns content by digest.
func (c *Content) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if !c.server.isServed(desc.Digest) {
		return nil, errdef.ErrNotFound
	}
	return c.server.stores.Fetch(ctx, desc)
}

// Exists reports whether content is there.
func (c *Content) Exists(_ context.Context, desc ocispec.Descriptor) (bool, error) {
	if !c.server.isServed(desc.Digest) {
		return false, nil
	}
	_, err := c.server.stores.Stat(desc.Digest)
	return err == nil, nil
}

// Resolve finds a manifest by its tag or digest.
func (c *Content) Resolve(ctx context.Context, reference string) (ocispec.Descriptor, error) {
	return c.server.resolveReference(ctx, c.repository, reference)
}

// Predecessors returns what has a manifest as its subject.
func (c *Content) Predecessors(ctx context.Context, node ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	found, err := c.server.stores.Predecessors(ctx, node)
	return slices.DeleteFunc(found, func(desc ocispec.Descriptor) bool { return !c.server.isServed(desc.Digest) }), err
}

// Tags calls fn with the tags of roots, in order.
func (c *Content) Tags(_ context.Context, last string, fn func([]string) error) error {
	tags := maps.Clone(c.repository.tags)
	maps.DeleteFunc(tags, func(tag string, d digest.Digest) bool { return d == "" || tag <= last })
	return fn(slices.Sorted(maps.Keys(tags)))
}
