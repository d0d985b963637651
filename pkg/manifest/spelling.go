package manifest

import (
	"bytes"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// run is a piece of a scalar's value and the piece of the source that spells it.
type run struct {
	value, length int
	source, width int
	// verbatim: each byte spells itself. Otherwise the piece is one whole, an escape or a fold.
	verbatim bool
}

// speller reads the source of a scalar by the rules of yaml.v3's scanner, along with the value
// that yaml.v3 read there. Each of its steps reports whether the source spells the value so far;
// so what is found by it is not a guess.
type speller struct {
	data  []byte
	at    int // offset in data
	value string
	read  int // how much of value is spelled
	runs  []run
}

// spell finds the runs of a scalar, in order and without gaps in its value, and where its
// content begins: behind an opening quote. It reports whether the source spells the value.
func (f *File) spell(scalar *yaml.Node) (runs []run, start int, ok bool) {
	at, ok := f.offset(scalar.Line, scalar.Column)
	if !ok {
		return nil, 0, false
	}
	s := &speller{data: f.data, at: at, value: scalar.Value}
	s.properties()
	start = s.at
	switch scalar.Style &^ yaml.TaggedStyle {
	case yaml.DoubleQuotedStyle:
		start, ok = start+1, s.quoted('"')
	case yaml.SingleQuotedStyle:
		start, ok = start+1, s.quoted('\'')
	case yaml.LiteralStyle:
		ok = s.block('|')
	case yaml.FoldedStyle:
		ok = s.block('>')
	default:
		ok = s.plain()
	}
	return s.runs, start, ok && s.read == len(s.value)
}

// copy takes n bytes that spell themselves.
func (s *speller) copy(n int) bool {
	if !strings.HasPrefix(s.value[s.read:], string(s.data[s.at:s.at+n])) {
		return false
	}
	if n == 0 {
		return true
	}
	last := len(s.runs) - 1
	if last >= 0 && s.runs[last].verbatim && s.runs[last].source+s.runs[last].width == s.at {
		s.runs[last].length += n
		s.runs[last].width += n
	} else {
		s.runs = append(s.runs, run{value: s.read, length: n, source: s.at, width: n, verbatim: true})
	}
	s.at += n
	s.read += n
	return true
}

// whole takes the source from an offset up to here, which spells a text as a whole.
func (s *speller) whole(text string, from int) bool {
	if !strings.HasPrefix(s.value[s.read:], text) {
		return false
	}
	if text != "" {
		s.runs = append(s.runs, run{value: s.read, length: len(text), source: from, width: s.at - from})
		s.read += len(text)
	}
	return true
}

func (s *speller) peek() byte {
	if s.at < len(s.data) {
		return s.data[s.at]
	}
	return 0
}

func (s *speller) isBreak() bool {
	_, width := lineBreak(s.data[s.at:])
	return width > 0
}

func (s *speller) skipBlanks() {
	for s.peek() == ' ' || s.peek() == '\t' {
		s.at++
	}
}

// toBreak returns the number of bytes up to the line's end.
func (s *speller) toBreak() int {
	n := s.at
	for n < len(s.data) {
		if _, width := lineBreak(s.data[n:]); width > 0 {
			break
		}
		n++
	}
	return n - s.at
}

// properties skips a node's tag and anchor in front of its content, along with comments
// (YAML 1.2.2 §6.9); yaml.v3 places a node at these.
func (s *speller) properties() {
	for s.peek() == '!' || s.peek() == '&' {
		for s.at < len(s.data) && s.peek() != ' ' && s.peek() != '\t' && !s.isBreak() {
			s.at++
		}
		for {
			s.skipBlanks()
			if s.peek() == '#' {
				s.at += s.toBreak()
			}
			_, width := lineBreak(s.data[s.at:])
			if width == 0 {
				break
			}
			s.at += width
		}
	}
}

// plain reads a scalar without quotes. Where it ends depends on what is around it, so it is
// read as far as its value goes.
func (s *speller) plain() bool {
	for s.read < len(s.value) {
		n := s.at
		for n < len(s.data) && n-s.at < len(s.value)-s.read && !isSpace(s.data[n:]) {
			n++
		}
		if n == s.at || !s.copy(n-s.at) {
			return false
		}
		if s.read < len(s.value) && !s.space(false) {
			return false
		}
	}
	return s.at == len(s.data) || isSpace(s.data[s.at:]) || strings.IndexByte(":,?[]{}", s.data[s.at]) >= 0
}

// space takes white space inside a scalar that may be folded; escaped says that a line break
// behind a backslash began it.
func (s *speller) space(escaped bool) bool {
	from := s.at
	broken, first, others := escaped, "", ""
	if escaped {
		s.at++
		_, width := lineBreak(s.data[s.at:])
		s.at += width
	}
	for {
		s.skipBlanks()
		text, width := lineBreak(s.data[s.at:])
		switch {
		case width == 0 && !broken:
			n := s.at - from
			s.at = from
			return s.copy(n)
		case width == 0 && first == "\n" && others == "":
			return s.whole(" ", from)
		case width == 0 && first == "\n":
			return s.whole(others, from)
		case width == 0:
			return s.whole(first+others, from)
		case broken:
			others += text
		default:
			broken, first = true, text
		}
		s.at += width
	}
}

func (s *speller) quoted(quote byte) bool {
	if s.peek() != quote {
		return false
	}
	s.at++
	for s.at < len(s.data) {
		rest, ok := s.data[s.at:], true
		switch {
		case quote == '\'' && bytes.HasPrefix(rest, []byte("''")):
			s.at += 2
			ok = s.whole("'", s.at-2)
		case rest[0] == quote:
			return true
		case isSpace(rest):
			ok = s.space(false)
		case quote == '"' && rest[0] == '\\':
			ok = s.escape()
		default:
			n := 1
			for n < len(rest) && rest[n] != quote && !isSpace(rest[n:]) && (quote == '\'' || rest[n] != '\\') {
				n++
			}
			ok = s.copy(n)
		}
		if !ok {
			return false
		}
	}
	return false
}

// escapes are those of double quotes that stand for one character each (YAML 1.1 §5.6).
var escapes = map[byte]string{
	'0': "\x00", 'a': "\x07", 'b': "\x08", 't': "\t", '\t': "\t", 'n': "\n", 'v': "\x0B", 'f': "\x0C",
	'r': "\r", 'e': "\x1B", ' ': " ", '"': "\"", '\'': "'", '/': "/", '\\': "\\", 'N': "\u0085",
	'_': "\u00A0", 'L': "\u2028", 'P': "\u2029",
}

func (s *speller) escape() bool {
	from, rest := s.at, s.data[s.at+1:]
	if len(rest) == 0 {
		return false
	}
	if _, width := lineBreak(rest); width > 0 {
		return s.space(true)
	}
	digits := map[byte]int{'x': 2, 'u': 4, 'U': 8}[rest[0]]
	if digits == 0 {
		s.at += 2
		text, known := escapes[rest[0]]
		return known && s.whole(text, from)
	}
	if len(rest) < 1+digits {
		return false
	}
	var character rune
	for _, digit := range rest[1 : 1+digits] {
		value := strings.IndexByte("0123456789abcdef", digit|0x20)
		if value < 0 {
			return false
		}
		character = character<<4 | rune(value)
	}
	s.at += 2 + digits
	return s.whole(string(utf8.AppendRune(nil, character)), from)
}

// isSpace reports whether a text begins with a blank or a line break.
func isSpace(text []byte) bool {
	if text[0] == ' ' || text[0] == '\t' {
		return true
	}
	_, width := lineBreak(text)
	return width > 0
}
