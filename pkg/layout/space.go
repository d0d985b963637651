package layout

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/dustin/go-humanize"
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

// CheckSpace returns a [*SpaceError] if the layout's disk has less free space than is needed.
func (s *Store) CheckSpace(needed int64) error { return CheckSpace(s.folder.dir, needed) }
