package manifest_test

import (
	"slices"
	"sync/atomic"
	"testing"

	"krtpkg.dev/krtpkg/pkg/manifest"
)

// Each file is read once, and not more of them at the same time than the memory of a parse allows.
func TestReadConcurrently(t *testing.T) {
	t.Parallel()
	for _, count := range []int{0, 1, 2, 1000} {
		times := make([]int32, count)
		var now, most atomic.Int32
		manifest.ReadConcurrently(count, func(i int) {
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			atomic.AddInt32(&times[i], 1)
			now.Add(-1)
		})
		if slices.ContainsFunc(times, func(n int32) bool { return n != 1 }) || most.Load() > 4 {
			t.Errorf("of %d files some were read %v times, %d at once", count, slices.Compact(times), most.Load())
		}
	}
}
