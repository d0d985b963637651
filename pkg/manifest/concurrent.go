package manifest

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// maxConcurrent is how many files are read at the same time at most. A file at the limits of [CheckSize] takes 300 MB while it
// is parsed.
const maxConcurrent = 4

// ReadConcurrently calls read with 0 to count-1, on as many processors as there are, up to four. It returns when all calls have;
// each keeps its result and its error, so that the first in the order of files can be reported.
func ReadConcurrently(count int, read func(i int)) {
	var next atomic.Int64
	var readers sync.WaitGroup
	for range min(count, runtime.GOMAXPROCS(0), maxConcurrent) {
		readers.Go(func() {
			for i := next.Add(1) - 1; i < int64(count); i = next.Add(1) - 1 {
				read(int(i))
			}
		})
	}
	readers.Wait()
}
