// Crosscheck type-checks all packages, with their tests, for the systems that releases are built for. It is what
// GOOS=… go vet would find out about types, in a tenth of the time and with no build cache for each system, since
// function bodies of dependencies are left out and no code is generated.
//
//	go run ./hack/crosscheck                # darwin and windows, amd64 and arm64
//	go run ./hack/crosscheck windows/amd64
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"
)

var platforms = []string{"darwin/amd64", "darwin/arm64", "windows/amd64", "windows/arm64"}

func main() {
	wanted := platforms
	if len(os.Args) > 1 {
		wanted = os.Args[1:]
	}
	failed := false
	for _, platform := range wanted {
		began := time.Now()
		count, err := checkPlatform(platform)
		if err != nil {
			failed = true
			fmt.Fprintf(os.Stderr, "%s:\n%v\n", platform, err)
		}
		fmt.Printf("%s: %d packages in %s\n", platform, count, time.Since(began).Round(time.Second/10))
		runtime.GC() // so that the platforms do not add up
	}
	if failed {
		os.Exit(1)
	}
}

// listedPackage is what go list prints of a package, or of a variant of it for a test.
type listedPackage struct {
	ImportPath, Name, Dir, ForTest string
	GoFiles                        []string
	ImportMap                      map[string]string
	Standard                       bool
	Module                         *struct {
		Main      bool
		GoVersion string
	}
}

// isOurs reports whether the bodies of a package are to be checked: once for each package of this module, and for the
// variant that has its tests in it.
func (p *listedPackage) isOurs() bool {
	if p.Module == nil || !p.Module.Main {
		return false
	}
	path, _, isVariant := strings.Cut(p.ImportPath, " [")
	return !isVariant || path == p.ForTest || path == p.ForTest+"_test"
}

func listPackages(platform string) ([]*listedPackage, error) {
	system, architecture, found := strings.Cut(platform, "/")
	if !found {
		return nil, errors.New("want SYSTEM/ARCHITECTURE")
	}
	cmd := exec.Command("go", "list", "-deps", "-test", "-json=ImportPath,Name,Dir,ForTest,GoFiles,ImportMap,Standard,Module", "./...")
	cmd.Env = append(os.Environ(), "GOOS="+system, "GOARCH="+architecture, "CGO_ENABLED=0")
	var problem bytes.Buffer
	cmd.Stderr = &problem
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w: %s", err, problem.String())
	}
	var all []*listedPackage
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		p := new(listedPackage)
		if err := decoder.Decode(p); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		// The main package of a test is generated, and unsafe has no source.
		if !strings.HasSuffix(p.ImportPath, ".test") && p.ImportPath != "unsafe" {
			all = append(all, p)
		}
	}
}

// parsedPackage is a package whose files are being parsed.
type parsedPackage struct {
	*listedPackage
	files []*ast.File
	err   error
	done  chan struct{}
}

// parseAhead parses the files of packages in parallel, a limited number of packages ahead of who receives them.
func parseAhead(set *token.FileSet, all []*listedPackage) <-chan *parsedPackage {
	queue := make(chan *parsedPackage, 4*runtime.GOMAXPROCS(0))
	go func() {
		defer close(queue)
		workers := make(chan struct{}, runtime.GOMAXPROCS(0))
		for _, p := range all {
			one := &parsedPackage{listedPackage: p, done: make(chan struct{})}
			workers <- struct{}{}
			go func() {
				defer func() { <-workers; close(one.done) }()
				one.files, one.err = parseFiles(set, p)
			}()
			queue <- one
		}
	}()
	return queue
}

func parseFiles(set *token.FileSet, p *listedPackage) ([]*ast.File, error) {
	var files []*ast.File
	for _, name := range p.GoFiles {
		if !filepath.IsAbs(name) {
			name = filepath.Join(p.Dir, name)
		}
		file, err := parser.ParseFile(set, name, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	return files, nil
}

// checkPlatform checks all packages in the order of go list, which has imported packages first.
func checkPlatform(platform string) (int, error) {
	all, err := listPackages(platform)
	if err != nil {
		return 0, err
	}
	_, architecture, _ := strings.Cut(platform, "/")
	sizes := types.SizesFor("gc", architecture)
	checked := map[string]*types.Package{"unsafe": types.Unsafe}
	var (
		mu   sync.Mutex
		errs []error
	)
	report := func(err error) { mu.Lock(); errs = append(errs, err); mu.Unlock() }
	set := token.NewFileSet()
	ours := 0
	for p := range parseAhead(set, all) {
		<-p.done
		if p.err != nil {
			report(p.err)
			continue
		}
		config := types.Config{
			Importer: mapImporter{p.ImportMap, checked}, Sizes: sizes, IgnoreFuncBodies: !p.isOurs(), Error: report,
		}
		if p.Module != nil && p.Module.GoVersion != "" {
			config.GoVersion = "go" + p.Module.GoVersion
		}
		if p.isOurs() {
			ours++
		}
		path, _, _ := strings.Cut(p.ImportPath, " [")
		checked[p.ImportPath], _ = config.Check(path, set, p.files, nil) // errors are reported
		p.files = nil
	}
	return ours, errors.Join(errs...)
}

// mapImporter imports packages that have been checked, by the names that a package has for them.
type mapImporter struct {
	names   map[string]string
	checked map[string]*types.Package
}

// Import implements [types.Importer].
func (m mapImporter) Import(path string) (*types.Package, error) {
	if name, found := m.names[path]; found {
		path = name
	}
	if p := m.checked[path]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("package %s is not among the dependencies", path)
}
