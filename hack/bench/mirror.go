package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"krtpkg.dev/krtpkg/internal/hack"
	"krtpkg.dev/krtpkg/internal/registrytest"
)

// carry is what the jobs of mirroring share.
type carry struct {
	*bench
	self  string
	tools map[string]string
	// source has the images; counting is another process on the same content, behind a front.
	source, counting string
	// fromSource and toTarget are what passes the fronts.
	fromSource, toTarget traffic
	images               []string
	floor                string // the file that lists the blobs
}

// mirror measures carrying images with their bundle, beside peers and beside the floor.
func mirror(ctx context.Context, krtpkg string, rounds int, scale float64) (err error) {
	c := &carry{bench: &bench{rounds: rounds}, tools: map[string]string{}}
	if c.krtpkg, err = filepath.Abs(krtpkg); err != nil {
		return err
	}
	if c.self, err = os.Executable(); err != nil {
		return err
	}
	for _, name := range []string{"imgpkg", "oras", "crane", "regctl", "skopeo"} {
		if c.tools[name], err = hack.Build(ctx, "tools/"+name); err != nil {
			return err
		}
	}
	if c.dir, err = os.MkdirTemp(memory(), "krtpkg-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(c.dir)
	source, err := c.registry(ctx, "source", nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	c.source = source.Host
	all, err := c.fill(ctx, scale)
	if err != nil {
		return err
	}
	counting, err := c.registry(ctx, "source", c.fromSource.count)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, counting.Close()) }()
	c.counting = counting.Host
	if err := c.head(ctx, all); err != nil {
		return err
	}
	return c.jobs(ctx)
}

// memory is where files are held in memory, or "" where there is no such place: registries and
// programs are to be measured, not the disk.
func memory() string {
	const shared = "/dev/shm"
	if info, err := os.Stat(shared); err != nil || !info.IsDir() {
		return ""
	}
	return shared
}

// registry runs one on a folder of the benchmark's.
func (c *carry) registry(ctx context.Context, dir string, front func(http.Handler) http.Handler) (*registrytest.Registry, error) {
	return registrytest.Run(ctx, registrytest.Options{Kind: registrytest.Distribution3, Dir: c.path(dir), Middleware: front})
}

// fill puts the images into the source, and a bundle that names them, with all of them.
func (c *carry) fill(ctx context.Context, scale float64) (*pushed, error) {
	out, err := exec.CommandContext(ctx, c.self, "-corpus", c.source, "-scale", fmt.Sprint(scale)).Output()
	if err != nil {
		return nil, fmt.Errorf("corpus: %w", err)
	}
	var all pushed
	if err := json.Unmarshal(out, &all); err != nil {
		return nil, fmt.Errorf("corpus: %w", err)
	}
	c.images = all.Images
	if err := c.write(&all); err != nil {
		return nil, err
	}
	for _, args := range [][]string{
		{"build", "-q", "-f", c.path("bundle"), "--to", "oci:" + c.path("dist")},
		{"push", "-q", "oci:" + c.path("dist") + ":1.0.0", c.source + "/" + root},
	} {
		if out, err := exec.CommandContext(ctx, c.krtpkg, args...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("krtpkg %s: %w\n%s", args[0], err, out)
		}
	}
	return &all, nil
}

// write writes the definition, its manifests, and the list for the floor.
func (c *carry) write(all *pushed) error {
	var pods, blobs strings.Builder
	for i, image := range all.Images {
		fmt.Fprintf(&pods, "---\napiVersion: v1\nkind: Pod\nmetadata: {name: app-%d}\nspec:\n  containers: [{name: app, image: '%s/%s'}]\n", i, c.source, image)
	}
	for _, blob := range all.Blobs {
		fmt.Fprintln(&blobs, blob.Digest)
	}
	definition := "apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: bench, version: 1.0.0}\nspec: {layer: 6, sources: [{file: pods.yaml}]}\n"
	c.floor = c.path("blobs")
	return errors.Join(
		os.MkdirAll(c.path("bundle"), 0o755),
		os.WriteFile(c.path("bundle/bundle.yaml"), []byte(definition), 0o644),
		os.WriteFile(c.path("bundle/pods.yaml"), []byte(pods.String()), 0o644),
		os.WriteFile(c.floor, []byte(blobs.String()), 0o644))
}

// head prints what is measured and the head of the table.
func (c *carry) head(ctx context.Context, all *pushed) error {
	var least measured
	if err := least.run(exec.CommandContext(ctx, "true")); err != nil {
		return err
	}
	place := "in memory"
	if memory() == "" {
		place = "on disk"
	}
	fmt.Printf("\n%d images, %.2f GB, of which %.2f GB distinct; distribution on both sides, %s; medians of %d rounds in turn.\n",
		corpusImages, float64(all.Sum)/1e9, float64(all.Distinct)/1e9, place, c.rounds)
	fmt.Printf("%s.\n", strings.Join(c.versions(ctx), ", "))
	fmt.Printf("Requests and bodies are of one more round, behind fronts. A peak under %d MiB can't be told.\n\n", least.memory[0]/1024+1)
	fmt.Println("| job | program | wall | CPU | peak memory | source: requests, bodies | target: requests, bodies | / floor | / imgpkg |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|")
	return nil
}

func (c *carry) jobs(ctx context.Context) error {
	copies := c.copies()
	for _, j := range []struct {
		name     string
		programs []program
		again    bool
	}{
		{"mirror", copies, false},
		{"nothing to do", copies[1:], true}, // the floor asks nothing
		{"export", c.exports(), false},
		{"import", c.imports(), false},
	} {
		if err := c.play(ctx, j.name, j.programs, j.again); err != nil {
			return fmt.Errorf("%s: %w", j.name, err)
		}
	}
	return nil
}

// result is what one program did in a job.
type result struct {
	measured
	source, target passed
	// err is the first failure, after which the program is not run again.
	err error
}

// play runs every program in turn in each round, on a target that is empty or, again, on one
// that has everything. A program that fails is a row: only the end of ctx ends the job.
func (c *carry) play(ctx context.Context, job string, programs []program, again bool) error {
	results := make([]result, len(programs))
	archives := c.path("archives")
	if err := os.MkdirAll(archives, 0o755); err != nil {
		return err
	}
	for i, p := range programs {
		if p.before != nil {
			results[i].err = new(measured).run(shell(ctx, p.before(way{source: c.source, dir: archives})))
		}
	}
	// The round that is counted comes first, and fills the caches too.
	for round := range c.rounds + 1 {
		for i, p := range programs {
			if r := &results[i]; r.err == nil {
				r.err = c.round(ctx, p, again, round == 0, r)
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
		}
	}
	var floor, imgpkg time.Duration
	for i, p := range programs {
		switch {
		case results[i].err != nil:
		case p.name == "floor":
			floor = median(results[i].wall)
		case p.name == "imgpkg":
			imgpkg = median(results[i].wall)
		}
	}
	for i, p := range programs {
		results[i].print(job, p.name, floor, imgpkg)
	}
	return nil
}

func (r *result) print(job, program string, floor, imgpkg time.Duration) {
	if r.err != nil {
		fmt.Printf("| %s | %s | failed: %s | | | | | | |\n", job, program, reason(r.err))
		return
	}
	wall := median(r.wall)
	fmt.Printf("| %s | %s | %.2f s | %.2f s | %d MiB | %v | %v | %s | %s |\n", job, program, wall.Seconds(), median(r.cpu).Seconds(),
		median(r.memory)/1024, r.source, r.target, ratio(wall, floor), ratio(wall, imgpkg))
}

// reason is the line of a program's output that says what failed: some say first what they do.
func reason(err error) string {
	lines := strings.Split(err.Error(), "\n")
	for _, line := range lines {
		if lower := strings.ToLower(line); strings.Contains(lower, "error") || strings.Contains(lower, "fatal") {
			return strings.ReplaceAll(line, "|", `\|`)
		}
	}
	return strings.ReplaceAll(lines[0], "|", `\|`)
}

func ratio(a, b time.Duration) string {
	if b == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", float64(a)/float64(b))
}

// round runs one program once on a fresh target. What is counted is not timed: the fronts take
// time themselves.
func (c *carry) round(ctx context.Context, p program, again, counted bool, into *result) (err error) {
	dir := c.path("round")
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	w := way{source: c.source, dir: filepath.Join(dir, "out"), archives: c.path("archives")}
	if err := os.MkdirAll(w.dir, 0o755); err != nil {
		return err
	}
	var front func(http.Handler) http.Handler
	if counted {
		w.source, front = c.counting, c.toTarget.count
	}
	target, err := c.registry(ctx, "round/target", front)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	w.target = target.Host
	command := p.command(w)
	var unmeasured measured
	if again {
		if err := unmeasured.run(shell(ctx, command)); err != nil {
			return err
		}
	}
	if !counted {
		return into.run(shell(ctx, command))
	}
	source, sink := c.fromSource.passed(), c.toTarget.passed()
	err = unmeasured.run(shell(ctx, command))
	into.source, into.target = c.fromSource.passed().since(source), c.toTarget.passed().since(sink)
	return err
}

// shell runs a command line. The last word keeps the shell from becoming the program, whose
// figures would be missing those of the others then.
func shell(ctx context.Context, command string) *exec.Cmd {
	return exec.CommandContext(ctx, "sh", "-c", command+"; exit $?")
}
