package cli_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/hack/docs/reference"
	"krtpkg.dev/krtpkg/internal/cli"
)

// TestReferenceIsCurrent: docs/cli is what the commands say of themselves now.
func TestReferenceIsCurrent(t *testing.T) {
	t.Setenv("HOME", "/home/somebody")
	dir := t.TempDir()
	markdown, manual := filepath.Join(dir, "cli"), filepath.Join(dir, "man")
	if err := reference.Write(cli.NewCommand(), markdown, manual); err != nil {
		t.Fatal(err)
	}
	const recorded = "../../docs/cli"
	want, have := readPages(t, markdown), readPages(t, recorded)
	for name, text := range want {
		if have[name] != text {
			t.Errorf("%s is not current: run make docs", filepath.Join("docs/cli", name))
		}
	}
	for name := range have {
		if _, is := want[name]; !is {
			t.Errorf("%s is of no command: run make docs", filepath.Join("docs/cli", name))
		}
	}
	if page := readPages(t, manual)["krtpkg-apply.1"]; !strings.Contains(page, ".SH EXAMPLE") || !strings.Contains(page, "--allow-unsigned") {
		t.Errorf("the manual page of apply:\n%s", page)
	}
}

func readPages(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, entry := range entries {
		data, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[entry.Name()] = string(data)
	}
	return files
}
