package rules

import (
	"encoding/json"
	"go/ast"
	"go/doc"
	"go/doc/comment"
	"go/parser"
	"go/token"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// docPackage is a package whose documentation is checked.
type docPackage struct {
	ImportPath, Dir, Name string
	GoFiles               []string
	Imports               []string
}

// Each link in the documentation of a public package leads to something, and names in brackets that look like links
// are links: godoc shows the brackets of all others.
func TestDocLinks(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-json=ImportPath,Dir,Name,GoFiles,Imports", module+"pkg/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]map[string]bool{} // names by import path
	var all []docPackage
	for decoder := json.NewDecoder(strings.NewReader(string(out))); decoder.More(); {
		var p docPackage
		if err := decoder.Decode(&p); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 20 {
		t.Fatalf("only %d packages", len(all))
	}
	checker := &linkChecker{t: t, known: known}
	for _, p := range all {
		checker.load(p)
	}
	links := 0
	for _, p := range all {
		links += checker.check(p)
	}
	if links < 100 {
		t.Errorf("only %d links were found", links)
	}
}

type linkChecker struct {
	t     *testing.T
	known map[string]map[string]bool
	docs  map[string]*doc.Package
	files map[string][]*ast.File
	fset  *token.FileSet
}

// load reads a package and remembers what it exports.
func (c *linkChecker) load(p docPackage) {
	c.t.Helper()
	if c.fset == nil {
		c.fset, c.docs, c.files = token.NewFileSet(), map[string]*doc.Package{}, map[string][]*ast.File{}
	}
	var files []*ast.File
	for _, name := range p.GoFiles {
		file, err := parser.ParseFile(c.fset, filepath.Join(p.Dir, name), nil, parser.ParseComments)
		if err != nil {
			c.t.Fatal(err)
		}
		files = append(files, file)
	}
	read, err := doc.NewFromFiles(c.fset, files, p.ImportPath)
	if err != nil {
		c.t.Fatal(err)
	}
	c.docs[p.ImportPath], c.files[p.ImportPath] = read, files
	names := map[string]bool{}
	values := func(list []*doc.Value) {
		for _, v := range list {
			for _, name := range v.Names {
				names[name] = true
			}
		}
	}
	functions := func(prefix string, list []*doc.Func) {
		for _, f := range list {
			names[prefix+f.Name] = true
		}
	}
	values(read.Consts)
	values(read.Vars)
	functions("", read.Funcs)
	for _, typ := range read.Types {
		names[typ.Name] = true
		values(typ.Consts)
		values(typ.Vars)
		functions("", typ.Funcs)
		functions(typ.Name+".", typ.Methods)
		for _, spec := range typ.Decl.Specs {
			addMembers(names, typ.Name, spec)
		}
	}
	c.known[p.ImportPath] = names
}

// addMembers adds the fields of a struct and the methods of an interface.
func addMembers(names map[string]bool, of string, spec ast.Spec) {
	var list *ast.FieldList
	typ, ok := spec.(*ast.TypeSpec)
	if !ok {
		return
	}
	switch x := typ.Type.(type) {
	case *ast.StructType:
		list = x.Fields
	case *ast.InterfaceType:
		list = x.Methods
	default:
		return
	}
	for _, field := range list.List {
		for _, name := range field.Names {
			names[of+"."+name.Name] = true
		}
	}
}

// check follows the links of a package's documentation and returns how many there are.
func (c *linkChecker) check(p docPackage) (links int) {
	read := c.docs[p.ImportPath]
	p.checkText(c, read.Doc, &links)
	for _, file := range c.files[p.ImportPath] {
		ast.Inspect(file, func(n ast.Node) bool {
			group, ok := n.(*ast.CommentGroup)
			if ok && group != file.Doc {
				p.checkText(c, group.Text(), &links)
			}
			return true
		})
	}
	return links
}

// checkText follows the links of one comment.
func (p docPackage) checkText(c *linkChecker, text string, links *int) {
	// What stands in brackets and is exported, here or elsewhere, is meant as a link.
	parsed := (&comment.Parser{
		LookupPackage: func(name string) (string, bool) { return p.lookupPackage(c, name) },
		LookupSym:     func(_, _ string) bool { return true },
	}).Parse(text)
	for _, block := range parsed.Content {
		p.checkBlock(c, block, text, links)
	}
}

// qualifiedName is a name of another package in brackets.
var qualifiedName = regexp.MustCompile(`\[\*?[a-z][a-z0-9/]*\.[A-Z][A-Za-z0-9.]*\]`)

func (p docPackage) checkBlock(c *linkChecker, block comment.Block, text string, links *int) {
	switch b := block.(type) {
	case *comment.Paragraph:
		p.checkInline(c, b.Text, text, links)
	case *comment.Heading:
		p.checkInline(c, b.Text, text, links)
	case *comment.List:
		for _, item := range b.Items {
			for _, inner := range item.Content {
				p.checkBlock(c, inner, text, links)
			}
		}
	}
}

func (p docPackage) checkInline(c *linkChecker, list []comment.Text, text string, links *int) {
	for _, inline := range list {
		if plain, isText := inline.(comment.Plain); isText {
			for _, brackets := range qualifiedName.FindAllString(string(plain), -1) {
				c.t.Errorf("%s: %s is not a link: its package is not imported, in: %.120s", strings.TrimPrefix(p.ImportPath, module), brackets, strings.ReplaceAll(text, "\n", " "))
			}
		}
		link, ok := inline.(*comment.DocLink)
		if !ok {
			continue
		}
		*links++
		where := p.ImportPath
		if link.ImportPath != "" {
			where = link.ImportPath
		}
		name := link.Name
		if link.Recv != "" {
			name = link.Recv + "." + name
		}
		names, ours := c.known[where]
		if ours && name != "" && !names[name] {
			c.t.Errorf("%s: [%s] leads nowhere, in: %.120s", strings.TrimPrefix(p.ImportPath, module), strconv.Quote(name), strings.ReplaceAll(text, "\n", " "))
		}
	}
}

// lookupPackage finds a package that a link names by its last name: godoc knows those that a file imports.
func (p docPackage) lookupPackage(c *linkChecker, name string) (string, bool) {
	if name == p.Name {
		return p.ImportPath, true
	}
	for _, imported := range p.Imports {
		if path.Base(imported) == name || c.docs[imported] != nil && c.docs[imported].Name == name {
			return imported, true
		}
	}
	return comment.DefaultLookupPackage(name)
}
