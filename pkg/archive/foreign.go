package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/pkg/layout"
	"krtpkg.dev/krtpkg/pkg/oci"
	"krtpkg.dev/krtpkg/pkg/progress"
)

// ErrOrder reports a stream whose files are in another order than [Write] writes, as after it was
// unpacked and packed again: reading in one pass relies on the order.
var ErrOrder = errors.New("files are not in krtpkg's order, so the archive cannot be read as a stream")

// ForeignError reports that a file was not written by [WriteFile].
type ForeignError struct {
	// Is describes the file, Hint what to do with it.
	Is, Hint string
}

func (e *ForeignError) Error() string { return "file is " + e.Is }

var (
	errGzip         = &ForeignError{"compressed with gzip, which krtpkg does not read", "decompress it with gunzip first"}
	errParityVolume = &ForeignError{"a parity volume, from which other volumes are restored", "name one of the other volumes: krtpkg finds this one next to it"}
	errDockerSave   = &ForeignError{"an archive of docker save or podman save, not of krtpkg export", "krtpkg reads archives of krtpkg export; push single images with docker load and docker push, and build with --image-mirror"}
)

// dockerLayer is what docker save calls layers, some of which are links.
var dockerLayer = regexp.MustCompile(`^[0-9a-f]{64}(/layer)?\.?(tar|json)?$`)

// isDockerSave reports whether an archive without a layout is docker's, by the names in it.
func isDockerSave(seen map[string]bool) bool { return seen["manifest.json"] || seen["repositories"] }

// MadeBy returns the name of the tool that wrote the layout, or "" for krtpkg.
func (s *Store) MadeBy() string {
	switch {
	case s.info.hasOrder:
		return ""
	case s.dockerManifest:
		return "docker save, podman save or ctr images export"
	}
	return "another tool, such as skopeo or oras"
}

// detectManifests finds out which entries are manifests where they are not in the order in which krtpkg
// writes them.
func (s *Store) detectManifests(ctx context.Context) error {
	if s.inOrder {
		inOrder := true
		for d := range s.manifests {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			isManifest, err := s.looksLikeManifest(d)
			if err != nil {
				return err
			}
			inOrder = inOrder && isManifest
		}
		if inOrder {
			return nil
		}
	}
	found := map[digest.Digest]bool{}
	for d := range s.blobs {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		isManifest, err := s.looksLikeManifest(d)
		if err != nil {
			return err
		}
		if isManifest {
			found[d] = true
		}
	}
	switch {
	case len(found) == s.info.named:
		s.manifests = found
	case !s.inOrder:
		return fmt.Errorf("has %d manifests, but %s declares %d: %w", len(found), ocispec.ImageIndexFile, s.info.named, ErrDamaged)
	}
	return nil // what stands where manifests should is what is wrong
}

func (s *Store) looksLikeManifest(d digest.Digest) (bool, error) {
	at := s.blobs[d]
	if at.size > oci.MaxManifest || at.size == 0 {
		return false, nil
	}
	begin := make([]byte, 1)
	if _, err := at.file.ReadAt(begin, at.offset); err != nil || begin[0] != '{' && begin[0] != ' ' && begin[0] != '\n' {
		return false, err
	}
	data := make([]byte, at.size)
	if _, err := at.file.ReadAt(data, at.offset); err != nil {
		return false, err
	}
	return oci.IsManifest(layout.MediaTypeOf(data)), nil
}

// CheckFile is [CheckStream] for a file, which may have its entries in any order. If the file has parity and is damaged, it
// returns [*DamageError] even where all can be healed.
func CheckFile(ctx context.Context, name string, report progress.Func) (*CheckResult, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if damage, err := surveyFile(ctx, name, report); err != nil || damage != nil {
		return nil, errors.Join(err, asError(damage))
	}
	var held []ocispec.Descriptor
	// What cannot be opened, such as a compressed archive, is told by reading it.
	if store, err := openAlone(ctx, name); err == nil {
		held = store.ListContents()
		if err := store.Close(); err != nil {
			return nil, err
		}
	}
	c, err := checkStream(ctx, file, held, report)
	if !errors.Is(err, ErrOrder) {
		return c, err
	}
	store, err := openAlone(ctx, name)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	return store.checkContents(ctx, report)
}

// checkContents reads all that is there.
func (s *Store) checkContents(ctx context.Context, report progress.Func) (*CheckResult, error) {
	c := &CheckResult{Base: s.BaseReferences(), Volumes: s.Volumes(), Volume: s.info.volume, Set: s.info.archiveID(), Platforms: s.info.limitedPlatforms()}
	contents := s.ListContents()
	planned := progress.Event{Kind: progress.Planned, Items: len(contents)}
	for _, desc := range contents {
		planned.Bytes += desc.Size
	}
	report.Emit(planned)
	for _, desc := range contents {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err := s.verifyBlob(ctx, desc); err != nil {
			return nil, fmt.Errorf("blob %s: %w", desc.Digest, err)
		}
		report.Emit(progress.Event{Kind: progress.Copied, Subject: desc.Digest.String(), Bytes: desc.Size})
		c.Bytes += desc.Size
		if s.manifests[desc.Digest] {
			c.Manifests++
		} else {
			c.Blobs++
		}
	}
	named, err := s.namedContent(ctx)
	if err != nil {
		return nil, err
	}
	absent := named.listLacking(s.info, s.hasBlob)
	c.Absent, c.Foreign = len(absent), named.countForeign(s.hasBlob)
	c.Deltas = len(slices.DeleteFunc(named.listDeltas(), func(d Delta) bool { return !s.hasBlob(d.Blob.Digest) }))
	return c, c.checkComplete(absent)
}

func (s *Store) hasBlob(d digest.Digest) bool {
	_, ok := s.blobs[d]
	return ok
}

func (s *Store) verifyBlob(ctx context.Context, desc ocispec.Descriptor) error {
	body, err := s.Fetch(ctx, desc)
	if err != nil {
		return err
	}
	defer body.Close()
	verified := content.NewVerifyReader(body, desc)
	if _, err := io.Copy(io.Discard, verified); err != nil {
		return err
	}
	return verified.Verify()
}
