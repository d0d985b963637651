package layout

import "golang.org/x/sys/unix"

// blockSize returns the unit of the numbers of blocks, which Bsize, the best size of a request, need not be.
func blockSize(disk *unix.Statfs_t) uint64 {
	if disk.Frsize > 0 {
		return uint64(disk.Frsize)
	}
	return uint64(disk.Bsize) // of kernels that do not tell
}
