package bundles_test

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/bundles"
	"krtpkg.dev/krtpkg/internal/bundletest"
	"krtpkg.dev/krtpkg/internal/hack"
	"krtpkg.dev/krtpkg/pkg/assemble"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/pkgrepo"
	"krtpkg.dev/krtpkg/pkg/render"
)

var update = flag.Bool("update", false, "write the table of ready bundles into docs/LAYERS.md")

// table collects what the tests show of each ready bundle.
type table struct {
	mu   sync.Mutex
	rows []row
	left []string // what is not shown of a bundle, and why
}

// row is a bundle's line in the table.
type row struct {
	at    string // the bundle's folder, by which rows are sorted
	cells string // all cells but the last one
	since string // the day on which the cells were last written
}

func (r row) String() string { return fmt.Sprintf("%s %s |\n", r.cells, r.since) }

// add adds the row of a bundle that was built and rendered; unkustomized is why kustomize cannot have it.
func (tb *table) add(t *testing.T, r bundles.Ready, built *assemble.Built, unkustomized string) {
	t.Helper()
	size := 0
	for _, f := range built.Files {
		size += len(f.Data)
	}
	references := map[string]bool{}
	for _, image := range built.Images {
		references[image.Reference] = true
	}
	var shown []string
	for _, what := range []struct{ name, without string }{{"kustomize", unkustomized}, {"package", unpackaged(t, built)}} {
		if !built.Bundle.HasManifests() {
			continue
		}
		if what.without == "" {
			shown = append(shown, what.name)
			continue
		}
		tb.leaveOut(r, what.name, what.without)
	}
	if n := len(built.Bundle.Spec.Files); n > 0 {
		shown = append(shown, fmt.Sprintf("%d files, by their digests", n))
	}
	where, reason := bundletest.AppliedIn(t, r)
	if where != "" {
		shown = append(shown, "cluster ("+where+")")
	} else {
		tb.leaveOut(r, "cluster", reason)
	}
	if was := bundletest.OlderVersion(r); was != "" {
		shown = append(shown, "upgrade ("+was+")")
	}
	tb.write(r, fmt.Sprint(len(references)), fmt.Sprintf("%d KiB", (size+1023)/1024), siteValueNames(t, built), strings.Join(shown, ", "))
}

// leaveOut notes what is not shown of a bundle, and why.
func (tb *table) leaveOut(r bundles.Ready, what, reason string) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	tb.left = append(tb.left, fmt.Sprintf("- %s %s, no %s: %s\n", r.Name, r.Version, what, reason))
}

// write adds a row.
func (tb *table) write(r bundles.Ready, cells ...string) {
	link := fmt.Sprintf("[%s](../bundles/%s)", r.Name, r.Path)
	tb.mu.Lock()
	defer tb.mu.Unlock()
	tb.rows = append(tb.rows, row{at: r.Path, cells: "| " + strings.Join(append([]string{link, r.Version}, cells...), " | ") + " |"})
}

// check compares the rows with those in docs/LAYERS.md, or writes them there. The day of a row stays
// what it was for as long as its other cells do.
func (tb *table) check(t *testing.T, all int) {
	t.Helper()
	if len(tb.rows) < all {
		t.Logf("docs/LAYERS.md is not compared: %d of %d bundles were built", len(tb.rows), all)
		return
	}
	root, err := hack.FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(root, "docs/LAYERS.md")
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	const head = "\n| bundle | version | images | manifests | a site's values | shown | since |\n|---|---|---|---|---|---|---|\n"
	before, after, found := strings.Cut(string(page), head)
	if !found {
		t.Fatalf("docs/LAYERS.md lacks the table's head:\n%s", head)
	}
	since := map[string]string{}
	for line := range strings.Lines(after) {
		cells, day, _ := cutLastCell(line)
		since[cells] = day
	}
	var text bytes.Buffer
	slices.SortFunc(tb.rows, func(a, b row) int { return cmp.Compare(a.at, b.at) })
	for _, r := range tb.rows {
		r.since = cmp.Or(since[r.cells], time.Now().UTC().Format(time.DateOnly))
		if _, err := time.Parse(time.DateOnly, r.since); err != nil {
			t.Errorf("%s: %v", r.at, err)
		}
		if since[r.cells] == "" && !*update {
			t.Errorf("docs/LAYERS.md lacks this row:\n%s", r)
		}
		text.WriteString(r.String())
	}
	slices.Sort(tb.left)
	text.WriteString("\n" + strings.Join(tb.left, ""))
	switch {
	case *update:
		if err := os.WriteFile(file, []byte(before+head+text.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	case after != text.String():
		t.Error("the table in docs/LAYERS.md is outdated: run go test ./bundles -run TestReadyBundlesBuild -update")
	}
}

// cutLastCell parts a line of a table before its last cell.
func cutLastCell(line string) (cells, last string, found bool) {
	line = strings.TrimSuffix(strings.TrimSpace(line), " |")
	i := strings.LastIndex(line, " | ")
	if i < 0 {
		return line, "", false
	}
	return line[:i+2], line[i+3:], true
}

// unpackaged returns why kapp-controller gets no package of the bundle; empty if it does.
func unpackaged(t *testing.T, built *assemble.Built) string {
	t.Helper()
	image, err := name.NewDigest("site.example/krt@" + built.Descriptor.Digest.String())
	if err != nil {
		t.Fatal(err)
	}
	files, left, err := pkgrepo.PackageFiles(t.Context(), "all", []pkgrepo.Bundle{{Content: built.Content, Image: image}}, time.Time{})
	switch {
	case err != nil:
		t.Fatal(err)
	case len(files) == 0 && built.Bundle.HasManifests() && (len(left) != 1 || left[0].Reason == ""):
		t.Error("no package, and no reason")
	}
	if len(left) > 0 {
		return left[0].Reason
	}
	return ""
}

// siteValueNames lists what a site may set, or has to, as schemas of the bundle's own have it. A chart
// that the target renders takes the rest.
func siteValueNames(t *testing.T, built *assemble.Built) string {
	t.Helper()
	own, definition := *built.Content, *built.Bundle
	own.Bundle = &definition
	isChart := func(s bundle.Source) bool { return s.AtTarget() && s.Template == bundle.TemplateHelm }
	definition.Spec.Sources = slices.DeleteFunc(slices.Clone(definition.Spec.Sources), isChart)
	schema, err := render.ValuesSchemas(t.Context(), &own)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	if schema != nil {
		names = leaves(schema, "")
	}
	if slices.ContainsFunc(built.Bundle.Spec.Sources, isChart) {
		names = append(names, "those of its chart")
	} else if schema != nil && len(names) == 0 {
		t.Error("its schema has no properties")
	}
	return strings.Join(names, ", ")
}

// leaves returns the paths of the properties in a schema that have none themselves.
func leaves(schema *yaml.Node, at string) (names []string) {
	if all := manifest.GetValue(schema, "allOf"); all != nil {
		for _, each := range all.Content {
			names = append(names, leaves(each, at)...)
		}
		return names
	}
	properties := manifest.GetValue(schema, "properties")
	if properties == nil || len(properties.Content) == 0 {
		return []string{"`" + at + "`"}
	}
	for i := 0; i < len(properties.Content); i += 2 {
		names = append(names, leaves(properties.Content[i+1], strings.TrimPrefix(at+"."+properties.Content[i].Value, "."))...)
	}
	return names
}
