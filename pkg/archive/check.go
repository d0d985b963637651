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

// CheckResult is what [CheckStream] found.
type CheckResult struct {
	// Manifests and Blobs count the items, Bytes is their size.
	Manifests, Blobs int
	Bytes            int64
	// Absent counts the blobs that the manifests name but the archive lacks: those of other
	// volumes, of the base, of platforms that were left out, or foreign layers.
	Absent int
	// Deltas are how many of those are there as deltas.
	Deltas int
	// Foreign counts the foreign layers, which are only at their URLs.
	Foreign int
	// Volume is the number of this volume, of Volumes; both are zero for a single file.
	Volume, Volumes int
	// Set identifies the archive; it is the same for all its volumes.
	Set string
	// Base lists what a target must have before an import.
	Base []string
	// Platforms are the platforms to which roots are limited; empty for all.
	Platforms []string
}

// checkComplete is an error where something is absent that neither a base, nor another volume, nor a
// limit to platforms accounts for: no target would take the archive.
func (c *CheckResult) checkComplete(absent []ocispec.Descriptor) error {
	if c.Volumes > 0 || len(c.Base) > 0 {
		absent = slices.DeleteFunc(absent, func(d ocispec.Descriptor) bool { return d.MediaType == octets })
	}
	if len(absent) > 0 {
		return &IncompleteError{absent}
	}
	return nil
}

// CheckStream reads an archive to its end and checks every byte of it. Errors: [ErrDamaged],
// [content.ErrMismatchedDigest], [*IncompleteError].
func CheckStream(ctx context.Context, r io.Reader, report progress.Func) (*CheckResult, error) {
	return checkStream(ctx, r, nil, report)
}

// checkStream is CheckStream with what the archive holds, where that is known before.
func checkStream(ctx context.Context, r io.Reader, held []ocispec.Descriptor, report progress.Func) (*CheckResult, error) {
	s, err := OpenStream(ctx, r)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	c := &CheckResult{Manifests: len(s.manifests), Base: s.BaseReferences(), Platforms: s.info.limitedPlatforms()}
	c.Volume, c.Volumes = s.Volumes()
	c.Set = s.info.archiveID()
	for _, data := range s.manifests {
		c.Bytes += int64(len(data))
	}
	expected := s.ListExpected()
	planned := progress.Event{Kind: progress.Planned, Items: len(s.manifests) + len(expected), Bytes: c.Bytes}
	for _, desc := range expected {
		planned.Bytes += desc.Size
	}
	if held != nil {
		expected, planned.Items, planned.Bytes = nil, len(held), 0
		for _, desc := range held {
			planned.Bytes += desc.Size
		}
	}
	report.Emit(planned)
	for d, data := range s.manifests {
		report.Emit(progress.Event{Kind: progress.Copied, Subject: d.String(), Bytes: int64(len(data))})
	}
	items := s.DescribeItems()
	for ctx.Err() == nil {
		desc, blob, err := s.NextBlob()
		if err == io.EOF {
			absent, err := s.ListLacking(ctx)
			if err != nil {
				return nil, err
			}
			for _, desc := range expected {
				if !s.seen[desc.Digest] { // only now it is known
					report.Emit(progress.Event{Kind: progress.Skipped, Subject: desc.Digest.String(), Bytes: desc.Size})
				}
			}
			c.Deltas = len(slices.DeleteFunc(s.Deltas(), func(d Delta) bool { return !s.seen[d.Blob.Digest] }))
			c.Absent, c.Foreign = len(absent), s.named.countForeign(func(d digest.Digest) bool { return s.seen[d] })
			return c, c.checkComplete(absent)
		}
		if err != nil {
			return nil, err
		}
		event := progress.Event{Kind: progress.Began, Subject: desc.Digest.String(), Detail: items[desc.Digest], Bytes: desc.Size}
		report.Emit(event)
		moved := progress.Event{Kind: progress.Moved, Subject: event.Subject}
		if _, err := io.CopyBuffer(writerFunc(func(p []byte) {
			moved.Bytes = int64(len(p))
			report.Emit(moved)
		}), blob, make([]byte, 256<<10)); err != nil {
			return nil, blobError(items, desc.Digest, err)
		}
		if desc.Size == 0 && desc.Digest != desc.Digest.Algorithm().FromBytes(nil) {
			return nil, blobError(items, desc.Digest, content.ErrMismatchedDigest)
		}
		event.Kind = progress.Copied
		report.Emit(event)
		c.Blobs++
		c.Bytes += desc.Size
	}
	return nil, ctx.Err()
}

// blobError returns the error of a blob, with what it belongs to.
func blobError(items map[digest.Digest]string, d digest.Digest, err error) error {
	if item := items[d]; item != "" {
		return fmt.Errorf("blob %s (%s): %w", d, item, err)
	}
	return fmt.Errorf("blob %s: %w", d, err)
}

// writerFunc is a writer that only looks at what is written.
type writerFunc func(p []byte)

func (f writerFunc) Write(p []byte) (int, error) {
	f(p)
	return len(p), nil
}
