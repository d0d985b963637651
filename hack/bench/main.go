// Command bench measures krtpkg next to imgpkg: whole processes, in turn, in one run, on the
// same registry and the same bytes. It prints medians and ratios as Markdown. Nothing in it
// fails because something is slow: it measures, people judge.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"krtpkg.dev/krtpkg/internal/hack"
	"krtpkg.dev/krtpkg/internal/registrytest"
)

type job struct {
	name string
	run  func(context.Context, *bench) error
	// inMemory has the job's files in memory, where there is such a place: the registries are to be
	// measured, not the disk.
	inMemory bool
}

// jobs are what there is to measure, in order.
var jobs = []job{
	{"bundle", benchBundles, false},
	{"verify", benchVerify, false},
	{"mirror", benchMirror, true},
	{"scale", benchScale, true},
	{"cluster", benchCluster, false},
	{"catalogue", benchCatalogue, false},
	{"fleet", benchFleet, false},
	{"gate", benchGate, false},
	{"delta", benchDelta, false},
}

func main() {
	var all []string
	for _, job := range jobs {
		if job.name != "delta" { // it downloads what it measures
			all = append(all, job.name)
		}
	}
	var o options
	flag.StringVar(&o.krtpkg, "krtpkg", "bin/krtpkg", "the program to measure")
	flag.IntVar(&o.rounds, "rounds", 9, "counted rounds, after one that is not")
	flag.StringVar(&o.svg, "svg", "", "file for the picture of the scale job or the delta job")
	flag.StringVar(&o.releases, "releases", "", "measure deltas only of releases with one of these in their name, by commas")
	flag.Float64Var(&o.size, "scale", 1, "share of the layers to mirror, of 1.8 GB in all, and of the files, bundles, images and sites of the jobs bundle, verify, scale and gate")
	wanted := flag.String("jobs", strings.Join(all, ","), "what to measure")
	floor := flag.String("floor", "", "move the blobs that this file lists and end: what a copy cannot be faster than")
	from := flag.String("from", "", "where the floor moves them from")
	to := flag.String("to", "", "where the floor moves them to")
	corpus := flag.String("corpus", "", "put the images to mirror into this registry and end")
	step := flag.String("delta", "", "do one step of a delta with the files that follow, and end: gzip, gzip1, pgzip, zstd, make or apply")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	switch {
	case *floor != "":
		err = runFloor(ctx, *floor, *from, *to)
	case *step != "":
		err = runDelta(ctx, *step, flag.Args())
	case *corpus != "":
		err = runCorpus(ctx, *corpus, o.size)
	default:
		err = runJobs(ctx, o, strings.Split(*wanted, ","))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

const memory = "/dev/shm"

// runJobs does jobs, one after the other, each in a folder of its own.
func runJobs(ctx context.Context, o options, wanted []string) (err error) {
	if o.krtpkg, err = filepath.Abs(o.krtpkg); err != nil {
		return err
	}
	for _, name := range wanted {
		i := slices.IndexFunc(jobs, func(j job) bool { return j.name == name })
		if i < 0 {
			return fmt.Errorf("there is no job %q", name)
		}
		b := &bench{options: o}
		parent := ""
		if _, err := os.Stat(memory); err == nil && jobs[i].inMemory {
			parent = memory
		}
		if b.dir, err = os.MkdirTemp(parent, "krtpkg-bench-"); err != nil {
			return err
		}
		if err := errors.Join(jobs[i].run(ctx, b), os.RemoveAll(b.dir)); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// options are what the flags say.
type options struct {
	krtpkg string
	rounds int
	svg    string
	// releases are parts of names, by commas.
	releases string
	size     float64
}

// share returns how many of the things that a job measures are wanted: at least one.
func (o options) share(count int) int { return max(1, int(float64(count)*o.size)) }

// bench is what the measured commands share.
type bench struct {
	options
	imgpkg   string
	dir      string // of the job alone, removed after it
	host     string
	requests atomic.Int64
}

// measured is one command's figures over all rounds.
type measured struct {
	wall, cpu []time.Duration
	memory    []int64 // KiB, the peak of the process
	requests  []int64
}

// contest is one job, done by one or two programs in turn. Each is given the number of the
// round, so that it can use a fresh repository or folder.
type contest struct {
	name         string
	krtpkg, peer func(round int) []string
}

// benchBundles measures what is done to one bundle, and the assembly of a runtime.
func benchBundles(ctx context.Context, b *bench) (err error) {
	if b.imgpkg, err = hack.BuildProgram(ctx, "tools/imgpkg"); err != nil {
		return err
	}
	registry, err := registrytest.RunRegistry(ctx, registrytest.Options{Kind: registrytest.Distribution3, Middleware: b.countHandler})
	if err != nil {
		return err
	}
	defer registry.Close()
	b.host = registry.Host
	size, err := b.prepareBundle()
	if err != nil {
		return err
	}
	fmt.Printf("%s, %d cores, %s; imgpkg 0.46.1, distribution 3.1.2 on loopback; %d files, %.2f MB; medians of %d rounds in turn.\n\n",
		runtime.Version(), runtime.NumCPU(), processorName(), b.share(files), float64(size)/1e6, b.rounds)
	fmt.Println("| job | program | wall | CPU | peak memory | requests | wall of krtpkg / imgpkg |")
	fmt.Println("|---|---|---|---|---|---|---|")
	// The corpus comes last: what this process holds counts in the peak of those that it starts.
	for _, contests := range []func(context.Context) ([]contest, error){b.bundleContests, b.assemblyContests} {
		list, err := contests(ctx)
		if err != nil {
			return err
		}
		debug.FreeOSMemory()
		for _, c := range list {
			if err := b.playContest(ctx, c); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	info, err := os.Stat(b.krtpkg)
	if err != nil {
		return err
	}
	peer, err := os.Stat(b.imgpkg)
	if err != nil {
		return err
	}
	fmt.Printf("\nSize of the program: krtpkg %.0f MB, imgpkg %.0f MB.\n", float64(info.Size())/1e6, float64(peer.Size())/1e6)
	return nil
}

// countHandler counts the requests that reach the registry.
func (b *bench) countHandler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.requests.Add(1)
		next.ServeHTTP(w, r)
	})
}

// The corpus: as many files, and about as many bytes, as a large product's manifests.
const (
	files     = 300
	fileBytes = 7_170
)

// prepareBundle writes the definition and builds and pushes what the pull jobs read. The manifests
// name no images, so that both programs move the same bytes.
func (b *bench) prepareBundle() (size int64, err error) {
	manifests := filepath.Join(b.dir, "bundle", "manifests")
	if err := os.MkdirAll(manifests, 0o755); err != nil {
		return 0, err
	}
	for i := range b.share(files) {
		text := testManifest(i)
		size += int64(len(text))
		if err := os.WriteFile(filepath.Join(manifests, fmt.Sprintf("%03d.yaml", i)), []byte(text), 0o644); err != nil {
			return 0, err
		}
	}
	definition := "apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: bench, version: 1.0.0}\nspec: {layer: 6, sources: [{dir: manifests}]}\n"
	if err := os.WriteFile(filepath.Join(b.dir, "bundle", "bundle.yaml"), []byte(definition), 0o644); err != nil {
		return 0, err
	}
	for _, args := range [][]string{
		{"build", "-q", "-f", b.filePath("bundle"), "--to", "oci:" + b.filePath("dist")},
		{"push", "-q", "oci:" + b.filePath("dist") + ":1.0.0", b.host + "/pull/bench:1.0.0"},
		// imgpkg's input is the very content that krtpkg packs.
		{"pull", "-q", "oci:" + b.filePath("dist") + ":1.0.0", "-o", b.filePath("content")},
	} {
		if out, err := exec.Command(b.krtpkg, args...).CombinedOutput(); err != nil {
			return 0, fmt.Errorf("krtpkg %s: %w\n%s", args[0], err, out)
		}
	}
	return size, nil
}

func (b *bench) filePath(name string) string { return filepath.Join(b.dir, name) }

// testManifest returns a ConfigMap whose text differs in each file and compresses as manifests do.
func testManifest(n int) string {
	var out strings.Builder
	fmt.Fprintf(&out, "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: bench-%d\n  labels:\n    app.kubernetes.io/part-of: bench\ndata:\n", n)
	seed := uint64(n + 1)
	for line := 0; out.Len() < fileBytes; line++ {
		seed = seed*6364136223846793005 + 1442695040888963407
		fmt.Fprintf(&out, "  setting.%d: \"value-%x of component-%d, reconciled every %ds\"\n", line, seed>>40, seed>>60, seed>>58)
	}
	return out.String()
}

func (b *bench) bundleContests(context.Context) ([]contest, error) {
	one := func(args ...string) func(int) []string { return func(int) []string { return args } }
	return []contest{
		{"start (`version`)", one(b.krtpkg, "version"), one(b.imgpkg, "version")},
		{fmt.Sprintf("build a bundle of %d files", b.share(files)), func(round int) []string {
			return []string{b.krtpkg, "build", "-q", "-f", b.filePath("bundle"), "--to", fmt.Sprintf("oci:%s/built-%d", b.dir, round)}
		}, nil},
		{"push it", func(round int) []string {
			return []string{b.krtpkg, "push", "-q", "oci:" + b.filePath("dist") + ":1.0.0", fmt.Sprintf("%s/krtpkg/%d:1.0.0", b.host, round)}
		}, func(round int) []string {
			return []string{b.imgpkg, "push", "-b", fmt.Sprintf("%s/imgpkg/%d:1.0.0", b.host, round), "-f", b.filePath("content"), "--registry-insecure"}
		}},
		{"pull it", func(round int) []string {
			return []string{b.krtpkg, "pull", "-q", b.host + "/pull/bench:1.0.0", "-o", fmt.Sprintf("%s/krtpkg-%d", b.dir, round)}
		}, func(round int) []string {
			return []string{b.imgpkg, "pull", "-b", b.host + "/pull/bench:1.0.0", "-o", fmt.Sprintf("%s/imgpkg-%d", b.dir, round), "--registry-insecure"}
		}},
	}, nil
}

func (b *bench) playContest(ctx context.Context, c contest) error {
	var ours, theirs measured
	for round := range b.rounds + 1 {
		for _, side := range []struct {
			command func(int) []string
			into    *measured
		}{{c.krtpkg, &ours}, {c.peer, &theirs}} {
			if side.command == nil {
				continue
			}
			counted := side.into
			if round == 0 {
				counted = &measured{}
			}
			if err := b.runOnce(ctx, side.command(round), counted); err != nil {
				return err
			}
		}
	}
	ratio := ""
	if c.peer != nil {
		ratio = fmt.Sprintf("%.2f", float64(medianOf(ours.wall))/float64(medianOf(theirs.wall)))
	}
	printRow(c.name, "krtpkg", ours, ratio)
	if c.peer != nil {
		printRow("", "imgpkg", theirs, "")
	}
	return nil
}

func (b *bench) runOnce(ctx context.Context, args []string, into *measured) error {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	before := b.requests.Load()
	start := time.Now()
	out, err := cmd.CombinedOutput()
	wall := time.Since(start)
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
	}
	state := cmd.ProcessState
	into.wall = append(into.wall, wall)
	into.cpu = append(into.cpu, state.UserTime()+state.SystemTime())
	into.memory = append(into.memory, peakMemory(state))
	into.requests = append(into.requests, b.requests.Load()-before)
	return nil
}

func printRow(job, program string, m measured, ratio string) {
	requests := "-" // nothing asked the registry of the benchmark
	if n := medianOf(m.requests); n > 0 {
		requests = strconv.FormatInt(n, 10)
	}
	fmt.Printf("| %s | %s | %.0f ms | %.0f ms | %d MiB | %s | %s |\n", job, program,
		toMilliseconds(medianOf(m.wall)), toMilliseconds(medianOf(m.cpu)), medianOf(m.memory)/1024, requests, ratio)
}

func toMilliseconds(d time.Duration) float64 { return math.Round(float64(d.Microseconds()) / 1000) }

func medianOf[T ~int64](values []T) T {
	sorted := slices.Clone(values)
	slices.Sort(sorted)
	return sorted[len(sorted)/2]
}

// processorName returns the processor's name where the system tells.
func processorName() string {
	data, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}
