// Package lazyregexp has regular expressions that are compiled when they are first used. All commands of the program
// pay for what its packages do when it starts, and most match nothing.
//
// Call [New] where a package would call [regexp.MustCompile], and [Expression.Get] to match.
package lazyregexp

import (
	"os"
	"regexp"
	"strings"
	"sync"
)

// Expression is a regular expression that is compiled once it is needed.
type Expression struct {
	// Get returns the compiled expression.
	Get func() *regexp.Regexp
}

// New returns an expression. It panics if the text is not valid: in a test at once, and else when it is first used.
func New(text string) Expression {
	e := Expression{sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(text) })}
	// Whoever starts a program may give it no name.
	if len(os.Args) > 0 && strings.HasSuffix(strings.TrimSuffix(os.Args[0], ".exe"), ".test") {
		e.Get()
	}
	return e
}

// MatchString reports whether a text contains a match.
func (e Expression) MatchString(text string) bool { return e.Get().MatchString(text) }
