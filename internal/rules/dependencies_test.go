package rules

import (
	"os"
	"os/exec"
	"path"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/semver"
	"gopkg.in/yaml.v3"
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
	// Others could not "go install" a version of this module, nor would they get what is built here.
	if len(mod.Replace)+len(mod.Exclude) > 0 {
		t.Error("go.mod replaces or excludes modules")
	}
	for _, r := range mod.Require {
		// Modules of one project share a line, where all but the first go by their last name.
		if !r.Indirect && !strings.Contains(string(text), r.Mod.Path) && !strings.Contains(string(text), ", "+path.Base(r.Mod.Path)) {
			t.Errorf("%s has no line in docs/DEPENDENCIES.md", r.Mod.Path)
		}
	}
}

// Tests mean the same Kubernetes on a control plane that was downloaded, and on one that was compiled: its minor version.
func TestControlPlaneVersions(t *testing.T) {
	read := func(name string) []byte {
		t.Helper()
		data, err := os.ReadFile(path.Join("../../hack/cluster", name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	mod, err := modfile.Parse("go.mod", read("go.mod"), nil)
	if err != nil {
		t.Fatal(err)
	}
	var compiled string
	for _, r := range mod.Require {
		if r.Mod.Path == "k8s.io/kubernetes" {
			compiled = r.Mod.Version
		}
	}
	if !semver.IsValid(compiled) {
		t.Fatalf("hack/cluster requires Kubernetes %q", compiled)
	}
	var index struct {
		Releases map[string]any `yaml:"releases"`
	}
	if err := yaml.Unmarshal(read("releases.yaml"), &index); err != nil || len(index.Releases) == 0 {
		t.Fatalf("%d releases, %v", len(index.Releases), err)
	}
	for version := range index.Releases {
		if semver.MajorMinor(version) != semver.MajorMinor(compiled) {
			t.Errorf("releases.yaml has %s, go.mod %s", version, compiled)
		}
	}
	// What the API server says of itself is given to the linker.
	for flag := range strings.SplitSeq(string(read("ldflags")), "\n") {
		if _, version, ok := strings.Cut(flag, ".gitVersion="); ok && version != compiled {
			t.Errorf("ldflags has %q, go.mod %s", flag, compiled)
		}
	}
}

// Each module of the graph was published, so that "go list -m all" and "go doc" work from an empty module cache, here
// and for modules that require this one (internal/modules).
func TestModulesArePublished(t *testing.T) {
	list := exec.Command("go", "list", "-m", "all")
	var stderr strings.Builder
	list.Stderr = &stderr
	out, err := list.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	modules := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(modules) < 100 {
		t.Fatalf("only %d modules", len(modules))
	}
	for _, m := range modules {
		if strings.HasSuffix(m, " v0.0.0") {
			t.Errorf("%s was never published: require a version that was, in internal/modules", m)
		}
	}
}
