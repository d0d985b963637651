package images_test

import (
	"runtime"
	"strings"
	"testing"
	"time"

	"krtpkg.dev/krtpkg/pkg/images"
	"krtpkg.dev/krtpkg/pkg/manifest"
)

// What is deep and wide takes time and memory that grow with its size, and not with its depth, too.
func TestDeepAndWide(t *testing.T) {
	t.Parallel()
	const depth = 190
	text := "a: " + strings.Repeat("[", depth) + strings.Repeat("x, ", 300_000) + "x" + strings.Repeat("]", depth) + "\n"
	file, err := manifest.Parse("a.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	if _, err := new(images.Finder).Find(file); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if took, taken := time.Since(start), after.TotalAlloc-before.TotalAlloc; took > 20*time.Second || taken > 300<<20 {
		t.Errorf("it takes %s and %d MiB", took, taken>>20)
	}
}
