package main

import (
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"krtpkg.dev/krtpkg/internal/hack"
	"krtpkg.dev/krtpkg/pkg/delta"
)

// release are two consecutive versions of something from a package registry.
type release struct {
	// kind is what it is made of: Go programs are built from their modules, npm packages are unpacked.
	kind, name, before, after string
}

// releases are the corpus of the delta job. What is made of it stays in the user's cache folder.
var releases = []release{
	{"Go", "github.com/google/go-containerregistry/cmd/crane", "v0.22.0", "v0.22.1"},
	{"Go", "github.com/regclient/regclient/cmd/regctl", "v0.11.6", "v0.11.7"},
	{"Go", "oras.land/oras/cmd/oras", "v1.3.5", "v1.3.6"},
	{"Go", "github.com/mikefarah/yq/v4", "v4.54.2", "v4.54.3"},
	{"Go", "@esbuild/linux-x64", "0.28.1", "0.28.2"},
	{"files", "react-dom", "19.3.0", "19.3.1"},
	{"files", "prettier", "3.10.0", "3.10.1"},
	{"files", "webpack", "5.112.2", "5.113.0"},
	{"files", "eslint", "10.14.0", "10.15.0"},
	{"files", "typescript", "5.9.2", "5.9.3"},
	{"files", "@angular/core", "22.2.5", "22.2.6"},
	{"files", "npm", "12.2.1", "12.2.2"},
	{"Rust", "@rollup/rollup-linux-x64-gnu", "4.68.7", "4.68.8"},
	{"Rust", "@tailwindcss/oxide-linux-x64-gnu", "4.3.4", "4.3.5"},
	{"Rust", "lightningcss-linux-x64-gnu", "1.32.0", "1.33.0"},
	{"C++", "@img/sharp-libvips-linux-x64", "1.3.3", "1.3.4"},
	{"Rust", "@oxlint/binding-linux-x64-gnu", "1.94.0", "1.95.0"},
	{"Rust", "@sentry/cli-linux-x64", "3.7.0", "3.8.0"},
	{"Go", "github.com/distribution/distribution/v3/cmd/registry", "v3.1.1", "v3.1.2"},
	{"Rust", "@swc/core-linux-x64-gnu", "1.16.21", "1.16.22"},
	{"Rust", "@turbo/linux-64", "2.11.10", "2.11.11"},
	{"Rust", "@biomejs/cli-linux-x64", "2.6.7", "2.6.8"},
	{"files", "next", "16.4.5", "16.4.6"},
	{"Debian", "debian", "12u7", "12u14"},
	{"C++", "@cloudflare/workerd-linux-64", "1.20261110.1", "1.20261117.1"},
}

// title returns the name as people write it.
func (r release) title() string {
	name := strings.TrimPrefix(r.name, "@")
	if strings.Contains(name, ".") {
		if name = path.Base(name); len(name) == 2 {
			name = path.Base(path.Dir(r.name))
		}
	}
	return name
}

// benchDelta measures deltas of layers next to what others make of the same two versions.
func benchDelta(ctx context.Context, b *bench) error {
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	c := &deltaBench{bench: b, cache: filepath.Join(cache, "krtpkg-releases")}
	if c.self, err = os.Executable(); err != nil {
		return err
	}
	if c.tarDiff, err = hack.BuildProgram(ctx, "peers/tar-diff"); err != nil {
		return err
	}
	measured := slices.DeleteFunc(slices.Clone(releases), func(r release) bool {
		return !slices.ContainsFunc(strings.Split(b.releases, ","), func(name string) bool { return strings.Contains(r.name, name) })
	})
	fmt.Printf("%s, %d cores, %s; layers by Go's gzip -6; times are CPU.\n\n", runtime.Version(), runtime.NumCPU(), processorName())
	fmt.Println("| release | kind | layer | krtpkg | zstd patch on the blob | xdelta3 on the tar | bsdiff on the tar | tar-diff | gzip -6 | make | memory | apply | memory |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|---|---|---|---|")
	for _, r := range measured {
		if err := c.measure(ctx, r); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	for _, kind := range []string{"Go", "Rust", "C++", "files", "Debian", ""} {
		if shares := c.shares[kind]; len(shares) > 0 {
			slices.Sort(shares)
			fmt.Printf("\n%s: median %.1f %% of the layer, from %.2f to %.1f %%, %d releases\n", cmp.Or(kind, "all"), shares[len(shares)/2], shares[0], shares[len(shares)-1], len(shares))
		}
	}
	if b.svg != "" {
		if err := os.WriteFile(b.svg, []byte(drawShares(c.rows)), 0o644); err != nil {
			return err
		}
	}
	return c.measureEncoders(ctx, measured)
}

type deltaBench struct {
	*bench
	cache, self, tarDiff string
	shares               map[string][]float64
	rows                 []deltaRow
}

// maxBsdiff is the size of a tar up to which bsdiff, and tar-diff with its code, end in time.
const maxBsdiff = 30 << 20

// measure measures one release.
func (c *deltaBench) measure(ctx context.Context, r release) error {
	before, err := c.makeTar(ctx, r, r.before)
	if err != nil {
		return err
	}
	after, err := c.makeTar(ctx, r, r.after)
	if err != nil {
		return err
	}
	oldLayer, newLayer, out := c.filePath("before.tgz"), c.filePath("after.tgz"), c.filePath("delta")
	if _, err := c.run(ctx, oldLayer, c.self, "-delta", "gzip", before); err != nil {
		return err
	}
	packed, err := c.run(ctx, newLayer, c.self, "-delta", "gzip", after)
	if err != nil {
		return err
	}
	size, err := sizeOf(newLayer)
	if err != nil {
		return err
	}
	share := func(name string, args ...string) float64 {
		if _, err := c.run(ctx, "", name, args...); err != nil {
			return 0
		}
		n, err := sizeOf(out)
		if err != nil {
			return 0
		}
		return 100 * float64(n) / float64(size)
	}
	row := deltaRow{
		title:  fmt.Sprintf("%s %s → %s", r.title(), strings.TrimPrefix(r.before, "v"), strings.TrimPrefix(r.after, "v")),
		zstd:   share("zstd", "-q", "-f", "-9", "--long=27", "--patch-from="+oldLayer, newLayer, "-o", out),
		xdelta: share("xdelta3", "-9", "-e", "-f", "-B", "536870912", "-s", before, after, out),
	}
	if n, err := sizeOf(after); err == nil && n < maxBsdiff {
		row.bsdiff = share("bsdiff", before, after, out)
		row.tardiff = share(c.tarDiff, oldLayer, newLayer, out)
	}
	made, err := c.run(ctx, out, c.self, "-delta", "make", oldLayer, newLayer)
	if err != nil {
		return err
	}
	n, err := sizeOf(out)
	if err != nil {
		return err
	}
	applied, err := c.run(ctx, "", c.self, "-delta", "apply", oldLayer, newLayer, out)
	if err != nil {
		return err
	}
	row.krtpkg = 100 * float64(n) / float64(size)
	c.rows = append(c.rows, row)
	if c.shares == nil {
		c.shares = map[string][]float64{}
	}
	c.shares[r.kind], c.shares[""] = append(c.shares[r.kind], row.krtpkg), append(c.shares[""], row.krtpkg)
	fmt.Printf("| %s | %s | %.1f MB | **%.2f %%** | %s | %s | %s | %s | %.1f s | %.1f s | %d MiB | %.1f s | %d MiB |\n",
		row.title, r.kind, float64(size)/1e6, row.krtpkg, formatShare(row.zstd), formatShare(row.xdelta), formatShare(row.bsdiff), formatShare(row.tardiff),
		packed.cpu.Seconds(), made.cpu.Seconds(), made.memory>>10, applied.cpu.Seconds(), applied.memory>>10)
	return nil
}

// formatShare returns a share for the table.
func formatShare(percent float64) string {
	if percent == 0 {
		return "not run"
	}
	return fmt.Sprintf("%.1f %%", percent)
}

// usage is what a process took.
type usage struct {
	cpu    time.Duration
	memory int64 // KiB
}

// run runs a program with its output in a file, or nowhere.
func (c *deltaBench) run(ctx context.Context, out, name string, args ...string) (*usage, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var problem strings.Builder
	cmd.Stderr = &problem
	if out != "" {
		file, err := os.Create(out)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		cmd.Stdout = file
	}
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, problem.String())
	}
	return &usage{cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), peakMemory(cmd.ProcessState)}, nil
}

func sizeOf(name string) (int64, error) {
	info, err := os.Stat(name)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// makeTar returns the tar of a version, which is made once.
func (c *deltaBench) makeTar(ctx context.Context, r release, version string) (string, error) {
	name := filepath.Join(c.cache, strings.NewReplacer("/", "-", "@", "").Replace(r.name)+"-"+version+".tar")
	if _, err := os.Stat(name); err == nil {
		return name, nil
	}
	dir, err := os.MkdirTemp(c.dir, "release-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	if err := os.MkdirAll(c.cache, 0o755); err != nil {
		return "", err
	}
	switch {
	case r.kind == "Debian":
		err = unpackDebian(ctx, dir, name, version)
	case strings.Contains(r.name, "."):
		err = buildGo(ctx, dir, name, r.name+"@"+version)
	default:
		err = fetchPackage(ctx, dir, name, r.name+"@"+version)
	}
	return name, err
}

// buildGo builds a program of the Go module proxy and writes its tar.
func buildGo(ctx context.Context, dir, name, program string) error {
	cmd := exec.CommandContext(ctx, "go", "install", "-trimpath", "-ldflags=-s -w", program)
	cmd.Env, cmd.Dir = append(os.Environ(), "GOBIN="+filepath.Join(dir, "bin"), "CGO_ENABLED=0", "GOFLAGS="), dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go install %s: %w: %s", program, err, out)
	}
	out, err := exec.CommandContext(ctx, "tar", "-C", dir, "--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "-cf", name+".partial", "bin").CombinedOutput()
	if err != nil {
		return fmt.Errorf("tar: %w: %s", err, out)
	}
	return os.Rename(name+".partial", name)
}

// fetchPackage downloads a package of npm's registry, which is a tar.
func fetchPackage(ctx context.Context, dir, name, spec string) error {
	cmd := exec.CommandContext(ctx, "npm", "pack", "--silent", "--json", spec)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("npm pack %s: %w", spec, err)
	}
	var packed []struct{ Filename string }
	if err := json.Unmarshal(out, &packed); err != nil || len(packed) != 1 {
		return fmt.Errorf("npm pack %s: %q: %w", spec, out, err)
	}
	file := filepath.Join(dir, filepath.Base(strings.NewReplacer("/", "-", "@", "").Replace(packed[0].Filename)))
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	unpacked, err := gzip.NewReader(in)
	if err != nil {
		return err
	}
	to, err := os.Create(name + ".partial")
	if err != nil {
		return err
	}
	if _, err := io.Copy(to, unpacked); err != nil {
		return errors.Join(err, to.Close())
	}
	return errors.Join(to.Close(), os.Rename(name+".partial", name))
}

// runDelta is a process of its own for one step.
func runDelta(ctx context.Context, step string, files []string) error {
	switch {
	case len(files) == 1:
		return compressFile(step, files[0])
	case step == "make" && len(files) == 2:
		before, after, err := layersOf(files)
		if err == nil {
			_, err = delta.Make(ctx, os.Stdout, after, []delta.Layer{before}, delta.Options{})
		}
		return err
	case step == "apply" && len(files) == 3:
		before, after, err := layersOf(files)
		if err != nil {
			return err
		}
		in, err := os.Open(files[2])
		if err != nil {
			return err
		}
		defer in.Close()
		d, err := delta.Open(in)
		if err != nil {
			return err
		}
		made, err := d.Apply(ctx, after.Digest, after.Size, func(ctx context.Context, _ delta.Base) (io.ReadCloser, error) { return before.Open(ctx) }, delta.Options{})
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, made)
		return errors.Join(err, made.Close())
	}
	return fmt.Errorf("no step %q of %d files", step, len(files))
}

func layersOf(files []string) (before, after delta.Layer, err error) {
	if before, err = layerOfFile(files[0]); err == nil {
		after, err = layerOfFile(files[1])
	}
	return before, after, err
}

func layerOfFile(name string) (delta.Layer, error) {
	in, err := os.Open(name)
	if err != nil {
		return delta.Layer{}, err
	}
	defer in.Close()
	d, err := digest.FromReader(in)
	if err != nil {
		return delta.Layer{}, err
	}
	size, err := sizeOf(name)
	return delta.Layer{Digest: d, Size: size, Open: func(context.Context) (io.ReadCloser, error) { return os.Open(name) }}, err
}
