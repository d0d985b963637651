package cli_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A template that does not end is interrupted at once, though engines hear nothing, and its process does
// not outlive the command, however that ends.
func TestInterruptedRendering(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.write("bundle.yaml", "apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: web, version: 1.0.0}\nspec:\n  layer: 6\n  sources: [{dir: chart, template: helm}]\n",
		"chart/Chart.yaml", "apiVersion: v2\nname: web\nversion: 1.0.0\n",
		"chart/templates/a.yaml", "{{ range until 100000 }}{{ range until 100000 }}{{ end }}{{ end }}")
	for _, c := range []struct {
		signal syscall.Signal
		code   int
	}{{syscall.SIGTERM, 130}, {syscall.SIGINT, 130}, {syscall.SIGKILL, -1}} {
		cmd, _, stderr := s.command("build", "-f", ".")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		worker := childOf(t, cmd.Process.Pid)
		time.Sleep(500 * time.Millisecond)
		sent := time.Now()
		if err := cmd.Process.Signal(c.signal); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
		if took := time.Since(sent); took > 2*time.Second || cmd.ProcessState.ExitCode() != c.code {
			t.Errorf("%s: ended after %s with exit code %d\n%s", c.signal, took, cmd.ProcessState.ExitCode(), stderr)
		}
		for syscall.Kill(worker, 0) == nil {
			if time.Since(sent) > 10*time.Second {
				syscall.Kill(worker, syscall.SIGKILL)
				t.Fatalf("%s: process %d is left", c.signal, worker)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// childOf waits for the process that another starts.
func childOf(t *testing.T, parent int) int {
	t.Helper()
	for range 500 {
		for _, list := range glob(t, fmt.Sprintf("/proc/%d/task/*/children", parent)) {
			data, _ := os.ReadFile(list) // the thread may have ended
			if fields := strings.Fields(string(data)); len(fields) > 0 {
				pid, err := strconv.Atoi(fields[0])
				if err != nil {
					t.Fatal(err)
				}
				return pid
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("process %d starts none", parent)
	return 0
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return found
}
