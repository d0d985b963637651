package rules

import (
	"os"
	"path"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"
)

// Each direct dependency has a line in docs/DEPENDENCIES.md.
func TestDependenciesAreExplained(t *testing.T) {
	data, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	mod, err := modfile.Parse("go.mod", data, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../../docs/DEPENDENCIES.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range mod.Require {
		// Modules of one project share a line, where all but the first go by their last name.
		if !r.Indirect && !strings.Contains(string(text), r.Mod.Path) && !strings.Contains(string(text), ", "+path.Base(r.Mod.Path)) {
			t.Errorf("%s has no line in docs/DEPENDENCIES.md", r.Mod.Path)
		}
	}
}
