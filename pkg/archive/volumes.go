package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Split divides the contents into volumes of at most limit bytes. Each has all manifests and the
// front, so that it can be verified and checked on its own; the other blobs are distributed in
// order. A blob that is larger than a volume is an error.
func (c Contents) Split(limit int64) ([]Contents, error) {
	if c.Parity > 0 {
		return c.splitProtected(limit)
	}
	// The index is largest where it names all volumes, of which there are at most as many as
	// blobs: what is reserved for it is right for the number that comes out.
	for guess := 1; ; {
		volumes, err := c.splitVolumes(limit, guess)
		if err != nil || len(volumes) <= guess {
			return volumes, err
		}
		guess = len(volumes)
	}
}

func (c Contents) splitVolumes(limit int64, guess int) ([]Contents, error) {
	empty := c
	empty.Blobs, empty.volume = nil, guess
	for range guess {
		empty.starts = append(empty.starts, digest.FromString(""))
	}
	fixed, err := empty.Size()
	if err != nil {
		return nil, err
	}
	var volumes []Contents
	left := int64(-1)
	for _, desc := range c.Blobs {
		h, err := encodeHeader(blobPath(desc.Digest), desc.Size, nil)
		if err != nil {
			return nil, err
		}
		size := int64(len(h)) + roundUpToBlock(desc.Size)
		if fixed+size > limit {
			return nil, &VolumeSizeError{Limit: limit, Need: fixed + size, Blob: desc}
		}
		if left < size {
			left = limit - fixed
			next := c
			next.Blobs, next.volume = nil, len(volumes)+1
			volumes = append(volumes, next)
		}
		last := &volumes[len(volumes)-1]
		last.Blobs = append(last.Blobs, desc)
		left -= size
	}
	if len(volumes) == 0 {
		if fixed > limit {
			return nil, &VolumeSizeError{Limit: limit, Need: fixed}
		}
		c.volume = 1
		volumes = []Contents{c}
	}
	var starts []digest.Digest
	for _, v := range volumes {
		first := digest.Digest("")
		if len(v.Blobs) > 0 {
			first = v.Blobs[0].Digest
		}
		starts = append(starts, first)
	}
	for i := range volumes {
		volumes[i].starts = starts
	}
	return volumes, nil
}

// VolumeSizeError reports that volumes are too small for an item.
type VolumeSizeError struct {
	// Limit is the size of a volume, Need the smallest size that fits Blob, in bytes.
	Limit, Need int64
	// Blob is the item that is too large; without a digest it is the part that each volume has.
	Blob ocispec.Descriptor
}

func (e *VolumeSizeError) Error() string {
	what := "the manifests, bundles and signatures, which every volume contains, do"
	if e.Blob.Digest != "" {
		what = "blob " + e.Blob.Digest.String() + " does"
	}
	return fmt.Sprintf("%s not fit on a volume of %d bytes: %d needed", what, e.Limit, e.Need)
}

// VolumeNames returns the names of the volumes of a file: edge.tar has edge.1-of-3.tar and so on.
func VolumeNames(name string, n int) []string {
	stem, ext := name, ""
	for _, known := range []string{".tar.zst", ".tar"} {
		if rest, ok := strings.CutSuffix(name, known); ok {
			stem, ext = rest, known
			break
		}
	}
	names := make([]string, n)
	width := len(strconv.Itoa(n))
	for i := range names {
		names[i] = fmt.Sprintf("%s.%0*d-of-%d%s", stem, width, i+1, n, ext)
	}
	return names
}

// volumePattern matches the names that [VolumeNames] returns.
var volumePattern = regexp.MustCompile(`^(.*)\.([0-9]+)-of-([0-9]+)(\.tar(?:\.zst)?)$`)

// maxVolumes is how many volumes are looked for next to one.
const maxVolumes = 10_000

// Siblings returns the names of all volumes of an archive, given the name of one of them.
// It reports false if name is not the name of a volume.
func Siblings(name string) ([]string, bool) {
	parts := volumePattern.FindStringSubmatch(name)
	if parts == nil {
		return nil, false
	}
	n, err := strconv.Atoi(parts[3])
	if err != nil || n < 1 || n > maxVolumes {
		return nil, false
	}
	names := VolumeNames(parts[1]+parts[4], n)
	return names, slices.Contains(names, name)
}

// OpenSet opens an archive. If it is a volume, it also opens the others next to it ([AddSiblings]). It
// returns the errors of [Open].
func OpenSet(ctx context.Context, name string) (*Store, error) {
	names, err := AddSiblings(name)
	if err != nil {
		return nil, err
	}
	return Open(ctx, names...)
}

// AddSiblings adds to the names of volumes those of the same archives that are next to them, under the
// names that an export gives them. Other names stay as they are.
func AddSiblings(names ...string) ([]string, error) {
	// Volumes of parity are found next to the others.
	all := slices.DeleteFunc(slices.Clone(names), IsParityVolume)
	if len(all) == 0 {
		all = slices.Clone(names)
	}
	named := map[string]bool{}
	for _, name := range names {
		named[filepath.Clean(name)] = true
	}
	for _, name := range names {
		siblings, _ := Siblings(name)
		for _, sibling := range siblings {
			if named[filepath.Clean(sibling)] {
				continue
			}
			named[filepath.Clean(sibling)] = true
			if _, err := os.Lstat(sibling); err == nil {
				all = append(all, sibling)
			} else if !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
		}
	}
	return all, nil
}

// AbsentVolumesError reports that required volumes of an archive are missing.
type AbsentVolumesError struct {
	// Volumes are their numbers from 1, in order; Of is how many the archive has.
	Volumes []int
	Of      int
	// Near lists existing files.
	Near []string

	cause error
}

func (e *AbsentVolumesError) Error() string {
	verb := " is "
	if len(e.Volumes) > 1 {
		verb = " are "
	}
	text := FormatVolumes(e.Volumes) + " of " + strconv.Itoa(e.Of) + verb + "missing"
	if len(e.Near) > 0 {
		text += " (present: " + strings.Join(e.Near, ", ") + ")"
	}
	return text
}

func (e *AbsentVolumesError) Unwrap() error { return e.cause }

// FormatVolumes names volumes by their numbers, "volume 2" or "volumes 1, 3-5".
func FormatVolumes(numbers []int) string {
	if len(numbers) == 1 {
		return "volume " + formatNumbers(numbers)
	}
	return "volumes " + formatNumbers(numbers)
}

// formatNumbers writes numbers with ranges, "1, 3-5".
func formatNumbers(numbers []int) string {
	var parts []string
	for i := 0; i < len(numbers); {
		k := i
		for k+1 < len(numbers) && numbers[k+1] == numbers[k]+1 {
			k++
		}
		if k > i {
			parts = append(parts, fmt.Sprintf("%d-%d", numbers[i], numbers[k]))
		} else {
			parts = append(parts, strconv.Itoa(numbers[i]))
		}
		i = k + 1
	}
	return strings.Join(parts, ", ")
}

// setBlobs are the blobs of volumes.
type setBlobs struct {
	blobSections
	set *Store
}

// Fetch returns content. For content of a volume that was not opened it returns
// [*AbsentVolumesError].
func (b setBlobs) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	content, err := b.blobSections.Fetch(ctx, desc)
	if err != nil {
		err = b.set.explainAbsence(desc.Digest, err)
	}
	return content, err
}

// explainAbsence names the volume that would have a blob which was not found.
func (s *Store) explainAbsence(d digest.Digest, cause error) error {
	absent := s.AbsentVolumes()
	if n := s.VolumeOf(d); n == 0 || !slices.Contains(absent, n) {
		return cause
	}
	near := make([]string, 0, len(s.files))
	for _, file := range s.files {
		near = append(near, filepath.Base(file.Name()))
	}
	return fmt.Errorf("%s: %w", d, &AbsentVolumesError{Volumes: absent, Of: s.Volumes(), Near: near, cause: cause})
}
