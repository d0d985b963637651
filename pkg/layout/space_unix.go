//go:build linux || darwin

package layout

import (
	"os"

	"golang.org/x/sys/unix"
)

// freeSpace returns how many bytes may be written to the disk of a folder, if the system tells.
func freeSpace(folder string) (free int64, known bool) {
	var disk unix.Statfs_t
	if err := unix.Statfs(folder, &disk); err != nil {
		return 0, false
	}
	blocks := disk.Bavail
	if os.Geteuid() == 0 {
		blocks = disk.Bfree // what is reserved for root, too
	}
	if disk.Blocks == 0 || blocks > disk.Blocks {
		return 0, false // some network file systems have no figures, or wrong ones
	}
	return countBytes(blocks, blockSize(&disk)), true
}
