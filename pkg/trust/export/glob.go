package export

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

// glob is one of the shapes of a rule's pattern: a sequence of characters, some of them repeated. A
// pattern with alternatives or with ** has several shapes.
type glob []globPart

type globPart struct {
	// text is the character, for what is not a wildcard.
	text rune
	// class is the regular expression of a wildcard, repeat is set if it matches any number of
	// characters.
	class  string
	repeat bool
	set    charset
}

// The wildcards that targets know.
var (
	star     = globPart{class: "[^/]", repeat: true, set: every.removeRune('/')}
	anything = globPart{class: ".", repeat: true, set: every}
)

var notSlash = globPart{class: "[^/]", set: every.removeRune('/')}

// charset is a set of ASCII characters; other stands for all other characters.
type charset struct {
	bits  [2]uint64
	other bool
}

var every = charset{[2]uint64{^uint64(0), ^uint64(0)}, true}

func (s charset) removeRune(r rune) charset {
	s.bits[r/64] &^= 1 << (r % 64)
	return s
}

func (s charset) addRange(low, high rune) charset {
	for r := low; r <= min(high, utf8.RuneSelf-1); r++ {
		s.bits[r/64] |= 1 << (r % 64)
	}
	s.other = s.other || high >= utf8.RuneSelf
	return s
}

func (s charset) intersects(t charset) bool {
	return s.bits[0]&t.bits[0]|s.bits[1]&t.bits[1] != 0 || s.other && t.other
}

// repository is the shape of every name of an image.
var repository = glob{{set: every}, anything, {set: charset{}.addRange('/', '/')}, {set: every}, anything}

// maxGlobs limits the shapes of a pattern.
const maxGlobs = 64

// parseGlob returns the shapes of a pattern for names of images; none for [Local].
func parseGlob(pattern string) ([]glob, error) {
	var found []glob
	expanded, err := expandAlternatives(pattern)
	if err != nil {
		return nil, err
	}
	for _, one := range expanded {
		shapes, err := parsePattern(one, true)
		if err != nil {
			return nil, fmt.Errorf("glob %s: %w", pattern, err)
		}
		for _, g := range shapes {
			if g.overlapsWith(repository) {
				found = append(found, g)
			}
		}
		if len(found) > maxGlobs {
			return nil, fmt.Errorf("glob %s expands to more than %d patterns", pattern, maxGlobs)
		}
	}
	return found, nil
}

// expandAlternatives writes out {a,b}.
func expandAlternatives(pattern string) ([]string, error) {
	open, depth, class := -1, 0, false
	var commas []int
	for i := 0; i < len(pattern); i++ {
		switch c := pattern[i]; {
		case c == '\\':
			i++
		case class:
			class = c != ']'
		case c == '[':
			class = true
		case c == '{':
			if depth++; depth == 1 {
				open, commas = i, []int{i}
			}
			if i > 0 && pattern[i-1] == '*' {
				return nil, fmt.Errorf("glob %s contains *{", pattern)
			}
		case c == ',' && depth == 1:
			commas = append(commas, i)
		case c == '}' && depth == 1:
			var written []string
			commas = append(commas, i)
			for n := range commas[1:] {
				inner, err := expandAlternatives(pattern[:open] + pattern[commas[n]+1:commas[n+1]] + pattern[i+1:])
				if written = append(written, inner...); err != nil {
					return nil, err
				}
				if len(written) > maxGlobs {
					return nil, fmt.Errorf("glob %s expands to more than %d patterns", pattern, maxGlobs)
				}
			}
			return written, nil
		case c == '}' && depth > 0:
			depth--
		}
	}
	return []string{pattern}, nil
}

// parsePattern reads a pattern without alternatives as doublestar does: ** is for any number of
// folders where it is alone between slashes, and for * elsewhere.
func parsePattern(pattern string, start bool) ([]glob, error) {
	if pattern == "" {
		return []glob{{}}, nil
	}
	switch {
	case strings.HasPrefix(pattern, "***"):
		return nil, errors.New("contains ***")
	case isTail(pattern):
		tail := []glob{{}}
		if pattern == "/**" {
			tail = append(tail, glob{literalPart('/'), anything})
		}
		return tail, nil
	case start && pattern == "**":
		return []glob{{anything}}, nil
	case start && strings.HasPrefix(pattern, "**/"):
		rest, err := parsePattern(pattern[3:], true)
		if err != nil {
			return nil, err
		}
		return append(rest, prependParts(rest, anything, literalPart('/'))...), nil
	}
	var p globPart
	length := 1
	switch pattern[0] {
	case '*':
		p = star
		if strings.HasPrefix(pattern, "**") {
			length = 2
		}
	case '?':
		p = notSlash
	case '[':
		var err error
		if p, length, err = parseClass(pattern); err != nil {
			return nil, err
		}
	case '\\':
		r, size := utf8.DecodeRuneInString(pattern[1:])
		p, length = literalPart(r), 1+size
	default:
		r, size := utf8.DecodeRuneInString(pattern)
		p, length = literalPart(r), size
	}
	rest, err := parsePattern(pattern[length:], p.text == '/')
	if err != nil {
		return nil, err
	}
	if p == star && isTail(pattern[length:]) {
		rest[0] = glob{notSlash} // a*/** is for ab, and not for a: so says doublestar
	}
	if len(rest) > maxGlobs {
		return nil, fmt.Errorf("expands to more than %d patterns", maxGlobs)
	}
	return prependParts(rest, p), nil
}

// isTail reports whether the rest of a pattern is for nothing, too.
func isTail(pattern string) bool { return pattern == "/**" || pattern == "/**/" }

func prependParts(all []glob, parts ...globPart) []glob {
	made := make([]glob, len(all))
	for i, g := range all {
		made[i] = append(append(glob{}, parts...), g...)
	}
	return made
}

func literalPart(r rune) globPart { return globPart{text: r, set: charset{}.addRange(r, r)} }

// parseClass reads [a-z] or [!a-z].
func parseClass(pattern string) (p globPart, length int, err error) {
	runes := []rune(pattern)
	i := 1
	negated := runes[i] == '!' || runes[i] == '^'
	if negated {
		i++
	}
	next := func() rune {
		if runes[i] == '\\' {
			i++
		}
		i++
		return runes[i-1]
	}
	text := ""
	for runes[i] != ']' {
		low := next()
		high := low
		if runes[i] == '-' && runes[i+1] != ']' {
			i++
			high = next()
		}
		if high < low {
			return p, 0, fmt.Errorf("contains the empty range %c-%c", low, high)
		}
		text += fmt.Sprintf(`\x{%x}-\x{%x}`, low, high)
		p.set = p.set.addRange(low, high)
	}
	p.class = "[" + text + "]"
	if negated {
		p.class = "[^" + text + "]"
		p.set = charset{[2]uint64{^p.set.bits[0], ^p.set.bits[1]}, true}
	}
	return p, len(string(runes[:i+1])), nil
}

// overlapsWith reports whether a name could match both. It treats all non-ASCII characters as one.
func (g glob) overlapsWith(h glob) bool {
	known := map[[2]int]bool{}
	var meet func(i, j int) bool
	meet = func(i, j int) bool {
		if i == len(g) && j == len(h) {
			return true
		}
		at := [2]int{i, j}
		if known[at] {
			return false // as it was the first time, or being looked at
		}
		known[at] = true
		if i < len(g) && g[i].repeat && meet(i+1, j) || j < len(h) && h[j].repeat && meet(i, j+1) {
			return true
		}
		if i == len(g) || j == len(h) || !g[i].set.intersects(h[j].set) {
			return false
		}
		switch {
		case g[i].repeat && h[j].repeat:
			return false // either may end first, which was tried
		case g[i].repeat:
			return meet(i, j+1)
		case h[j].repeat:
			return meet(i+1, j)
		}
		return meet(i+1, j+1)
	}
	return meet(0, 0)
}

// isEverything reports whether it is **.
func (g glob) isEverything() bool { return len(g) == 1 && g[0] == anything }

// regularExpression returns a regular expression for all of a name.
func (g glob) regularExpression() string {
	var b strings.Builder
	for _, p := range g {
		switch {
		case p.class == "":
			b.WriteString(regexp.QuoteMeta(string(p.text)))
		case p.repeat:
			b.WriteString(p.class + "*")
		default:
			b.WriteString(p.class)
		}
	}
	return b.String()
}
