// Package imagetest makes images that stand in for real ones: small, different for each
// reference, and the same bytes each time.
package imagetest

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// NewImage returns an image of one layer with one file.
func NewImage(platform v1.Platform, file string, mode int64, data []byte, config v1.Config) (v1.Image, error) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: file, Mode: mode, Size: int64(len(data))}); err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(archive.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err := mutate.AppendLayers(base, layer)
	if err != nil {
		return nil, err
	}
	full, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	full = full.DeepCopy()
	full.OS, full.Architecture, full.Variant, full.Config = platform.OS, platform.Architecture, platform.Variant, config
	return mutate.ConfigFile(image, full)
}

// Platforms are those of stand-ins.
var Platforms = []v1.Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm64"}}

// NewIndex puts an image for each of the platforms into one index.
func NewIndex(image func(v1.Platform) (v1.Image, error)) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, platform := range Platforms {
		one, err := image(platform)
		if err != nil {
			return nil, err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: one, Descriptor: v1.Descriptor{Platform: &platform}})
	}
	return index, nil
}

// StandIn returns the index that stands in for a reference.
func StandIn(reference string) (v1.ImageIndex, error) {
	return NewIndex(func(p v1.Platform) (v1.Image, error) {
		return NewImage(p, "stands-in-for", 0o644, fmt.Appendf(nil, "%s on %s\n", reference, p), v1.Config{})
	})
}

// NewSizedIndex returns a stand-in of about a size in bytes, for each of its platforms, that does not
// compress.
func NewSizedIndex(reference string, size int) (v1.ImageIndex, error) {
	return NewIndex(func(p v1.Platform) (v1.Image, error) {
		data := make([]byte, size)
		seed := sha256.Sum256(fmt.Appendf(nil, "%s on %s", reference, p))
		rand.NewChaCha8(seed).Read(data)
		return NewImage(p, "stands-in-for", 0o644, data, v1.Config{})
	})
}

// NewReleaseIndex is [NewSizedIndex] of a program of which only a few bytes differ from tag to tag.
func NewReleaseIndex(reference string, size int) (v1.ImageIndex, error) {
	ref, err := name.ParseReference(reference)
	if err != nil {
		return nil, err
	}
	return NewIndex(func(p v1.Platform) (v1.Image, error) {
		data := make([]byte, size)
		seed := sha256.Sum256(fmt.Appendf(nil, "%s on %s", ref.Context(), p))
		rand.NewChaCha8(seed).Read(data)
		copy(data[size/2:], "this is release "+ref.Identifier())
		return NewImage(p, "stands-in-for", 0o644, data, v1.Config{})
	})
}

// FillLayout puts stand-ins into the OCI layout in a folder, each tagged with its full
// reference: what --image-mirror '*=oci:FOLDER' reads.
func FillLayout(dir string, references ...string) error {
	for _, reference := range references {
		index, err := StandIn(reference)
		if err != nil {
			return err
		}
		if err := AddToLayout(dir, reference, index); err != nil {
			return err
		}
	}
	return nil
}

// AddToLayout adds an index to the layout in a folder, which is made if need be.
func AddToLayout(dir, reference string, index v1.ImageIndex) error {
	ref, err := name.ParseReference(reference)
	if err != nil {
		return err
	}
	path, err := layout.FromPath(dir)
	if err != nil {
		if path, err = layout.Write(dir, empty.Index); err != nil {
			return err
		}
	}
	return path.AppendIndex(index, layout.WithAnnotations(map[string]string{ocispec.AnnotationRefName: ref.Name()}))
}

// FillRegistry pushes stand-ins to an open registry without TLS, at HOST/PREFIX/<full name>:<tag>, what
// --image-mirror '*=HOST/PREFIX' reads.
func FillRegistry(ctx context.Context, prefix string, references ...string) error {
	for _, reference := range references {
		ref, err := name.ParseReference(reference)
		if err != nil {
			return err
		}
		index, err := StandIn(reference)
		if err != nil {
			return err
		}
		to, err := name.NewTag(prefix+"/"+ref.Context().Name()+":"+tagOf(ref), name.Insecure)
		if err != nil {
			return err
		}
		if err := remote.WriteIndex(to, index, remote.WithContext(ctx)); err != nil {
			return err
		}
	}
	return nil
}

// tagOf returns the reference's own, or one for a reference by digest.
func tagOf(ref name.Reference) string {
	if t, ok := ref.(name.Tag); ok {
		return t.TagStr()
	}
	return "by-digest"
}
