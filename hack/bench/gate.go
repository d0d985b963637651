package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"krtpkg.dev/krtpkg/internal/hack"
	"krtpkg.dev/krtpkg/internal/registrytest"
)

const (
	gateBundles = 30
	// gateTakers is how many sites take the new version, the runtime with all its bundles.
	gateTakers = 100
)

// front is what stands before the registry.
type front struct {
	name, host string
	pid        int
	stop       func() error
}

// benchGate has many sites take a runtime of 30 bundles and follow its tag, through the gate and through a plain
// pull-through cache, in one run: what a site asks is what imgpkg asked.
func benchGate(ctx context.Context, b *bench) (err error) {
	l := &requestLog{keep: true}
	origin, err := registrytest.RunRegistry(ctx, registrytest.Options{Kind: registrytest.Distribution3, Middleware: l.countRequests})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, origin.Close()) }()
	reference := origin.Host + "/krt/edge:1.0.0"
	if err := b.prepareFleet(reference, b.share(gateBundles)); err != nil {
		return err
	}
	if b.imgpkg, err = hack.BuildProgram(ctx, "tools/imgpkg"); err != nil {
		return err
	}
	look, first, err := b.learnPulls(l, reference)
	if err != nil {
		return err
	}
	l.keep = false
	fmt.Printf("%s, %d cores, %s, load %s; %d sites, %d at once, distribution 3.1.2 on loopback; a runtime of %d bundles. A new version is %d requests, a look at the tag %d, as imgpkg asks.\n\n",
		runtime.Version(), runtime.NumCPU(), processorName(), systemLoad(), b.share(fleetSites), fleetAtOnce, b.share(gateBundles), len(first), len(look))
	fmt.Println("| by way of | what | took | p50 | p99 | requests at the registry | sent by it | memory after 10 sites | after all |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|")
	for _, start := range []func(context.Context, string) (*front, error){b.startGate, b.startPlainCache} {
		if err := b.playFront(ctx, l, origin.Host, start, first, look); err != nil {
			return err
		}
	}
	return nil
}

// learnPulls returns what imgpkg asks for the runtime by its tag, and for all of it.
func (b *bench) learnPulls(l *requestLog, reference string) (look, first []asked, err error) {
	pull := func(reference, dir string) ([]asked, error) {
		l.takeRequests()
		out, err := exec.Command(b.imgpkg, "pull", "-b", reference, "-o", b.filePath(dir), "--registry-insecure").CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("imgpkg: %w\n%s", err, out)
		}
		return l.takeRequests(), nil
	}
	if look, err = pull(reference, "pulled"); err != nil {
		return nil, nil, err
	}
	lock, err := os.ReadFile(b.filePath("pulled/.imgpkg/images.yml"))
	if err != nil {
		return nil, nil, err
	}
	first = slices.Clone(look)
	repository, _, _ := strings.Cut(strings.TrimPrefix(reference, "127.0.0.1:"), ":")
	for line := range strings.Lines(string(lock)) {
		_, digest, found := strings.Cut(strings.TrimSpace(line), "@sha256:")
		if !found || !strings.Contains(line, "image:") {
			continue
		}
		more, err := pull("127.0.0.1:"+repository+"@sha256:"+digest, "pulled-"+digest[:12])
		if err != nil {
			return nil, nil, err
		}
		first = append(first, more...)
	}
	if len(first) < 3*b.share(gateBundles) {
		return nil, nil, fmt.Errorf("imgpkg asked %d times for all bundles", len(first))
	}
	return look, first, nil
}

func (b *bench) playFront(ctx context.Context, l *requestLog, origin string, start func(context.Context, string) (*front, error), first, look []asked) (err error) {
	f, err := start(ctx, origin)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.stop()) }()
	takers := b.share(gateTakers)
	for _, round := range []struct {
		name     string
		requests []asked
		sites    int
	}{{"one site, nothing known yet", first, 1}, {strconv.Itoa(takers) + " sites take a new version", first, takers}, {"all sites look at the tag", look, b.share(fleetSites)}} {
		few := ""
		if round.sites > 1 {
			if _, err := timeSites(ctx, f.host, round.requests, 10); err != nil {
				return err
			}
			few = memoryOf(f.pid)
		}
		requests, bytes, began := l.count.Load(), l.bytes.Load(), time.Now()
		times, err := timeSites(ctx, f.host, round.requests, round.sites)
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		took := time.Since(began)
		fmt.Printf("| %s | %s | %.2f s | %.2f ms | %.2f ms | %d | %.2f MB | %s | %s |\n", f.name, round.name, took.Seconds(),
			quantile(times, 0.5), quantile(times, 0.99), l.count.Load()-requests, float64(l.bytes.Load()-bytes)/1e6, few, memoryOf(f.pid))
	}
	return nil
}

// timeSites has sites ask, and returns how long each answer took.
func timeSites(ctx context.Context, host string, requests []asked, sites int) (all []time.Duration, err error) {
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(fleetAtOnce)
	for range sites {
		group.Go(func() error {
			transport := &http.Transport{}
			defer transport.CloseIdleConnections()
			client := &http.Client{Transport: transport}
			times := make([]time.Duration, len(requests))
			for i := range requests {
				began := time.Now()
				if err := sendRequests(ctx, client, host, requests[i:i+1]); err != nil {
					return err
				}
				times[i] = time.Since(began)
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, times...)
			return nil
		})
	}
	return all, group.Wait()
}

// quantile returns a quantile in milliseconds.
func quantile(times []time.Duration, q float64) float64 {
	slices.Sort(times)
	return float64(times[int(q*float64(len(times)-1))].Microseconds()) / 1000
}

// memoryOf returns what a process has in memory.
func memoryOf(pid int) string {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return "?"
	}
	for line := range strings.Lines(string(status)) {
		if rest, is := strings.CutPrefix(line, "VmRSS:"); is {
			kilobytes, _ := strconv.Atoi(strings.Fields(rest)[0])
			return fmt.Sprintf("%d MiB", kilobytes/1024)
		}
	}
	return "?"
}

// systemLoad returns the load of the last minute.
func systemLoad() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "?"
	}
	return strings.Fields(string(text))[0]
}

// startPlainCache starts Distribution as a pull-through cache.
func (b *bench) startPlainCache(ctx context.Context, origin string) (*front, error) {
	before := listChildren()
	cache, err := registrytest.RunRegistry(ctx, registrytest.Options{Kind: registrytest.Distribution3, Proxy: "http://" + origin})
	if err != nil {
		return nil, err
	}
	f := &front{name: "distribution's cache", host: cache.Host, stop: cache.Close}
	for _, pid := range listChildren() {
		if !slices.Contains(before, pid) {
			f.pid = pid
		}
	}
	return f, nil
}

// listChildren returns the processes that this one has started.
func listChildren() (pids []int) {
	all, _ := filepath.Glob("/proc/[0-9]*/stat") // without procfs, the memory is unknown
	for _, file := range all {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(text), ") ")
		if fields := strings.Fields(rest); len(fields) > 1 && fields[1] == strconv.Itoa(os.Getpid()) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// startGate starts the gate, which knows nothing yet.
func (b *bench) startGate(ctx context.Context, origin string) (*front, error) {
	dir, err := os.MkdirTemp(b.dir, "gate-")
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, b.krtpkg, "serve", "--listen", "127.0.0.1:0", "--upstream", origin, "--key", b.filePath("cosign.pub"),
		"--state", filepath.Join(dir, "state"), "--cache", filepath.Join(dir, "cache"))
	said, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(said).ReadString('\n')
	_, host, found := strings.Cut(strings.TrimSpace(line), "http://")
	stop := func() error {
		cmd.Process.Kill()
		cmd.Wait()
		return nil
	}
	if err != nil || !found {
		stop()
		return nil, fmt.Errorf("the gate says %q: %w", line, err)
	}
	go io.Copy(io.Discard, said)
	return &front{"the gate", host, cmd.Process.Pid, stop}, nil
}
