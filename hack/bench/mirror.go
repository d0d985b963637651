package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"krtpkg.dev/krtpkg/internal/hack"
	"krtpkg.dev/krtpkg/internal/registrytest"
)

// mirrorBench is what the jobs of mirroring share.
type mirrorBench struct {
	*bench
	tools  map[string]string
	source *registrytest.Registry
	images []string
	floor  string // the file that lists the blobs
	self   string
	// collector is the address that traces are sent to.
	collector string
}

// program is one that does a job: its command, given the target's host and a folder that is
// new in each round.
type program struct {
	name    string
	command func(host, dir string) string
}

// benchMirror measures copying 30 images with their bundle, next to peers and next to the floor.
func benchMirror(ctx context.Context, b *bench) (err error) {
	c := &mirrorBench{bench: b, tools: map[string]string{}}
	c.rounds = min(c.rounds, 5)
	if c.self, err = os.Executable(); err != nil {
		return err
	}
	// skopeo's modules are in no checksum database: it is the system's, where there is one.
	c.tools["skopeo"] = "skopeo"
	for _, name := range []string{"imgpkg", "oras", "crane", "regctl"} {
		if c.tools[name], err = hack.BuildProgram(ctx, "tools/"+name); err != nil {
			return err
		}
	}
	if c.source, err = registrytest.RunRegistry(ctx, registrytest.Options{Kind: registrytest.Distribution3, Dir: filepath.Join(c.dir, "source")}); err != nil {
		return err
	}
	defer c.source.Close()
	endCollector, err := c.startCollector(ctx)
	if err != nil {
		return err
	}
	defer endCollector()
	unique, err := c.prepareSource(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("%d images, %.2f GB of distinct content; distribution 3 on both sides, in memory; medians of %d rounds in turn.\n\n", corpusImages, float64(unique)/1e9, c.rounds)
	fmt.Println("| job | program | wall | CPU | peak memory | requests | / floor | / imgpkg |")
	fmt.Println("|---|---|---|---|---|---|---|---|")
	return c.runMirrorJobs(ctx)
}

// startCollector starts what traces are sent to, which drops them.
func (c *mirrorBench) startCollector(ctx context.Context) (end func(), err error) {
	path, err := hack.BuildProgram(ctx, "collector")
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	lines := bufio.NewReader(stdout)
	address, err := lines.ReadString('\n')
	if err != nil {
		return nil, errors.Join(fmt.Errorf("collector: %w", err), stdin.Close(), cmd.Wait())
	}
	c.collector = strings.TrimSpace(address)
	go io.Copy(io.Discard, lines)
	return func() {
		stdin.Close()
		cmd.Wait()
	}, nil
}

// prepareSource fills the source: the images, and a bundle that names them, pushed with all of them.
func (c *mirrorBench) prepareSource(ctx context.Context) (int64, error) {
	out, err := exec.CommandContext(ctx, c.self, "-corpus", c.source.Host, "-scale", fmt.Sprint(c.size)).Output()
	if err != nil {
		return 0, fmt.Errorf("corpus: %w", err)
	}
	var all pushed
	if err := json.Unmarshal(out, &all); err != nil {
		return 0, err
	}
	c.images = all.References
	var manifest strings.Builder
	c.floor = c.filePath("blobs")
	for i, reference := range all.References {
		fmt.Fprintf(&manifest, "---\napiVersion: v1\nkind: Pod\nmetadata: {name: app-%d}\nspec:\n  containers: [{name: app, image: '%s'}]\n", i, reference)
	}
	definition := "apiVersion: krtpkg.dev/v1alpha1\nkind: Bundle\nmetadata: {name: bench, version: 1.0.0}\nspec: {layer: 6, sources: [{file: pods.yaml}]}\n"
	err = errors.Join(os.MkdirAll(c.filePath("bundle"), 0o755),
		os.WriteFile(c.floor, []byte(strings.Join(all.Blobs, "\n")), 0o644),
		os.WriteFile(c.filePath("bundle/pods.yaml"), []byte(manifest.String()), 0o644),
		os.WriteFile(c.filePath("bundle/bundle.yaml"), []byte(definition), 0o644))
	if err != nil {
		return 0, err
	}
	for _, args := range [][]string{
		{"build", "-q", "-f", c.filePath("bundle"), "--to", "oci:" + c.filePath("dist")},
		{"push", "-q", "oci:" + c.filePath("dist") + ":1.0.0", c.source.Host + "/krt/bench:1.0.0"},
	} {
		if out, err := exec.CommandContext(ctx, c.krtpkg, args...).CombinedOutput(); err != nil {
			return 0, fmt.Errorf("krtpkg %s: %w\n%s", args[0], err, out)
		}
	}
	return all.Bytes, nil
}

// forEachImage returns a command for every image.
func (c *mirrorBench) forEachImage(command func(from, repository string) string) string {
	var all []string
	for i, reference := range c.images {
		all = append(all, command(reference, fmt.Sprintf("app/%d", i)))
	}
	return strings.Join(all, " && ")
}

func (c *mirrorBench) runMirrorJobs(ctx context.Context) error {
	from, repository, folder := c.source.Host+"/krt/bench:1.0.0", c.source.Host+"/v2/krt/bench", c.filePath("floor")
	copies := []program{
		{"floor", func(host, _ string) string { return c.floorCommand(repository, host+"/v2/krt/bench") }},
		{"krtpkg", func(host, _ string) string {
			return fmt.Sprintf("%s copy -q %s %s/krt/bench", c.krtpkg, from, host)
		}},
		{"krtpkg, traced", func(host, _ string) string {
			return fmt.Sprintf("OTEL_EXPORTER_OTLP_ENDPOINT=http://%s %s copy -q %s %s/krt/bench", c.collector, c.krtpkg, from, host)
		}},
		{"imgpkg", func(host, _ string) string {
			return fmt.Sprintf("%s copy -b %s --to-repo %s/krt/bench --registry-insecure", c.tools["imgpkg"], from, host)
		}},
		{"oras", func(host, _ string) string {
			return fmt.Sprintf("%s cp -r --no-tty --from-plain-http --to-plain-http %s %s/krt/bench:1.0.0", c.tools["oras"], from, host)
		}},
		{"crane", func(host, _ string) string {
			return c.forEachImage(func(image, repository string) string {
				return fmt.Sprintf("%s copy --insecure %s %s/%s:1.0", c.tools["crane"], image, host, repository)
			})
		}},
		{"regctl", func(host, _ string) string {
			return c.forEachImage(func(image, repository string) string {
				return fmt.Sprintf("%[1]s --host reg=%[3]s,tls=disabled --host reg=%[4]s,tls=disabled image copy %[2]s %[3]s/%[5]s:1.0", c.tools["regctl"], image, host, c.source.Host, repository)
			})
		}},
		{"skopeo", func(host, _ string) string {
			return c.forEachImage(func(image, repository string) string {
				return fmt.Sprintf("%s --insecure-policy copy -q --all --src-tls-verify=false --dest-tls-verify=false docker://%s docker://%s/%s:1.0", c.tools["skopeo"], image, host, repository)
			})
		}},
	}
	exports := []program{
		{"floor", func(_, dir string) string { return c.floorCommand(repository, dir) }},
		{"krtpkg", func(_, dir string) string {
			return fmt.Sprintf("%s export -q %s %s/x.tar", c.krtpkg, from, dir)
		}},
		{"imgpkg", func(_, dir string) string {
			return fmt.Sprintf("%s copy -b %s --to-tar %s/x.tar --registry-insecure", c.tools["imgpkg"], from, dir)
		}},
		{"oras and tar", func(_, dir string) string {
			return fmt.Sprintf("%s cp -r --no-tty --from-plain-http %s --to-oci-layout %[3]s/l:1.0.0 && tar -C %[3]s/l -cf %[3]s/x.tar . && rm -r %[3]s/l", c.tools["oras"], from, dir)
		}},
	}
	imports := []program{
		{"floor", func(host, _ string) string { return c.floorCommand(folder, host+"/v2/krt/bench") }},
		{"krtpkg", func(host, _ string) string {
			return fmt.Sprintf("%s import -q %s %s/krt/bench", c.krtpkg, c.filePath("krtpkg.tar"), host)
		}},
		{"imgpkg", func(host, _ string) string {
			return fmt.Sprintf("%s copy --tar %s --to-repo %s/krt/bench --registry-insecure", c.tools["imgpkg"], c.filePath("imgpkg.tar"), host)
		}},
		{"oras", func(host, _ string) string {
			return fmt.Sprintf("%s cp -r --no-tty --from-oci-layout %s:1.0.0 --to-plain-http %s/krt/bench:1.0.0", c.tools["oras"], c.filePath("krtpkg.tar"), host)
		}},
	}
	if err := c.playPrograms(ctx, "mirror", copies, false); err != nil {
		return err
	}
	if err := c.playPrograms(ctx, "nothing to do", copies[1:], true); err != nil {
		return err
	}
	if err := c.playPrograms(ctx, "export to one file", exports, false); err != nil {
		return err
	}
	if err := os.Mkdir(folder, 0o755); err != nil {
		return err
	}
	for _, p := range exports[:3] {
		dir := c.dir
		if p.name == "floor" {
			dir = folder
		}
		command := strings.ReplaceAll(p.command("", dir), "/x.tar", "/"+p.name+".tar")
		if out, err := exec.CommandContext(ctx, "sh", "-c", command).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", p.name, err, out)
		}
	}
	return c.playPrograms(ctx, "import", imports, false)
}

// floorCommand returns the command that moves the blobs as plainly as can be.
func (c *mirrorBench) floorCommand(from, to string) string {
	return fmt.Sprintf("%s -floor %s -from %s -to %s", c.self, c.floor, from, to)
}

// playPrograms runs every program in turn, each round and each program on a target that is empty, or
// one that has everything.
func (c *mirrorBench) playPrograms(ctx context.Context, job string, programs []program, again bool) error {
	all := make([]measured, len(programs))
	failed := make([]error, len(programs))
	requests := make([]int64, len(programs))
	for round := range c.rounds {
		for i, p := range programs {
			if failed[i] != nil {
				continue
			}
			failed[i] = c.runRound(ctx, p, again, false, &all[i])
			if failed[i] == nil && round == 0 {
				requests[i], failed[i] = c.countRequests(ctx, p, again)
			}
		}
	}
	var floor, imgpkg time.Duration
	for i, p := range programs {
		if failed[i] == nil {
			switch p.name {
			case "floor":
				floor = medianOf(all[i].wall)
			case "imgpkg":
				imgpkg = medianOf(all[i].wall)
			}
		}
	}
	for i, p := range programs {
		if failed[i] != nil {
			line, _, _ := strings.Cut(failed[i].Error(), "\n")
			fmt.Printf("| %s | %s | failed: %s | | | | | |\n", job, p.name, line)
			continue
		}
		wall := medianOf(all[i].wall)
		fmt.Printf("| %s | %s | %.2f s | %.2f s | %d MiB | %d | %s | %s |\n", job, p.name, wall.Seconds(), medianOf(all[i].cpu).Seconds(),
			medianOf(all[i].memory)/1024, requests[i], formatRatio(wall, floor), formatRatio(wall, imgpkg))
	}
	return nil
}

func formatRatio(a, b time.Duration) string {
	if b == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", float64(a)/float64(b))
}

// runRound runs one program once on a fresh target.
func (c *mirrorBench) runRound(ctx context.Context, p program, again, count bool, into *measured) (err error) {
	dir := c.filePath("round")
	defer os.RemoveAll(dir)
	if err := os.MkdirAll(filepath.Join(dir, "out"), 0o755); err != nil {
		return err
	}
	o := registrytest.Options{Kind: registrytest.Distribution3, Dir: filepath.Join(dir, "target")}
	if count {
		o.Middleware = c.countHandler
	}
	target, err := registrytest.RunRegistry(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	command := p.command(target.Host, filepath.Join(dir, "out"))
	if again {
		if out, err := shellCommand(ctx, command).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
	}
	cmd := shellCommand(ctx, command)
	before := c.requests.Load()
	start := time.Now()
	out, err := cmd.CombinedOutput()
	wall := time.Since(start)
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	// The shell's children count as its own once it has waited for them.
	into.wall = append(into.wall, wall)
	into.cpu = append(into.cpu, cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
	into.memory = append(into.memory, peakMemory(cmd.ProcessState))
	into.requests = append(into.requests, c.requests.Load()-before)
	return nil
}

func shellCommand(ctx context.Context, command string) *exec.Cmd {
	return exec.CommandContext(ctx, "sh", "-c", command+"; exit $?")
}

// countRequests runs a program once more behind a counter, which costs time and so is not timed.
func (c *mirrorBench) countRequests(ctx context.Context, p program, again bool) (int64, error) {
	var m measured
	if err := c.runRound(ctx, p, again, true, &m); err != nil {
		return 0, err
	}
	return m.requests[0], nil
}
