package layout

import (
	"math"
	"testing"

	"golang.org/x/sys/unix"
)

// Free space is counted in fragments, as df does, and a file system without an end is not taken for a full one.
func TestFreeBytesOfDisks(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		disk unix.Statfs_t
		want int64
	}{
		{"large requests", unix.Statfs_t{Bsize: 1 << 20, Frsize: 4096, Bavail: 10}, 40_960},
		{"no fragments", unix.Statfs_t{Bsize: 4096, Bavail: 10}, 40_960},
		{"8 EiB", unix.Statfs_t{Bsize: 4096, Frsize: 4096, Bavail: 1 << 51}, math.MaxInt64},
		{"all ones", unix.Statfs_t{Bsize: 1 << 20, Frsize: 1 << 20, Bavail: math.MaxUint64}, math.MaxInt64},
	} {
		if got := countBytes(c.disk.Bavail, blockSize(&c.disk)); got != c.want {
			t.Errorf("%s: %d bytes, want %d", c.name, got, c.want)
		}
	}
}
