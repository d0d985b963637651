package worker_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"krtpkg.dev/krtpkg/internal/runawaytest"
	"krtpkg.dev/krtpkg/internal/worker"
	"krtpkg.dev/krtpkg/pkg/bundle"
	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/render"
)

// The test binary is the program that pools start, and a program with a pool.
func TestMain(m *testing.M) {
	switch os.Args[len(os.Args)-1] {
	case "worker":
		if err := worker.Serve(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	case "parent":
		ctx := render.WithRunner(context.Background(), worker.NewPool(options(render.Limits{})))
		_, err := render.RenderSource(ctx, runawaytest.Inputs()["ytt loops"])
		fmt.Println(err)
		return
	}
	os.Exit(m.Run())
}

func options(limits render.Limits) worker.Options {
	return worker.Options{Path: "/proc/self/exe", Args: []string{"worker", "worker"}, Limits: limits}
}

func newPool(t *testing.T, limits render.Limits) *worker.Pool {
	pool := worker.NewPool(options(limits))
	t.Cleanup(pool.Close)
	return pool
}

// What runs away is ended, in time and in memory, with one line; what comes next has another process.
func TestRunaways(t *testing.T) {
	pool := newPool(t, render.Limits{Time: 3 * time.Second, Memory: 300 << 20, Recursion: 64 << 20})
	ctx := render.WithRunner(t.Context(), pool)
	for name, in := range runawaytest.Inputs() {
		start := time.Now()
		_, err := render.RenderSource(ctx, in)
		if took := time.Since(start); !errors.Is(err, render.ErrRunaway) || strings.Contains(err.Error(), "\n") || took > 20*time.Second {
			t.Errorf("%s: after %s: %v", name, took, err)
		} else {
			t.Logf("%s: after %s: %v", name, took, err)
		}
		if _, err := render.RenderSource(ctx, runawaytest.Chart("a: 1\n")); err != nil {
			t.Errorf("%s: and then: %v", name, err)
		}
	}
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &usage); err != nil || usage.Maxrss > 2<<20 {
		t.Errorf("a process took %d KiB, %v", usage.Maxrss, err)
	}
}

// Both runners come to the same: files, notes and errors.
func TestSameAsInProcess(t *testing.T) {
	chart := runawaytest.Chart("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {a: b, a: c}\n")
	broken := runawaytest.Chart("{{ fail `no` }}")
	random := runawaytest.Chart("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {v: {{ randAlphaNum 9 }}}\n")
	misplaced := chart
	misplaced.Source = &bundle.Source{Overlays: []string{"o.yaml"}}
	misplaced.Files = []bundle.File{{Path: "a.yaml", Data: []byte("a: 1\na: 2\n")}}
	misplaced.Overlays = []bundle.File{{Path: "o.yaml", Data: []byte("#@ load(\"@ytt:overlay\", \"overlay\")\n#@overlay/match by=overlay.all\n---\n")}}
	pool := newPool(t, render.Limits{})
	for name, in := range map[string]render.Input{"chart": chart, "broken": broken, "random": random, "misplaced": misplaced} {
		type outcome struct {
			files []bundle.File
			notes []string
			err   string
			at    *manifest.Error
		}
		do := func(r render.Runner) (o outcome) {
			in := in
			in.Note = func(note string) { o.notes = append(o.notes, note) }
			files, err := render.RenderStable(render.WithRunner(t.Context(), r), in)
			o.files = files
			var unstable *render.UnstableError
			if errors.As(err, &unstable) {
				o.notes = append(o.notes, unstable.Error())
			}
			if errors.As(err, &o.at); err != nil {
				o.err = err.Error()
			}
			return o
		}
		if here, there := do(render.InProcess{}), do(pool); !reflect.DeepEqual(here, there) {
			t.Errorf("%s:\n%+v\n%+v", name, here, there)
		}
	}
}

// Thirty renderings start no more processes than there are jobs at a time.
func TestProcessesAreKept(t *testing.T) {
	pool := newPool(t, render.Limits{})
	ctx := render.WithRunner(t.Context(), pool)
	for range 30 {
		if _, err := render.RenderSource(ctx, runawaytest.Chart("a: 1\n")); err != nil {
			t.Fatal(err)
		}
	}
	if n := pool.Started(); n != 1 {
		t.Errorf("%d processes for one job after the other", n)
	}
	var group sync.WaitGroup
	for range 30 {
		group.Go(func() {
			if _, err := render.RenderSource(ctx, runawaytest.Chart("a: 1\n")); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if n := pool.Started(); n > 4 {
		t.Errorf("%d processes", n)
	}
}

// An interruption is heard at once.
func TestInterruption(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	start := time.Now()
	_, err := render.RenderSource(render.WithRunner(ctx, newPool(t, render.Limits{})), runawaytest.Inputs()["ytt loops"])
	if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took > 3*time.Second {
		t.Errorf("after %s: %v", took, err)
	}
}

// A program that is killed leaves no process behind.
func TestNoOrphan(t *testing.T) {
	cmd := exec.Command("/proc/self/exe", "parent")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var child int
	for deadline := time.Now().Add(20 * time.Second); child == 0; time.Sleep(20 * time.Millisecond) {
		for _, list := range threads(cmd.Process.Pid) {
			data, _ := os.ReadFile(list)
			fmt.Sscan(string(data), &child)
			if child != 0 {
				break
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("it starts no process")
		}
	}
	time.Sleep(500 * time.Millisecond)
	cmd.Process.Kill()
	cmd.Wait()
	for deadline := time.Now().Add(5 * time.Second); syscall.Kill(child, 0) == nil; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			syscall.Kill(child, syscall.SIGKILL)
			t.Fatalf("process %d is left", child)
		}
	}
}

func threads(pid int) (lists []string) {
	dir := fmt.Sprintf("/proc/%d/task", pid)
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		lists = append(lists, dir+"/"+e.Name()+"/children")
	}
	return lists
}
