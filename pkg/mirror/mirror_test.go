package mirror_test

import (
	"slices"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/pkg/mirror"
)

// Names come from locks, and become folders and configuration on nodes: what is not a name of a
// registry is refused for every runtime.
func TestHostileNames(t *testing.T) {
	t.Parallel()
	for runtime := range mirror.Runtimes {
		for _, registry := range []string{"", ".", "..", "../x", "..:443", "/etc", "a/b", `a\b`, "a\nb", `a"b`, "a b", "-a", "a..b", "quay.io:", "quay.io:x", "[::1", "$(x)", "a@b"} {
			if files, err := mirror.ConfigFiles(runtime, mirror.Config{Mirror: "site.example/krt", Registries: []string{"quay.io", registry}}); err == nil || !strings.Contains(err.Error(), "want HOST or HOST:PORT") {
				t.Errorf("%s, %q: %v, %v", runtime, registry, files, err)
			}
		}
		for _, at := range []string{"", "/x", "..", "../x", "site.example/../x", "site.example//x", "https://site.example", "a b/c", "site.example/x\ny", `site.example/"x`, "site.example/X"} {
			if files, err := mirror.ConfigFiles(runtime, mirror.Config{Mirror: at, Registries: []string{"quay.io"}}); err == nil || !strings.Contains(err.Error(), "want REGISTRY or REGISTRY/PATH") {
				t.Errorf("%s, mirror %q: %v, %v", runtime, at, files, err)
			}
		}
		good := []string{"docker.io", "quay.io:443", "localhost:5000", "[::1]:5000", "10.0.0.1", "Registry.Example"}
		for _, at := range []string{"site.example", "site.example/", "10.0.0.1:5000/krt/edge", "[::1]:5000/a_b/c.d/e--f", "localhost"} {
			files, err := mirror.ConfigFiles(runtime, mirror.Config{Mirror: at, Registries: slices.Clone(good)})
			if err != nil || len(files) == 0 {
				t.Errorf("%s, mirror %q: %v", runtime, at, err)
			}
		}
	}
}
