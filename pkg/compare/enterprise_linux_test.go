package compare_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"krtpkg.dev/krtpkg/internal/bundletest"
	"krtpkg.dev/krtpkg/pkg/assemble"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/compare"
	"krtpkg.dev/krtpkg/pkg/layout"
	"krtpkg.dev/krtpkg/pkg/source"
)

// builds gives each image the digest of one of its builds.
type builds string

func (b builds) Resolve(_ context.Context, ref name.Reference) (ocispec.Descriptor, error) {
	desc := content.NewDescriptorFromBytes(ocispec.MediaTypeImageIndex, []byte(string(b)+ref.Name()))
	if pinned, is := ref.(name.Digest); is {
		desc.Digest = digest.Digest(pinned.DigestStr())
	}
	return desc, nil
}

// BenchmarkEnterprise opens and compares two versions of the largest ready runtime, 35 bundles, of which each differs: with
// it all images, and so all workloads.
func BenchmarkEnterprise(b *testing.B) {
	workspace := bundletest.CopyDefinitions(b)
	store, err := layout.Create(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	build := func(images builds) ocispec.Descriptor {
		built, err := assemble.Build(b.Context(), filepath.Join(workspace, "runtimes/enterprise"), assemble.Options{
			Store: store, Images: images, Sources: source.Fetcher{Mirrors: bundletest.CorpusMirrors(b)},
		})
		if err != nil {
			b.Fatal(err)
		}
		return built.Descriptor
	}
	before := build("first ")
	definitions, err := filepath.Glob(filepath.Join(workspace, "*/*/*/bundle.yaml"))
	if err != nil {
		b.Fatal(err)
	}
	for _, file := range definitions {
		text, err := os.ReadFile(file)
		if err == nil {
			err = os.WriteFile(file, []byte(strings.Replace(string(text), "  description: ", "  description: Next, ", 1)), 0o600)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	after := build("second ")
	runs, began := 0, usedCPU(b)
	for b.Loop() {
		runs++
		old, err := bundle.OpenSet(b.Context(), store, before)
		if err != nil {
			b.Fatal(err)
		}
		current, err := bundle.OpenSet(b.Context(), store, after)
		if err != nil {
			b.Fatal(err)
		}
		compared, err := compare.Compare(b.Context(), compare.Version{Set: old}, compare.Version{Set: current})
		if err != nil {
			b.Fatal(err)
		}
		if len(compared.Bundles) < 35 || len(compared.Unrendered) > 0 || len(compared.Resources) < 50 {
			b.Fatalf("%d bundles, %d resources, not rendered: %v", len(compared.Bundles), len(compared.Resources), compared.Unrendered)
		}
		b.ReportMetric(float64(len(compared.Bundles)), "bundles")
		b.ReportMetric(float64(len(compared.Resources)), "changes")
	}
	b.ReportMetric(float64((usedCPU(b)-began).Milliseconds())/float64(runs), "cpu-ms/op")
}

// usedCPU is how long processors have worked for this process, which does not depend on others as the time by the clock
// does.
func usedCPU(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
