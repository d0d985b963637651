package layout

import "golang.org/x/sys/unix"

// blockSize returns the unit of the numbers of blocks.
func blockSize(disk *unix.Statfs_t) uint64 { return uint64(disk.Bsize) }
