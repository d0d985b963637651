package assemble_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/pkg/assemble"
	"krtpkg.dev/krtpkg/pkg/progress"
)

// A chart that writes a key twice is built with a note, whenever it is rendered.
func TestRepeatedKeysAreNoted(t *testing.T) {
	t.Parallel()
	for _, when := range []string{"build", "target"} {
		dir := t.TempDir()
		place(t, filepath.Join(dir, "bundle.yaml"), []byte("apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: b, version: 1.0.0}\nspec: {layer: 6, sources: [{dir: chart, template: helm, render: "+when+"}]}\n"))
		place(t, filepath.Join(dir, "chart", "Chart.yaml"), []byte("apiVersion: v2\nname: c\nversion: 1.0.0\n"))
		place(t, filepath.Join(dir, "chart", "templates", "a.yaml"), []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {x: 1}\ndata: {x: '2'}\n"))
		var notes []string
		o := options()
		o.Progress = func(e progress.Event) {
			if e.Kind == progress.Note {
				notes = append(notes, strings.TrimSpace(e.Subject+" "+e.Detail))
			}
		}
		built, err := assemble.Build(t.Context(), dir, o)
		if err != nil {
			t.Fatal(err)
		}
		const want = "chart: templates/a.yaml writes the key data twice: the last one wins, as with Helm"
		if !slices.ContainsFunc(notes, func(n string) bool { return strings.HasSuffix(n, want) }) {
			t.Errorf("%s: notes %q", when, notes)
		}
		if data := string(built.Files[0].Data); when == "build" && strings.Contains(data, "x: 1") {
			t.Errorf("got\n%s", data)
		}
	}
}
