package archive

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/pkg/progress"
)

// Checked is what [Check] found.
type Checked struct {
	// Manifests and Blobs are how many there are, Bytes how many they have.
	Manifests, Blobs int
	Bytes            int64
	// Absent are how many of the blobs that the manifests name are not there: those of other
	// volumes, of the base, of platforms that were left out, or foreign layers.
	Absent int
	// Foreign are how many foreign layers are not there, but at their URLs.
	Foreign int
	// Volume is which of Volumes this is; zeros where there is only one.
	Volume, Volumes int
	// Set is the same for all volumes of an archive.
	Set string
	// Base names what a target has to hold before.
	Base []string
	// Platforms are those to which roots are limited; none where all are there.
	Platforms []string
}

// complete is an error where something is absent that neither a base, nor another volume, nor a
// limit to platforms accounts for: no target would take the archive.
func (c *Checked) complete(absent []ocispec.Descriptor) error {
	if c.Volumes > 0 || len(c.Base) > 0 {
		absent = slices.DeleteFunc(absent, func(d ocispec.Descriptor) bool { return d.MediaType == octets })
	}
	if len(absent) > 0 {
		return &IncompleteError{absent}
	}
	return nil
}

// Check reads an archive to its end and checks every byte of it. Errors: [ErrDamaged],
// [content.ErrMismatchedDigest], [*IncompleteError].
func Check(ctx context.Context, r io.Reader, report progress.Func) (*Checked, error) {
	s, err := OpenStream(r)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	c := &Checked{Manifests: len(s.manifests), Base: s.Base(), Platforms: s.about.platforms()}
	c.Volume, c.Volumes = s.Volumes()
	c.Set = s.about.set()
	for _, data := range s.manifests {
		c.Bytes += int64(len(data))
	}
	planned := progress.Event{Kind: progress.Planned, Items: len(s.manifests) + len(s.wanted.blobs), Bytes: c.Bytes}
	for _, size := range s.wanted.blobs {
		planned.Bytes += max(size, 0)
	}
	report.Emit(planned)
	for ctx.Err() == nil {
		desc, blob, err := s.Next()
		if err == io.EOF {
			absent, err := s.Lacking(ctx)
			if err != nil {
				return nil, err
			}
			c.Absent, c.Foreign = len(absent), s.wanted.foreign(func(d digest.Digest) bool { return s.seen[d] })
			return c, c.complete(absent)
		}
		if err != nil {
			return nil, err
		}
		event := progress.Event{Kind: progress.Began, Subject: desc.Digest.String(), Bytes: desc.Size}
		report.Emit(event)
		if _, err := io.Copy(io.Discard, blob); err != nil {
			return nil, fmt.Errorf("blob %s: %w", desc.Digest, err)
		}
		if desc.Size == 0 && desc.Digest != desc.Digest.Algorithm().FromBytes(nil) {
			return nil, fmt.Errorf("blob %s: %w", desc.Digest, content.ErrMismatchedDigest)
		}
		event.Kind = progress.Copied
		report.Emit(event)
		c.Blobs++
		c.Bytes += desc.Size
	}
	return nil, ctx.Err()
}
