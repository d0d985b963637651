// Package peaktest measures what memory work takes at its peak, in a process of its own.
package peaktest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const variable = "KRTPKG_PEAKTEST"

// result is what the other process prints.
type result struct {
	Above int64
	Err   string
}

// Run prepares files in a folder, and does the work on them in a process of its own, which runs
// the test of this name and nothing else. It returns by how many bytes the peak of the resident
// memory was above where the work started, and the error of the work.
func Run(t *testing.T, prepare func(dir string), work func(dir string) error) (above int64, err error) {
	t.Helper()
	if dir := os.Getenv(variable); dir != "" {
		start := readMemory(t, "VmRSS")
		var r result
		if err := work(dir); err != nil {
			r.Err = err.Error()
		}
		r.Above = readMemory(t, "VmHWM") - start
		data, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("%s %s\n", variable, data)
		os.Exit(0)
	}
	dir := t.TempDir()
	prepare(dir)
	var pattern []string
	for _, part := range strings.Split(t.Name(), "/") {
		pattern = append(pattern, "^"+regexp.QuoteMeta(part)+"$")
	}
	cmd := exec.Command(os.Args[0], "-test.run", strings.Join(pattern, "/"))
	cmd.Env = append(os.Environ(), variable+"="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %.2000s", err, out)
	}
	_, line, found := bytes.Cut(out, []byte(variable))
	var r result
	if line, _, _ = bytes.Cut(line, []byte("\n")); !found || json.Unmarshal(line, &r) != nil {
		t.Fatalf("no result: %.2000s", out)
	}
	if r.Err != "" {
		err = errors.New(r.Err)
	}
	return r.Above, err
}

// readMemory returns a line of /proc/self/status in bytes. The high-water mark is that of this program
// alone, unlike getrusage's, which includes the process that started it.
func readMemory(t *testing.T, key string) int64 {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(status), "\n") {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == key+":" {
			n, err := strconv.ParseInt(fields[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	t.Fatalf("no %s", key)
	return 0
}
