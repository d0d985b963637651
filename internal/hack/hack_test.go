package hack_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/internal/hack"
)

// A module is asked for before anything is built of it: on a machine whose module cache is empty.
func TestModuleDirDownloads(t *testing.T) {
	const module = "github.com/inconshreveable/mousetrap"
	out, err := exec.Command("go", "env", "GOMODCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	filled := strings.TrimSpace(string(out))
	if out, err := exec.Command("go", "-C", "../../hack/tools/crane", "mod", "download", module).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Setenv("GOMODCACHE", t.TempDir())
	t.Setenv("GOFLAGS", "-modcacherw") // so that the test can delete it
	t.Setenv("GOPROXY", "file://"+filepath.ToSlash(filepath.Join(filled, "cache", "download")))
	t.Setenv("GOSUMDB", "off")
	dir, err := hack.ModuleDir(t.Context(), "tools/crane", module)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "trap_windows.go")); err != nil {
		t.Errorf("ModuleDir is %q: %v", dir, err)
	}
}
