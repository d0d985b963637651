package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/progress"
)

// WriteImageCache writes images as the image cache of a Talos node, from which its registry answers containerd
// (github.com/siderolabs/talos: pkg/imager/cache writes it, internal/app/machined/pkg/system/services/registry reads it):
//
//	manifests/REGISTRY/REPOSITORY/reference/TAG     a manifest or an index by its tag
//	manifests/REGISTRY/REPOSITORY/digest/sha256-…   the same by its digest, and those of an index
//	blob/sha256-…                                   configs and layers
//
// A port of the registry is written _PORT_. What is there already stays if it matches its digest, so that an update adds what is new. It returns how
// many bytes were written.
func WriteImageCache(ctx context.Context, dir string, archives []NodeArchive, from content.Fetcher, report progress.Func) (written int64, err error) {
	root, err := openFolder(dir)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	c := imageCache{root: root, from: from, report: report}
	for _, a := range archives {
		manifests, err := c.writeBlobs(ctx, a)
		if err != nil {
			return c.written, err
		}
		for _, image := range a.Images {
			if err := c.writeManifests(image, manifests); err != nil {
				return c.written, err
			}
		}
	}
	return c.written, nil
}

func openFolder(dir string) (*os.Root, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return os.OpenRoot(dir)
}

type imageCache struct {
	root    *os.Root
	from    content.Fetcher
	report  progress.Func
	written int64
}

// writeBlobs writes configs and layers, and returns the manifests.
func (c *imageCache) writeBlobs(ctx context.Context, a NodeArchive) (map[digest.Digest][]byte, error) {
	manifests := map[digest.Digest][]byte{}
	for _, desc := range a.Contents.Manifests {
		data, err := content.FetchAll(ctx, c.from, desc)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", desc.Digest, err)
		}
		manifests[desc.Digest] = data
	}
	for _, desc := range a.Contents.Blobs {
		c.report.Emit(progress.Event{Kind: progress.Began, Subject: desc.Digest.String(), Bytes: desc.Size})
		if err := c.writeBlob(ctx, desc); err != nil {
			return nil, fmt.Errorf("write %s: %w", desc.Digest, err)
		}
		c.report.Emit(progress.Event{Kind: progress.Copied, Subject: desc.Digest.String(), Bytes: desc.Size})
	}
	return manifests, nil
}

// cacheName returns how the cache calls a digest, for file systems that take no colon.
func cacheName(d digest.Digest) string { return d.Algorithm().String() + "-" + d.Encoded() }

func (c *imageCache) writeBlob(ctx context.Context, desc ocispec.Descriptor) error {
	name := filepath.Join("blob", cacheName(desc.Digest))
	if isKept, err := c.hasBlob(ctx, name, desc); isKept || err != nil {
		return err
	}
	body, err := c.from.Fetch(ctx, desc)
	if err != nil {
		return err
	}
	defer body.Close()
	verified := content.NewVerifyReader(body, desc)
	return c.replaceFile(name, func(w io.Writer) error {
		if _, err := io.CopyBuffer(w, verified, make([]byte, 256<<10)); err != nil {
			return err
		}
		return verified.Verify()
	})
}

// hasBlob reports whether a blob is there, whole: the node verifies nothing.
func (c *imageCache) hasBlob(ctx context.Context, name string, desc ocispec.Descriptor) (bool, error) {
	info, err := c.root.Lstat(name)
	if err != nil || !info.Mode().IsRegular() || info.Size() != desc.Size {
		return false, nil // written, or its error shows there
	}
	file, err := c.root.Open(name)
	if err != nil {
		return false, err
	}
	defer file.Close()
	verified := content.NewVerifyReader(file, desc)
	if _, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{verified}, make([]byte, 256<<10)); err != nil {
		return false, nil // it is damaged, and replaced
	}
	return verified.Verify() == nil, ctx.Err()
}

// writeManifests writes the manifest of an image by a name of it, and what an index has below it.
func (c *imageCache) writeManifests(image NodeImage, manifests map[digest.Digest][]byte) error {
	registry := image.Registry
	if host, port, hasPort := strings.Cut(registry, ":"); hasPort {
		registry = host + "_" + port + "_"
	}
	dir := filepath.Join("manifests", registry, filepath.FromSlash(image.Repository))
	write := func(name string, data []byte) error {
		return c.replaceFile(filepath.Join(dir, name), func(w io.Writer) error {
			_, err := w.Write(data)
			return err
		})
	}
	if image.Tag != "" {
		if err := write(filepath.Join("reference", image.Tag), manifests[image.Descriptor.Digest]); err != nil {
			return err
		}
	}
	for _, d := range listBelow(image.Descriptor.Digest, manifests) {
		if err := write(filepath.Join("digest", cacheName(d)), manifests[d]); err != nil {
			return err
		}
	}
	return nil
}

// listBelow lists a manifest and those of it that are there.
func listBelow(d digest.Digest, manifests map[digest.Digest][]byte) []digest.Digest {
	if manifests[d] == nil {
		return nil
	}
	list := []digest.Digest{d}
	m, err := oci.ParseManifest(manifests[d])
	if err != nil {
		return list // cannot happen: it was parsed before
	}
	for _, next := range m.Manifests {
		if manifests[next.Digest] != nil && next.Digest != d {
			list = append(list, listBelow(next.Digest, manifests)...)
		}
	}
	return list
}

// replaceFile writes a file, which gets its name once it is whole.
func (c *imageCache) replaceFile(name string, write func(io.Writer) error) error {
	if err := c.root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	partial := name + ".partial"
	file, err := c.root.OpenFile(partial, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	counted := &countedWriter{Writer: file}
	err = write(counted)
	if err == nil {
		err = file.Sync()
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return errors.Join(err, c.root.Remove(partial))
	}
	c.written += counted.n
	return c.root.Rename(partial, name)
}

// countedWriter counts what is written.
type countedWriter struct {
	io.Writer
	n int64
}

func (w *countedWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	w.n += int64(n)
	return n, err
}
