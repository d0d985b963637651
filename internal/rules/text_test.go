package rules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Text for people is written by internal/ui, which escapes what comes from outside: commands neither print
// by themselves nor write to the streams, but for archives.
func TestTextGoesThroughUI(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../cli/*.go")
	if err != nil || len(files) < 50 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	looked := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			call, is := n.(*ast.CallExpr)
			if !is {
				return true
			}
			looked++
			if f, is := call.Fun.(*ast.SelectorExpr); is {
				name, _ := f.X.(*ast.Ident)
				if name != nil && name.Name == "fmt" && strings.HasPrefix(f.Sel.Name, "Print") {
					t.Errorf("%s: fmt.%s prints", set.Position(call.Pos()), f.Sel.Name)
				}
				// To something else than a local buffer.
				if name != nil && name.Name == "fmt" && strings.HasPrefix(f.Sel.Name, "Fprint") && isStream(call.Args[0]) {
					t.Errorf("%s: write with ui.%s what is for people", set.Position(call.Pos()), f.Sel.Name)
				}
			}
			for _, argument := range call.Args {
				if s, is := argument.(*ast.SelectorExpr); is && slices.Contains([]string{"Out", "Err"}, s.Sel.Name) && file != "../cli/export.go" {
					if of, is := s.X.(*ast.SelectorExpr); is && of.Sel.Name == "ui" && !isMarkdown(call) {
						t.Errorf("%s: write with UI.Result or UI.Data", set.Position(call.Pos()))
					}
				}
			}
			return true
		})
	}
	if looked < 1000 {
		t.Errorf("only %d calls", looked)
	}
}

// isStream reports whether something is what a result is written to, by the name that it has everywhere.
func isStream(e ast.Expr) bool {
	name, is := e.(*ast.Ident)
	return is && name.Name == "w"
}

// isMarkdown reports whether a call writes the tables of the documentation, of what is compiled in.
func isMarkdown(call *ast.CallExpr) bool {
	name, is := call.Fun.(*ast.Ident)
	return is && name.Name == "writeMarkdown"
}
