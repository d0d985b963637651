// Package hack builds the programs that tests, the demo and the benchmarks need
// (registries, clients, a control plane) from the modules under hack/, each pinned by
// its own go.mod and go.sum, so that none of their dependencies reach users.
//
// Call [BuildProgram] with the name of a folder under hack/. The binary is kept in the user's
// cache directory under a name that holds the hash of everything it is made from, so it is
// built once a machine and rebuilt when a pin moves.
package hack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/mod/modfile"
)

// BuildProgram returns the path of the program of hack/<name>, building it first if this machine
// has not built these very inputs before.
//
// The folder is a Go module. If it has Go files, it is the program; otherwise the one
// package of its go.mod's tool directive is. A file named ldflags adds linker flags, one
// named tags build tags, and one named cgo says that C is a part of it.
func BuildProgram(ctx context.Context, name string) (string, error) {
	p, err := findProgram(name)
	if err != nil {
		return "", err
	}
	return p.build(ctx)
}

// program is a program of hack/ and where it is kept.
type program struct {
	name string
	dir  string   // its module
	path string   // of the binary
	tags []string // of this variant, on top of those that the module always has
}

func findProgram(name string, tags ...string) (*program, error) {
	root, err := FindRoot()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(root, "hack", filepath.FromSlash(name))
	sum, err := hashInputs(dir)
	if err != nil {
		return nil, fmt.Errorf("hack/%s: %w", name, err)
	}
	cache, err := cacheDir()
	if err != nil {
		return nil, err
	}
	base := filepath.Base(dir)
	// A folder of its own for each build, so that the program keeps its plain name.
	folder := strings.Join(append([]string{base, sum[:16]}, tags...), "-")
	return &program{name: name, dir: dir, path: filepath.Join(cache, folder, base), tags: tags}, nil
}

// cacheDir returns the folder of what is built and downloaded, and makes it.
func cacheDir() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	cache = filepath.Join(cache, "krtpkg", "hack")
	return cache, os.MkdirAll(cache, 0o755)
}

func (p *program) isBuilt() bool { return isFile(p.path) }

// build returns the path of the binary, which it builds unless it is there.
func (p *program) build(ctx context.Context) (string, error) {
	if p.isBuilt() {
		return p.path, nil
	}
	// Test packages run side by side: one of them builds, the others wait for it, but not for another variant.
	unlock, err := lockFile(ctx, filepath.Dir(p.path)+".lock")
	if err != nil {
		return "", fmt.Errorf("hack/%s: %w", p.name, err)
	}
	defer unlock()
	if p.isBuilt() {
		return p.path, nil
	}
	if err := p.runBuild(ctx); err != nil {
		return "", fmt.Errorf("hack/%s: %w", p.name, err)
	}
	return p.path, nil
}

// FindRoot returns the top of the checkout: the nearest folder above the working directory that
// holds hack/ and go.mod.
func FindRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if isDir(filepath.Join(dir, "hack")) && isFile(filepath.Join(dir, "go.mod")) {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", fmt.Errorf("no checkout of krtpkg above the working directory: hack/ is needed to build test programs")
		}
		dir = parent
	}
}

// ModuleDir returns where the files are of a module that the program of hack/<name> is built from. It downloads the module if it is not
// in the module cache yet: go list has no folder for it then.
func ModuleDir(ctx context.Context, name, module string) (string, error) {
	root, err := FindRoot()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", module)
	cmd.Dir = filepath.Join(root, "hack", filepath.FromSlash(name))
	cmd.Env = append(os.Environ(), "GOWORK=off")
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go mod download %s: %w\n%s%s", module, err, said.Bytes(), out)
	}
	var downloaded struct{ Dir string }
	if err := json.Unmarshal(out, &downloaded); err != nil {
		return "", fmt.Errorf("go mod download %s: %w", module, err)
	}
	return downloaded.Dir, nil
}

func (p *program) runBuild(ctx context.Context) error {
	target, err := buildTarget(p.dir)
	if err != nil {
		return err
	}
	flags := "-s -w"
	if extra, err := os.ReadFile(filepath.Join(p.dir, "ldflags")); err == nil {
		flags += " " + strings.Join(strings.Fields(string(extra)), " ")
	}
	tags := p.tags
	if list, err := os.ReadFile(filepath.Join(p.dir, "tags")); err == nil {
		tags = append(strings.Fields(string(list)), tags...)
	}
	if err := os.MkdirAll(filepath.Dir(p.path), 0o755); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-tags", strings.Join(tags, ","), "-ldflags", flags, "-o", p.path+".tmp", target)
	cmd.Dir = p.dir
	cgo := "CGO_ENABLED=0"
	if isFile(filepath.Join(p.dir, "cgo")) {
		cgo = "CGO_ENABLED=1"
	}
	cmd.Env = append(os.Environ(), cgo, "GOWORK=off")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", target, err, said.Bytes())
	}
	return os.Rename(p.path+".tmp", p.path)
}

// buildTarget returns what go build is given: the folder itself, or the module's one tool.
func buildTarget(dir string) (string, error) {
	sources, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return "", err
	}
	if len(sources) > 0 {
		return ".", nil
	}
	data, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return "", err
	}
	mod, err := modfile.Parse("go.mod", data, nil)
	if err != nil {
		return "", err
	}
	if len(mod.Tool) != 1 {
		return "", fmt.Errorf("go.mod has %d tool directives, want one", len(mod.Tool))
	}
	return mod.Tool[0].Path, nil
}

// hashInputs returns the hash over the module's files and the toolchain.
func hashInputs(dir string) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		fmt.Fprintln(h, rel, len(data))
		h.Write(data)
		return nil
	})
	return hex.EncodeToString(h.Sum(nil)), err
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}
