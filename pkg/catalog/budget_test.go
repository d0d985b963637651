package catalog_test

import (
	"errors"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/pkg/catalog"
	"krtpkg.dev/krtpkg/pkg/oci"
)

// What is attached counts while it is in memory, and no longer.
func TestPredicatesCountAgainstBudget(t *testing.T) {
	t.Parallel()
	type object = map[string]any
	large := func(text string) object { return object{"data": strings.Repeat(text, 1<<20)} }
	w := newWorld(t)
	for _, version := range []string{"1.0.0", "1.1.0"} {
		w.attest(w.buildWeb("web", version), "https://example.test/predicate", large("a"))
	}
	report := trivyReport(webImage)
	report["data"] = strings.Repeat("b", 1<<20)
	w.attest(w.resolve(webImage), typeVuln, report)
	place := func(repository string) catalog.Place {
		return catalog.Place{Name: "registry.example/krt/" + repository, Store: w.store, Roots: w.roots}
	}
	// Of each place there is the report of the image, and for a while what is attached to one version.
	ctx := oci.WithMemory(t.Context(), 5<<20)
	c, err := catalog.Collect(ctx, []catalog.Place{place("edge"), place("cloud"), place("plant")}, catalog.Options{})
	if err != nil || len(c.Runtimes) != 3 {
		t.Fatalf("collect: %v", err)
	}

	// More at once is told of the version, which then holds none of it.
	w.attest(w.roots[1].Descriptor, "https://example.test/predicate", large("c"))
	w.attest(w.roots[1].Descriptor, "https://example.test/predicate", large("d"))
	c, err = catalog.Collect(ctx, []catalog.Place{place("edge")}, catalog.Options{Policy: w.policy})
	var tooMuch *oci.BudgetError
	if !errors.As(err, &tooMuch) {
		t.Errorf("more than fits into memory: %v", err)
	}
	for _, v := range c.Runtimes[0].Versions {
		if (v.Error != nil) != (v.Version == "" || v.Version == "1.1.0") {
			t.Errorf("version %s: error %v", v.Version, v.Error)
		}
		for _, a := range v.Attestations {
			if len(a.Predicate) > 0 {
				t.Errorf("version %s keeps a predicate of %d bytes", v.Version, len(a.Predicate))
			}
		}
	}
}
