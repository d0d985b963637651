//go:build unix

package residenttest_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"krtpkg.dev/krtpkg/internal/residenttest"
)

// The test binary is the program and the resident too, by its name.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "krtpkg":
		os.Exit(runCommand("a process of its own")(context.Background()))
	case "resident":
		residenttest.Serve(runCommand("the resident"))
	}
	os.Exit(m.Run())
}

// seen is what a command sees of the world.
type seen struct {
	Where, Dir, Value, Input string
	Umask                    int
	Args                     []string
}

// runCommand returns what runs the command that the first argument names.
func runCommand(where string) func(context.Context) int {
	return func(ctx context.Context) int {
		switch os.Args[1] {
		case "show":
			dir, _ := os.Getwd()
			input, _ := io.ReadAll(os.Stdin)
			mask := syscall.Umask(0)
			syscall.Umask(mask)
			json.NewEncoder(os.Stdout).Encode(seen{where, dir, os.Getenv("VALUE"), string(input), mask, os.Args[2:]})
			fmt.Fprint(os.Stderr, "shown")
			return 7
		case "wait":
			fmt.Println(where)
			io.Copy(io.Discard, os.Stdin)
			return 0
		case "outlive":
			fmt.Println(where)
			<-ctx.Done()
			os.WriteFile(os.Args[2], nil, 0o600)
			return 0
		case "panic":
			panic("oh no")
		}
		os.Exit(3)
		return 0
	}
}

// startResident starts a resident for a test, and returns what makes commands of it.
func startResident(t *testing.T) func(args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	command := filepath.Join(t.TempDir(), "resident")
	if err := os.Symlink(self, command); err != nil {
		t.Fatal(err)
	}
	r, err := residenttest.Start(t.Context(), command, self, os.Environ())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() }) // some tests have it end
	return func(args ...string) *exec.Cmd {
		cmd := exec.Command(r.Client, args...)
		cmd.Env = slices.Concat(os.Environ(), r.Env)
		return cmd
	}
}

// show runs a command that shows what it sees.
func show(t *testing.T, cmd *exec.Cmd) seen {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var saw seen
	if cmd.ProcessState.ExitCode() != 7 || stderr.String() != "shown" || json.Unmarshal(stdout.Bytes(), &saw) != nil {
		t.Fatalf("%v, on standard output %q, on standard error %q", err, &stdout, &stderr)
	}
	return saw
}

// A command sees in the resident what it sees in a process of its own.
func TestTakenCommands(t *testing.T) {
	command := startResident(t)
	first := command("show", "a b", "", "c\nd")
	first.Dir = t.TempDir()
	first.Env = append(first.Env, "VALUE=x=y z")
	first.Stdin = strings.NewReader("typed")
	masked := exec.Command("sh", "-c", `umask 027; exec "$0" show`, first.Path)
	masked.Env = command().Env
	masked.Dir = "/"
	if got, want := show(t, first), (seen{"the resident", first.Dir, "x=y z", "typed", show(t, command("show")).Umask, []string{"a b", "", "c\nd"}}); !reflect.DeepEqual(got, want) {
		t.Errorf("it sees %+v, want %+v", got, want)
	}
	// Nothing is left of the first one.
	if got, want := show(t, masked), (seen{"the resident", "/", "", "", 0o27, []string{}}); !reflect.DeepEqual(got, want) {
		t.Errorf("it sees %+v, want %+v", got, want)
	}
}

// What the resident cannot run as it would run elsewhere is a process of its own.
func TestRefusedCommands(t *testing.T) {
	command := startResident(t)
	for _, variable := range []string{"HOME=/elsewhere", "HTTPS_PROXY=http://proxy.example", "GODEBUG=http2client=0"} {
		cmd := command("show")
		cmd.Env = append(cmd.Env, variable)
		if saw := show(t, cmd); saw.Where != "a process of its own" {
			t.Errorf("with %s %s runs it", variable, saw.Where)
		}
	}
	// While another one runs.
	busy := command("wait")
	stdin, err := busy.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if where := startLine(t, busy); where != "the resident" {
		t.Errorf("%s runs the first one", where)
	}
	if saw := show(t, command("show")); saw.Where != "a process of its own" {
		t.Errorf("%s runs two", saw.Where)
	}
	if err := errors.Join(stdin.Close(), busy.Wait()); err != nil {
		t.Error(err)
	}
	if saw := show(t, command("show")); saw.Where != "the resident" {
		t.Errorf("%s runs one after another", saw.Where)
	}
}

// startLine starts a command and returns the first line that it writes.
func startLine(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// The context of a command ends with its client.
func TestKilledClient(t *testing.T) {
	command := startResident(t)
	name := filepath.Join(t.TempDir(), "ended")
	cmd := command("outlive", name)
	if where := startLine(t, cmd); where != "the resident" {
		t.Errorf("%s runs it", where)
	}
	cmd.Process.Kill()
	cmd.Wait()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(name); err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the command goes on")
		}
	}
}

// A command that panics ends as a process that does; one that takes the resident along has a code of its own. Neither hinders
// the next.
func TestBrokenCommands(t *testing.T) {
	for _, c := range []struct {
		name string
		code int
		says string
	}{
		{"panic", 2, "panic: oh no\n\ngoroutine "},
		{"exit", 125, "krtpkg: the resident process ended: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			command := startResident(t)
			var stderr bytes.Buffer
			cmd := command(c.name)
			cmd.Stderr = &stderr
			if err := cmd.Run(); cmd.ProcessState.ExitCode() != c.code || !strings.HasPrefix(stderr.String(), c.says) {
				t.Errorf("%v, on standard error %q", err, &stderr)
			}
			if saw := show(t, command("show")); saw.Where != "a process of its own" {
				t.Errorf("%s runs what comes after it", saw.Where)
			}
		})
	}
}
