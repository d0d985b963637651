package catalog_test

import (
	"fmt"
	"path"
	"strings"
	"syscall"
	"testing"
	"time"

	"krtpkg.dev/krtpkg/pkg/catalog"
)

// large builds versions of a runtime of 60 bundles and 500 images; in each version one bundle of six is another.
func large(t testing.TB, versions int) *world {
	t.Helper()
	w := newWorld(t)
	w.images.areBare = true
	dir := t.TempDir()
	const bundles, images = 60, 500
	for v := range versions {
		runtime := fmt.Sprintf("apiVersion: krtpkg.dev/v1alpha1\nkind: Runtime\nmetadata: {name: large, version: 1.%d.0, description: A large one}\nspec:\n  bundles:\n", v)
		for b := range bundles {
			runtime += fmt.Sprintf("    - path: part-%d\n", b)
			if v > 0 && (b+v)%6 != 0 {
				continue
			}
			var manifests strings.Builder
			for i := b * images / bundles; i < (b+1)*images/bundles; i++ {
				fmt.Fprintf(&manifests, "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d-%[1]d, labels: {version: \"%[2]d\"}}\nspec:\n  selector: {matchLabels: {app: d-%[1]d}}\n"+
					"  template:\n    metadata: {labels: {app: d-%[1]d}}\n    spec: {containers: [{name: main, image: \"ghcr.io/example/image-%[1]d:1.0\"}]}\n---\n", i, v)
			}
			needs := ""
			if b >= 10 {
				needs = fmt.Sprintf(", requires: [part-%d]", b-10)
			}
			w.write(dir, fmt.Sprintf("part-%d/bundle.yaml", b), fmt.Sprintf("apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: part-%d, version: 1.%d.0, description: A part of it, licenses: Apache-2.0}\n"+
				"spec: {layer: %d%s, maintainers: [{name: Somebody}], sources: [{file: all.yaml}]}\n", b, v, b/10+1, needs), fmt.Sprintf("part-%d/all.yaml", b), manifests.String())
		}
		w.write(dir, "runtime.yaml", runtime)
		w.sign(w.build(dir, fmt.Sprintf("1.%d.0", v)))
	}
	return w
}

// BenchmarkLarge makes the pages of ten versions of 60 bundles and 500 images, from a folder.
func BenchmarkLarge(b *testing.B) {
	w := large(b, 10)
	runs, began := 0, usedCPU(b)
	for b.Loop() {
		runs++
		c := w.collect(w.policy)
		total, pages := 0, 0
		if err := catalog.WriteSite(c, func(f catalog.File) error {
			if total += len(f.Data); path.Ext(f.Path) == ".html" {
				pages++
			}
			return nil
		}); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(total), "bytes")
		b.ReportMetric(float64(pages), "pages")
	}
	b.ReportMetric(float64((usedCPU(b)-began).Milliseconds())/float64(runs), "cpu-ms/op")
}

// usedCPU is how long processors have worked for this process.
func usedCPU(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
