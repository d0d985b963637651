package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
)

// The largest runtime of the scale job.
const (
	scaleBundles    = 200
	imagesPerBundle = 10
	blobsPerImage   = 10
)

// point is one runtime on the curves: how long each job took.
type point struct {
	images  int
	seconds map[string]float64
}

// scale measures how time, memory and requests grow with the number of images.
func scale(ctx context.Context, krtpkg, svg string) (err error) {
	c := &carry{bench: &bench{rounds: 1}}
	if c.krtpkg, err = filepath.Abs(krtpkg); err != nil {
		return err
	}
	if c.dir, err = os.MkdirTemp(memory(), "krtpkg-scale-"); err != nil {
		return err
	}
	defer os.RemoveAll(c.dir)
	fmt.Println("\n| bundles | images | blobs | job | wall | CPU | peak memory | requests at the source | at the target |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|")
	var curve []point
	for _, bundles := range []int{scaleBundles / 4, scaleBundles / 2, scaleBundles} {
		p, err := c.grow(ctx, bundles)
		if err != nil {
			return fmt.Errorf("%d bundles: %w", bundles, err)
		}
		curve = append(curve, *p)
	}
	if svg == "" {
		return nil
	}
	return os.WriteFile(svg, []byte(plot(curve)), 0o644)
}

// grow measures one runtime, and once more behind fronts, which count and take time.
func (c *carry) grow(ctx context.Context, bundles int) (*point, error) {
	if err := synthetic(ctx, c.path("layout"), bundles); err != nil {
		return nil, err
	}
	timed, err := c.chain(ctx, false)
	if err != nil {
		return nil, err
	}
	counted, err := c.chain(ctx, true)
	if err != nil {
		return nil, err
	}
	p := &point{bundles * imagesPerBundle, map[string]float64{}}
	for i, s := range chain {
		t := timed[i]
		p.seconds[s.name] = t.wall[0].Seconds()
		fmt.Printf("| %d | %d | %d | %s | %.2f s | %.2f s | %d MiB | %d | %d |\n", bundles, p.images, p.images*blobsPerImage, s.name,
			t.wall[0].Seconds(), t.cpu[0].Seconds(), t.memory[0]/1024, counted[i].source.requests, counted[i].target.requests)
	}
	return p, os.RemoveAll(c.path("layout"))
}

// step is one job on what the jobs before it left.
type step struct {
	name string
	args func(way) []string
}

// chain is the way of a runtime: from a folder into one registry, from there into another and
// into a file.
var chain = []step{
	{"push from a folder", func(w way) []string {
		return []string{"copy", "oci:" + w.dir + "/../layout:1.0.0", w.source + "/krt/scale"}
	}},
	{"copy", func(w way) []string {
		return []string{"copy", w.source + "/krt/scale:1.0.0", w.target + "/krt/scale"}
	}},
	{"nothing to do", func(w way) []string {
		return []string{"copy", w.source + "/krt/scale:1.0.0", w.target + "/krt/scale"}
	}},
	{"export", func(w way) []string {
		return []string{"export", w.source + "/krt/scale:1.0.0", w.dir + "/scale.tar"}
	}},
}

// chain runs the steps between two registries that are empty.
func (c *carry) chain(ctx context.Context, counted bool) (_ []result, err error) {
	w := way{dir: c.path("round")}
	defer func() { err = errors.Join(err, os.RemoveAll(w.dir)) }()
	var fronts [2]func(http.Handler) http.Handler
	if counted {
		fronts[0], fronts[1] = c.fromSource.count, c.toTarget.count
	}
	for i, host := range []*string{&w.source, &w.target} {
		r, err := c.registry(ctx, fmt.Sprintf("round/%d", i), fronts[i])
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, r.Close()) }()
		*host = r.Host
	}
	var all []result
	for _, s := range chain {
		var r result
		source, target := c.fromSource.passed(), c.toTarget.passed()
		args := append(s.args(w), "-q")
		if err := r.run(exec.CommandContext(ctx, c.krtpkg, args...)); err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		r.source, r.target = c.fromSource.passed().since(source), c.toTarget.passed().since(target)
		all = append(all, r)
	}
	return all, nil
}
