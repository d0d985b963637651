package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What another system lacks is found in programs, in tests and in tests of another package, and nothing where it exists.
func TestCheckPlatform(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":              "module example.com/x\n\ngo 1.24\n",
		"x.go":                "package x\n\nimport \"syscall\"\n\nfunc F() { syscall.Umask(0) }\n",
		"x_test.go":           "package x\n\nimport \"syscall\"\n\nvar _ = syscall.Mkfifo\n",
		"sub/sub.go":          "package sub\n",
		"sub/outside_test.go": "package sub_test\n\nimport (\n\t_ \"example.com/x/sub\"\n\t\"syscall\"\n)\n\nfunc g() { syscall.Kill(1, 0) }\n",
		"sub/sub_unix.go":     "//go:build unix\n\npackage sub\n\nimport \"syscall\"\n\nvar _ = syscall.Umask\n",
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	if _, err := checkPlatform("darwin/arm64"); err != nil {
		t.Errorf("darwin: %v", err)
	}
	_, err := checkPlatform("windows/amd64")
	if err == nil {
		t.Fatal("nothing is found")
	}
	for _, want := range []string{"x.go:5:20: undefined: syscall.Umask", "x_test.go:5:17: undefined: syscall.Mkfifo", "outside_test.go:8:20: undefined: syscall.Kill"} {
		if strings.Count(err.Error(), want) == 0 {
			t.Errorf("not found: %s, in\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "sub_unix") {
		t.Errorf("a file that is not for windows:\n%v", err)
	}
	if _, err := checkPlatform("windows"); err == nil {
		t.Error("half a platform is accepted")
	}
}
