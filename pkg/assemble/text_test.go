package assemble_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/pkg/assemble"
	"krtpkg.dev/krtpkg/pkg/progress"
	"krtpkg.dev/krtpkg/pkg/render"
)

// Text that ytt templates read, and text that ytt renders, is no manifest, as kapp and ytt's own
// output have it.
func TestTextBesideTemplates(t *testing.T) {
	t.Parallel()
	for _, when := range []string{"build", "target"} {
		dir := t.TempDir()
		place(t, filepath.Join(dir, "bundle.yaml"), []byte("apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: b, version: 1.0.0}\nspec: {layer: 6, sources: [{dir: y, template: ytt, render: "+when+"}]}\n"))
		place(t, filepath.Join(dir, "y", "a.yaml"), []byte("#@ load(\"@ytt:data\", \"data\")\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  x: #@ data.read(\"raw.txt\")\n"))
		place(t, filepath.Join(dir, "y", "raw.txt"), []byte("raw: text: here\n"))
		place(t, filepath.Join(dir, "y", "README.md"), []byte("# Read me\n"))
		var notes []string
		o := options()
		o.Progress = func(e progress.Event) {
			if e.Kind == progress.Note {
				notes = append(notes, strings.TrimSpace(e.Subject+" "+e.Detail))
			}
		}
		built, err := assemble.Build(t.Context(), dir, o)
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if want := "rendered, and not applied for their names: y/raw.txt"; !slices.Contains(notes, want) {
			t.Errorf("%s: notes %q, want %q", when, notes, want)
		}
		files, err := render.RenderBundle(t.Context(), built.Content, nil, nil)
		if err != nil || len(files) != 1 || !strings.Contains(string(files[0].Data), "raw: text: here") {
			t.Errorf("%s: renders to %d files, %v", when, len(files), err)
		}
	}
}
