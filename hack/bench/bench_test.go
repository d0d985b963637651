package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/internal/cli"
	"krtpkg.dev/krtpkg/internal/hack"
)

// asBench makes the test binary the benchmark, which starts itself for the floor and for its images.
const asBench = "KRTPKG_TEST_BENCH"

// The test binary is krtpkg too, by its name.
func TestMain(m *testing.M) {
	switch {
	case filepath.Base(os.Args[0]) == "krtpkg":
		cli.Main()
	case os.Getenv(asBench) != "":
		main()
	default:
		os.Exit(m.Run())
	}
}

// A job that needs a control plane or the network, or that takes a minute, is not run by tests.
func TestJobs(t *testing.T) {
	hack.SkipIfShort(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	krtpkg := filepath.Join(t.TempDir(), "krtpkg")
	if err := os.Symlink(self, krtpkg); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		job  string
		rows int
	}{
		{"bundle", 9},
		{"mirror", 23},
		{"verify", 4},
		{"scale", 12},
		{"gate", 6},
	} {
		t.Run(test.job, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(self, "-krtpkg", krtpkg, "-jobs", test.job, "-rounds", "1", "-scale", "0.02")
			cmd.Env = append(os.Environ(), asBench+"=1")
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			rows := slices.DeleteFunc(strings.Split(string(out), "\n"), func(line string) bool { return !strings.HasPrefix(line, "| ") })
			if len(rows) != 1+test.rows { // with the header
				t.Errorf("the table has %d rows with its header, want %d:\n%s", len(rows), 1+test.rows, out)
			}
			for _, row := range rows {
				if strings.Contains(row, "failed") && !strings.Contains(row, "skopeo") { // which few systems have
					t.Error(row)
				}
			}
		})
	}
}
