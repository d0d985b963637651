// Package rules holds the rules of the house that a compiler does not know, as tests.
package rules

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "krtpkg.dev/krtpkg/"

// order is the house in the order in which data flows: a package imports only what stands
// below it (docs/DESIGN.md).
var order = []string{
	"cmd/krtpkg",
	"internal/cli",
	"internal/ui",
	"internal/starter",
	"internal/doctor",
	"internal/place",
	"internal/worker",
	"internal/gitcredential",
	"internal/telemetry",
	"internal/firstgc",
	"pkg/catalog",
	"pkg/site",
	"pkg/result",
	"pkg/compare",
	"pkg/deploy",
	"pkg/deploy/preflight",
	"pkg/deploy/records",
	"pkg/deploy/apiserver",
	"pkg/deploy/merge",
	"pkg/deploy/marks",
	"pkg/assemble",
	"pkg/pkgrepo",
	"pkg/resources",
	"pkg/render",
	"pkg/gate",
	"pkg/serve",
	"pkg/mirror",
	"pkg/transfer",
	"pkg/archive",
	"pkg/registry",
	"pkg/layout",
	"pkg/delta",
	"pkg/parity",
	"pkg/trust/export",
	"pkg/trust",
	"pkg/receipt",
	"pkg/sign/kms",
	"pkg/sign",
	"pkg/provenance",
	"pkg/sbom",
	"bundles",
	"pkg/bundle",
	"pkg/images",
	"pkg/source",
	"pkg/graph",
	"pkg/layers",
	"pkg/manifest",
	"pkg/progress",
	"pkg/tracing",
	"pkg/retry",
	"pkg/oci",
	"pkg/lazyregexp",
}

// only names the packages that may import a module: everything else goes through them.
var only = map[string][]string{
	"github.com/sigstore/":             {"pkg/sign", "pkg/sign/kms"},
	"carvel.dev/kapp":                  {"pkg/deploy", "pkg/deploy/preflight", "pkg/deploy/merge", "pkg/deploy/marks", "pkg/resources"},
	"k8s.io/":                          {"pkg/deploy", "pkg/deploy/preflight", "pkg/deploy/records", "pkg/deploy/apiserver", "pkg/deploy/merge", "pkg/deploy/marks", "pkg/resources"},
	"k8s.io/api/":                      {"pkg/deploy", "pkg/deploy/preflight", "pkg/deploy/records", "pkg/deploy/apiserver", "pkg/deploy/merge", "pkg/deploy/marks", "pkg/resources", "pkg/compare"},
	"k8s.io/apimachinery/":             {"pkg/deploy", "pkg/deploy/preflight", "pkg/deploy/records", "pkg/deploy/apiserver", "pkg/deploy/merge", "pkg/deploy/marks", "pkg/resources", "pkg/compare"},
	"k8s.io/component-helpers/":        {"pkg/compare"},
	"carvel.dev/ytt":                   {"pkg/render"},
	"helm.sh/helm":                     {"pkg/render"},
	"sigs.k8s.io/kustomize":            {"pkg/render"},
	"github.com/go-git":                {"pkg/source"},
	"github.com/spf13/cobra":           {"internal/cli", "pkg/deploy"}, // kapp's defaults are flags
	"go.opentelemetry.io/otel/sdk":     {"internal/telemetry"},
	"golang.org/x/term":                {"internal/ui"},
	"oras.land/oras-go/v2/content/oci": {},
	"os/exec":                          {"internal/worker", "internal/gitcredential"},
	"log":                              {"pkg/render"},   // to keep helm and kustomize off it
	"log/slog":                         {"internal/cli"}, // the gate's log as JSON
}

// forTests are packages that only tests, the demo and the benchmarks import.
var forTests = []string{"internal/hack", "internal/sigstoretest", "internal/signtest", "internal/clustertest", "internal/kappctrltest", "internal/fluxtest", "internal/argocdtest", "internal/nodetest", "internal/registrytest", "internal/imagetest", "internal/corpus", "internal/bundletest", "internal/peaktest", "internal/residenttest", "internal/runawaytest", "internal/terminaltest", "internal/browsertest", "internal/rules"}

type pkg struct {
	ImportPath string
	Imports    []string
}

func TestImports(t *testing.T) {
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		if strings.HasPrefix(name, "hack/") || slices.Contains(forTests, name) {
			continue
		}
		rank := slices.Index(order, name)
		if rank < 0 {
			t.Errorf("%s has no place in the order of packages", name)
			continue
		}
		for _, imported := range p.Imports {
			if inner, ours := strings.CutPrefix(imported, module); ours {
				if slices.Index(order, inner) <= rank {
					t.Errorf("%s imports %s, which does not stand below it", name, inner)
				}
				if strings.HasPrefix(name, "pkg/") && strings.HasPrefix(inner, "internal/") {
					t.Errorf("%s imports %s: the library knows nothing of the program", name, inner)
				}
			}
			if prefix := longestPrefix(imported); prefix != "" && !slices.Contains(only[prefix], name) {
				t.Errorf("%s imports %s, which only %v may", name, imported, only[prefix])
			}
		}
	}
}

// longestPrefix returns the prefix in only that an import falls under, the longest of several; "" for none.
func longestPrefix(imported string) (longest string) {
	for prefix := range only {
		matches := imported == prefix || strings.HasSuffix(prefix, "/") && strings.HasPrefix(imported, prefix) || strings.HasPrefix(imported, prefix+"/")
		if matches && len(prefix) > len(longest) {
			longest = prefix
		}
	}
	return longest
}

func packages(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", module+"...").Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []pkg
	decoder := json.NewDecoder(strings.NewReader(string(out)))
	for decoder.More() {
		var p pkg
		if err := decoder.Decode(&p); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < len(order) {
		t.Fatalf("only %d packages found", len(all))
	}
	return all
}
