// Command names prints how much the names of functions say, per package, next to the
// codebases that docs and reviews compare with, as far as the module cache has them.
//
// It counts functions and methods outside of tests, without main and init. A word begins with
// a capital letter; an initialism is one word. Methods have columns of their own, since a
// method may be one word where its receiver says the rest (plan.Copy). An unexported name is
// repeated when several functions or methods have it, unless an interface of the same module
// declares it.
package main

import (
	"cmp"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"unicode"
)

// models are the modules to compare with.
var models = []string{"oras.land/oras-go/v2", "github.com/google/go-containerregistry", "filippo.io/age"}

func main() {
	packages := flag.Bool("packages", true, "a line for each package")
	flag.Parse()
	if err := printMeasures(*packages); err != nil {
		fmt.Fprintln(os.Stderr, "names:", err)
		os.Exit(1)
	}
}

func printMeasures(perPackage bool) error {
	byDir, total, err := measureTree(".")
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "functions\twords/name\tone word:\tfunctions\tmethods\tmost repeated unexported\t")
	if perPackage {
		for _, dir := range slices.Sorted(maps.Keys(byDir)) {
			byDir[dir].printRow(w, dir)
		}
	}
	total.printRow(w, "krtpkg")
	for _, module := range models {
		if dir := findModule(module); dir != "" {
			_, m, err := measureTree(dir)
			if err != nil {
				return err
			}
			m.printRow(w, filepath.Base(strings.TrimSuffix(module, "/v2")))
		}
	}
	return w.Flush()
}

// findModule returns the folder of a module in the module cache, or "".
func findModule(module string) string {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if dir := strings.TrimSpace(string(out)); err == nil && dir != "" {
		return dir
	}
	out, err = exec.Command("go", "env", "GOMODCACHE").Output()
	if err != nil {
		return ""
	}
	found, _ := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), filepath.FromSlash(module)+"@*"))
	if len(found) == 0 {
		return ""
	}
	return slices.Max(found)
}

// measures are the figures of a package or a module.
type measures struct {
	functions, words int
	plain, methods   wordCount
	// repeats counts the declarations of each unexported name.
	repeats map[string]int
}

// wordCount counts unexported names.
type wordCount struct{ all, oneWord int }

func (c wordCount) percentOneWord() float64 {
	return 100 * float64(c.oneWord) / float64(max(c.all, 1))
}

func (m *measures) wordsPerName() float64 {
	return float64(m.words) / float64(max(m.functions, 1))
}

// mostRepeated returns the unexported names in the order of how often they are declared.
func (m *measures) mostRepeated() []string {
	return slices.SortedFunc(maps.Keys(m.repeats), func(a, b string) int {
		return cmp.Or(cmp.Compare(m.repeats[b], m.repeats[a]), cmp.Compare(a, b))
	})
}

func (m *measures) printRow(w *tabwriter.Writer, name string) {
	var repeated []string
	for _, n := range m.mostRepeated() {
		if m.repeats[n] > 2 && len(repeated) < 3 {
			repeated = append(repeated, fmt.Sprintf("%s %d", n, m.repeats[n]))
		}
	}
	fmt.Fprintf(w, "%d\t%.2f\t\t%.0f %%\t%.0f %%\t%s\t  %s\n", m.functions, m.wordsPerName(),
		m.plain.percentOneWord(), m.methods.percentOneWord(), strings.Join(repeated, ", "), name)
}

func (m *measures) addFunction(name string, isMethod, isInterfaceMethod bool) {
	words := countWords(name)
	m.functions++
	m.words += words
	if ast.IsExported(name) {
		return
	}
	count := &m.plain
	if isMethod {
		count = &m.methods
	}
	count.all++
	if words == 1 {
		count.oneWord++
	}
	if !isInterfaceMethod {
		m.repeats[name]++
	}
}

// measureTree measures the packages below root, and all of them together.
func measureTree(root string) (byDir map[string]*measures, total *measures, err error) {
	files, err := parseTree(root)
	if err != nil {
		return nil, nil, err
	}
	interfaceMethods := map[string]bool{}
	for _, f := range files {
		collectInterfaceMethods(f.file, interfaceMethods)
	}
	byDir, total = map[string]*measures{}, &measures{repeats: map[string]int{}}
	for _, f := range files {
		m := byDir[f.dir]
		if m == nil {
			m = &measures{repeats: map[string]int{}}
			byDir[f.dir] = m
		}
		for _, d := range f.file.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Name.Name == "main" || fn.Name.Name == "init" || fn.Name.Name == "_" {
				continue
			}
			isMethod := fn.Recv != nil
			isInterfaceMethod := isMethod && interfaceMethods[fn.Name.Name]
			m.addFunction(fn.Name.Name, isMethod, isInterfaceMethod)
			total.addFunction(fn.Name.Name, isMethod, isInterfaceMethod)
		}
	}
	return byDir, total, nil
}

type sourceFile struct {
	dir  string
	file *ast.File
}

// parseTree parses the Go files below root that are not tests. Folders with a go.mod of their
// own belong to another module.
func parseTree(root string) (files []sourceFile, err error) {
	fset := token.NewFileSet()
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root:
			_, statErr := os.Stat(filepath.Join(path, "go.mod"))
			if statErr == nil || d.Name() == "testdata" || d.Name() == "vendor" || strings.HasPrefix(d.Name(), ".") {
				return filepath.SkipDir
			}
			return nil
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		files = append(files, sourceFile{filepath.ToSlash(dir), file})
		return err
	})
	return files, err
}

func collectInterfaceMethods(file *ast.File, names map[string]bool) {
	ast.Inspect(file, func(n ast.Node) bool {
		if t, ok := n.(*ast.InterfaceType); ok {
			for _, m := range t.Methods.List {
				for _, name := range m.Names {
					names[name.Name] = true
				}
			}
		}
		return true
	})
}

// countWords counts the words of a name in camel case: parseURL and URLParser have two.
func countWords(name string) int {
	words := 0
	runes := []rune(name)
	for i, r := range runes {
		endsInitialism := i > 0 && i+1 < len(runes) && unicode.IsUpper(runes[i-1]) && unicode.IsLower(runes[i+1])
		if i == 0 || unicode.IsUpper(r) && (!unicode.IsUpper(runes[i-1]) || endsInitialism) {
			words++
		}
	}
	return words
}
