package layout

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/bits"
	"os"
	"path/filepath"
	"syscall"

	"github.com/dustin/go-humanize"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"
)

// SpaceError reports that a disk has too little free space for what is to be written. It is a [syscall.ENOSPC].
type SpaceError struct {
	Folder       string
	Needed, Free int64
}

func (e *SpaceError) Error() string {
	return fmt.Sprintf("%s needed, %s free in %s: %v", humanize.IBytes(uint64(e.Needed)), humanize.IBytes(uint64(e.Free)), e.Folder, syscall.ENOSPC)
}

// Unwrap returns [syscall.ENOSPC].
func (e *SpaceError) Unwrap() error { return syscall.ENOSPC }

// CheckSpace returns a [*SpaceError] if the disk of a folder, which need not exist yet, has less free space than is needed.
// Where the system does not tell, it returns nil.
func CheckSpace(folder string, needed int64) error {
	folder = filepath.Clean(folder)
	for at := folder; ; at = filepath.Dir(at) {
		if _, err := os.Stat(at); errors.Is(err, fs.ErrNotExist) && at != filepath.Dir(at) {
			continue
		}
		free, known := freeSpace(at)
		if known && free < needed {
			return &SpaceError{Folder: folder, Needed: needed, Free: free}
		}
		return nil
	}
}

// CheckSpace returns a [*SpaceError] if the layout's disk has less free space than [Store.Push] needs to write blobs. It
// counts what the layout has, and what an interrupted push left to go on from.
func (s *Store) CheckSpace(blobs []ocispec.Descriptor) error {
	needed := int64(0)
	for _, desc := range blobs {
		lacking, err := s.lackingBytes(desc)
		if err != nil {
			return fmt.Errorf("look for %s: %w", desc.Digest, err)
		}
		needed += min(lacking, math.MaxInt64-needed)
	}
	return CheckSpace(s.folder.dir, needed)
}

// lackingBytes returns how many bytes of a blob have to be written.
func (s *Store) lackingBytes(desc ocispec.Descriptor) (int64, error) {
	_, err := folderBlobs{s.folder}.Stat(desc.Digest)
	if err == nil {
		return 0, nil
	}
	if !errors.Is(err, errdef.ErrNotFound) {
		return 0, err
	}
	if info, err := s.folder.statRegular(partialPath(desc.Digest)); err == nil {
		return max(0, desc.Size-info.Size()), nil
	}
	return max(0, desc.Size), nil
}

// countBytes returns how many bytes some blocks of a disk have, at most [math.MaxInt64]: some network file systems report that
// they have no end.
func countBytes(blocks, size uint64) int64 {
	high, low := bits.Mul64(blocks, size)
	if high > 0 || low > math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(low)
}
