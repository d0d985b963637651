package manifest

import (
	"bytes"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// spelledRun is a piece of a scalar's value and the piece of the source that spells it.
type spelledRun struct {
	value, length int
	source, width int
	// verbatim: each byte spells itself. Otherwise the piece is one whole, an escape or a fold.
	verbatim bool
}

// scalarSpeller reads the source of a scalar by the rules of yaml.v3's scanner, along with the value
// that yaml.v3 read there. Each of its steps reports whether the source spells the value so far;
// so what is found by it is not a guess.
type scalarSpeller struct {
	data  []byte
	at    int // offset in data
	value string
	read  int // how much of value is spelled
	runs  []spelledRun
}

// spellScalar finds the runs of a scalar, in order and without gaps in its value, and where its
// content begins: behind an opening quote. It reports whether the source spells the value.
func (f *File) spellScalar(scalar *yaml.Node) (runs []spelledRun, start int, ok bool) {
	at, ok := f.offsetOf(scalar.Line, scalar.Column)
	if !ok {
		return nil, 0, false
	}
	s := &scalarSpeller{data: f.data, at: at, value: scalar.Value}
	s.skipProperties()
	start = s.at
	switch scalar.Style &^ yaml.TaggedStyle {
	case yaml.DoubleQuotedStyle:
		start, ok = start+1, s.readQuoted('"')
	case yaml.SingleQuotedStyle:
		start, ok = start+1, s.readQuoted('\'')
	case yaml.LiteralStyle:
		ok = s.readBlock('|')
	case yaml.FoldedStyle:
		ok = s.readBlock('>')
	default:
		ok = s.readPlain()
	}
	return s.runs, start, ok && s.read == len(s.value)
}

// copyPlain takes n bytes that spell themselves.
func (s *scalarSpeller) copyPlain(n int) bool {
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
		s.runs = append(s.runs, spelledRun{value: s.read, length: n, source: s.at, width: n, verbatim: true})
	}
	s.at += n
	s.read += n
	return true
}

// takeWhole takes the source from an offset up to here, which spells a text as a whole.
func (s *scalarSpeller) takeWhole(text string, from int) bool {
	if !strings.HasPrefix(s.value[s.read:], text) {
		return false
	}
	if text != "" {
		s.runs = append(s.runs, spelledRun{value: s.read, length: len(text), source: from, width: s.at - from})
		s.read += len(text)
	}
	return true
}

func (s *scalarSpeller) peekByte() byte {
	if s.at < len(s.data) {
		return s.data[s.at]
	}
	return 0
}

func (s *scalarSpeller) isBreak() bool {
	_, width := lineBreak(s.data[s.at:])
	return width > 0
}

func (s *scalarSpeller) skipBlanks() {
	for s.peekByte() == ' ' || s.peekByte() == '\t' {
		s.at++
	}
}

// lengthToBreak returns the number of bytes up to the line's end.
func (s *scalarSpeller) lengthToBreak() int {
	n := s.at
	for n < len(s.data) {
		if _, width := lineBreak(s.data[n:]); width > 0 {
			break
		}
		n++
	}
	return n - s.at
}

// skipProperties skips a node's tag and anchor in front of its content, along with comments
// (YAML 1.2.2 §6.9); yaml.v3 places a node at these.
func (s *scalarSpeller) skipProperties() {
	for s.peekByte() == '!' || s.peekByte() == '&' {
		for s.at < len(s.data) && s.peekByte() != ' ' && s.peekByte() != '\t' && !s.isBreak() {
			s.at++
		}
		for {
			s.skipBlanks()
			if s.peekByte() == '#' {
				s.at += s.lengthToBreak()
			}
			_, width := lineBreak(s.data[s.at:])
			if width == 0 {
				break
			}
			s.at += width
		}
	}
}

// readPlain reads a scalar without quotes. Where it ends depends on what is around it, so it is
// read as far as its value goes.
func (s *scalarSpeller) readPlain() bool {
	for s.read < len(s.value) {
		n := s.at
		for n < len(s.data) && n-s.at < len(s.value)-s.read && !isSpace(s.data[n:]) {
			n++
		}
		if n == s.at || !s.copyPlain(n-s.at) {
			return false
		}
		if s.read < len(s.value) && !s.readSpace(false) {
			return false
		}
	}
	return s.at == len(s.data) || isSpace(s.data[s.at:]) || strings.IndexByte(":,?[]{}", s.data[s.at]) >= 0
}

// readSpace takes white space inside a scalar that may be folded; escaped says that a line break
// behind a backslash began it.
func (s *scalarSpeller) readSpace(escaped bool) bool {
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
			return s.copyPlain(n)
		case width == 0 && first == "\n" && others == "":
			return s.takeWhole(" ", from)
		case width == 0 && first == "\n":
			return s.takeWhole(others, from)
		case width == 0:
			return s.takeWhole(first+others, from)
		case broken:
			others += text
		default:
			broken, first = true, text
		}
		s.at += width
	}
}

func (s *scalarSpeller) readQuoted(quote byte) bool {
	if s.peekByte() != quote {
		return false
	}
	s.at++
	for s.at < len(s.data) {
		rest, ok := s.data[s.at:], true
		switch {
		case quote == '\'' && bytes.HasPrefix(rest, []byte("''")):
			s.at += 2
			ok = s.takeWhole("'", s.at-2)
		case rest[0] == quote:
			return true
		case isSpace(rest):
			ok = s.readSpace(false)
		case quote == '"' && rest[0] == '\\':
			ok = s.readEscape()
		default:
			n := 1
			for n < len(rest) && rest[n] != quote && !isSpace(rest[n:]) && (quote == '\'' || rest[n] != '\\') {
				n++
			}
			ok = s.copyPlain(n)
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

func (s *scalarSpeller) readEscape() bool {
	from, rest := s.at, s.data[s.at+1:]
	if len(rest) == 0 {
		return false
	}
	if _, width := lineBreak(rest); width > 0 {
		return s.readSpace(true)
	}
	digits := map[byte]int{'x': 2, 'u': 4, 'U': 8}[rest[0]]
	if digits == 0 {
		s.at += 2
		text, known := escapes[rest[0]]
		return known && s.takeWhole(text, from)
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
	return s.takeWhole(string(utf8.AppendRune(nil, character)), from)
}

// isSpace reports whether a text begins with a blank or a line break.
func isSpace(text []byte) bool {
	if text[0] == ' ' || text[0] == '\t' {
		return true
	}
	_, width := lineBreak(text)
	return width > 0
}
