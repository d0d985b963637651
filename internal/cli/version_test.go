package cli

import (
	"bytes"
	"os"
	"runtime/debug"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"
)

// TestVersionReport: the libraries are those of go.mod, so that a new major version is not forgotten.
func TestVersionReport(t *testing.T) {
	data, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	module, err := modfile.Parse("go.mod", data, nil)
	if err != nil {
		t.Fatal(err)
	}
	info := &debug.BuildInfo{Settings: []debug.BuildSetting{
		{Key: "vcs.revision", Value: "0123456789"}, {Key: "vcs.time", Value: "2026-01-02T03:04:05Z"}, {Key: "vcs.modified", Value: "true"},
	}}
	for _, required := range module.Require {
		info.Deps = append(info.Deps, &debug.Module{Path: required.Mod.Path, Version: required.Mod.Version})
	}
	report := newVersionReport(info)
	for path, name := range shownLibraries {
		if !strings.HasPrefix(report.Libraries[name], "v") {
			t.Errorf("%s is not in go.mod", path)
		}
	}
	var out bytes.Buffer
	writeVersion(&out, report)
	for _, want := range []string{"commit                0123456789 (modified)\n", "date                  2026-01-02T03:04:05Z\n", "\n  kapp  "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("want %q in\n%s", want, out.String())
		}
	}
}
