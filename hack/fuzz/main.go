// Fuzz runs each fuzz target for a while, as many at a time as there are processors, with one worker each: where go test
// -fuzz gives all workers to one target, they wait for each other and for its start. Each package is compiled once for
// all of its targets. The corpora that it goes on from are those of go test -fuzz.
//
//	go run ./hack/fuzz                       # all targets, 30 seconds each
//	go run ./hack/fuzz -time 5m FuzzOpen     # one
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

func main() {
	fuzzTime := flag.String("time", "30s", "how long each target is fuzzed, or how often, such as 1000x")
	tags := flag.String("tags", "", "build tags")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *fuzzTime, *tags, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "fuzz:", err)
		os.Exit(1)
	}
}

// fuzzer is what the packages share.
type fuzzer struct {
	fuzzTime string // as go test -fuzztime has it
	tags     string
	binaries string // a folder
	corpora  string // a folder with one for each package
	printing sync.Mutex
}

// targetPackage is a package with fuzz targets.
type targetPackage struct {
	dir     string // relative to the module
	targets []string
}

func run(ctx context.Context, fuzzTime, tags string, wanted []string) (err error) {
	if err := checkFuzzTime(fuzzTime); err != nil {
		return err
	}
	packages, err := findTargets(ctx, wanted)
	if err != nil {
		return err
	}
	f := &fuzzer{fuzzTime: fuzzTime, tags: tags}
	cache, err := runGo(ctx, "env", "GOCACHE")
	if err != nil {
		return err
	}
	f.corpora = filepath.Join(strings.TrimSpace(cache), "fuzz")
	if f.binaries, err = os.MkdirTemp("", "krtpkg-fuzz-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(f.binaries)) }()
	// A failure does not end the others: what one finds is as good as what the next one finds.
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	failed := make([]error, len(packages))
	for i, p := range packages {
		group.Go(func() error {
			failed[i] = f.fuzzPackage(ctx, p)
			return nil
		})
	}
	_ = group.Wait() // no error: each has its own
	return errors.Join(failed...)
}

// checkFuzzTime checks what go test -fuzztime takes, before anything is compiled.
func checkFuzzTime(text string) error {
	if times, isCount := strings.CutSuffix(text, "x"); isCount {
		if n, err := strconv.Atoi(times); err == nil && n > 0 {
			return nil
		}
	} else if d, err := time.ParseDuration(text); err == nil && d > 0 {
		return nil
	}
	return fmt.Errorf("-time is %q: want a duration such as 30s or a count such as 1000x", text)
}

var fuzzTarget = regexp.MustCompile(`(?m)^func (Fuzz\w+)\(`)

// findTargets returns the packages with fuzz targets, those with several first: these take the longest.
func findTargets(ctx context.Context, wanted []string) ([]targetPackage, error) {
	out, err := exec.CommandContext(ctx, "git", "ls-files", "*_test.go").Output()
	if err != nil {
		return nil, fmt.Errorf("list test files: %w", err)
	}
	byDir, known := map[string][]string{}, map[string]bool{}
	for _, name := range strings.Fields(string(out)) {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		for _, match := range fuzzTarget.FindAllSubmatch(text, -1) {
			target := string(match[1])
			known[target] = true
			if len(wanted) == 0 || slices.Contains(wanted, target) {
				byDir[path.Dir(name)] = append(byDir[path.Dir(name)], target)
			}
		}
	}
	if i := slices.IndexFunc(wanted, func(target string) bool { return !known[target] }); i >= 0 {
		return nil, fmt.Errorf("no fuzz target is called %s", wanted[i])
	}
	if len(byDir) == 0 {
		return nil, errors.New("no fuzz targets found: run it in the module's root folder")
	}
	var packages []targetPackage
	for dir, targets := range byDir {
		packages = append(packages, targetPackage{dir, targets})
	}
	slices.SortFunc(packages, func(a, b targetPackage) int {
		if d := len(b.targets) - len(a.targets); d != 0 {
			return d
		}
		return strings.Compare(a.dir, b.dir)
	})
	return packages, nil
}

// fuzzPackage compiles a package and fuzzes its targets, one after the other.
func (f *fuzzer) fuzzPackage(ctx context.Context, p targetPackage) error {
	importPath, err := runGo(ctx, "list", "./"+p.dir)
	if err != nil {
		return err
	}
	binary := filepath.Join(f.binaries, strings.ReplaceAll(p.dir, "/", "-"))
	began := time.Now()
	if _, err := runGo(ctx, "test", "-c", "-tags", f.tags, "-ldflags", "-s -w", "-fuzz", "^Fuzz", "-o", binary, "./"+p.dir); err != nil {
		return err
	}
	compiled := time.Since(began)
	var failed []error
	for _, target := range p.targets {
		cmd := exec.CommandContext(ctx, binary, "-test.run=^$", "-test.fuzz=^"+target+"$", "-test.fuzztime="+f.fuzzTime,
			"-test.fuzzminimizetime=10x", "-test.parallel=1", "-test.fuzzcachedir="+filepath.Join(f.corpora, strings.TrimSpace(importPath)))
		cmd.Dir = p.dir // where what it finds is written
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		cmd.WaitDelay = 10 * time.Second
		out, err := cmd.CombinedOutput()
		if err != nil {
			failed = append(failed, fmt.Errorf("%s in %s: %w", target, p.dir, err))
		}
		f.print(fmt.Sprintf("%s in %s, compiled in %s\n%s", target, p.dir, compiled.Round(time.Second/10), lastLines(out, err != nil)))
	}
	return errors.Join(failed...)
}

// lastLines returns the output of a target: all of it if it failed, else how far it came.
func lastLines(out []byte, all bool) []byte {
	lines := bytes.SplitAfter(out, []byte("\n"))
	if all || len(lines) < 3 {
		return out
	}
	return bytes.Join(lines[len(lines)-3:], nil)
}

func (f *fuzzer) print(text string) {
	f.printing.Lock()
	defer f.printing.Unlock()
	fmt.Print(text)
}

func runGo(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return string(out), nil
}
