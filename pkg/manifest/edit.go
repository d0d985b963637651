package manifest

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

type edit struct {
	offset, length int
	value          string
}

// plainCharacters are those of image references. They mean themselves in every style of
// scalar, so a value of them stands in the text as it is.
const plainCharacters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-/:@+"

// Replace puts a new value in the place of a scalar's, inside its own quotes. Both consist of
// the characters of image references, less white space around the old one. An error says that
// the scalar does not, or stands in a form that can't be edited in place: folded over lines or
// written with escapes.
func (f *File) Replace(scalar *yaml.Node, value string) error {
	offset, ok := f.find(scalar)
	if !ok {
		return f.Errorf(scalar, "%q is written with escapes or over several lines and can't be replaced in place", scalar.Value)
	}
	e := edit{offset: offset, length: len(strings.TrimSpace(scalar.Value)), value: value}
	// A node can be reached twice, through an anchor and its alias.
	if !slices.Contains(f.edits, e) {
		f.edits = append(f.edits, e)
	}
	return nil
}

// Bytes is the file with its replacements; without any, the very bytes it was parsed from.
func (f *File) Bytes() []byte {
	if len(f.edits) == 0 {
		return f.data
	}
	slices.SortFunc(f.edits, func(a, b edit) int { return cmp.Compare(a.offset, b.offset) })
	var out bytes.Buffer
	at := 0
	for _, e := range f.edits {
		out.Write(f.data[at:e.offset])
		out.WriteString(e.value)
		at = e.offset + e.length
	}
	out.Write(f.data[at:])
	return out.Bytes()
}

// find is the byte offset at which the trimmed value of a scalar stands.
func (f *File) find(scalar *yaml.Node) (int, bool) {
	if scalar.Kind != yaml.ScalarNode {
		return 0, false
	}
	text := strings.TrimSpace(scalar.Value)
	start, ok := f.offset(scalar.Line, scalar.Column)
	if !ok || text == "" || strings.Trim(text, plainCharacters) != "" {
		return 0, false
	}
	start += properties(f.data[start:])
	source := f.data[start:]
	switch scalar.Style &^ yaml.TaggedStyle {
	case yaml.DoubleQuotedStyle, yaml.SingleQuotedStyle:
		// The value may stand behind blanks inside the quotes.
		source, start = source[1:], start+1
	case yaml.LiteralStyle, yaml.FoldedStyle:
		// Its only line is the first below the header that is not blank.
		header := bytes.IndexAny(source, "\n\r")
		if header < 0 {
			return 0, false
		}
		source, start = source[header:], start+header
	}
	lead := len(source) - len(bytes.TrimLeft(source, " \t\r\n"))
	if !bytes.HasPrefix(source[lead:], []byte(text)) {
		return 0, false
	}
	return start + lead, true
}

// properties is the length of a node's tag and anchor in front of its content
// (YAML 1.2.2 §6.9); yaml.v3 places a node at these.
func properties(source []byte) int {
	n := 0
	for n < len(source) && (source[n] == '!' || source[n] == '&') {
		end := bytes.IndexAny(source[n:], " \t\r\n")
		if end < 0 {
			return n
		}
		n += end
		n += len(source[n:]) - len(bytes.TrimLeft(source[n:], " \t\r\n"))
	}
	return n
}

// offset turns a place into a byte offset; columns count characters, not bytes.
func (f *File) offset(line, column int) (int, bool) {
	if line < 1 || line > len(f.lines) || column < 1 {
		return 0, false
	}
	at := f.lines[line-1]
	if line == 1 {
		at += len(f.data[at:]) - len(bytes.TrimPrefix(f.data[at:], []byte("\uFEFF")))
	}
	for range column - 1 {
		if at >= len(f.data) {
			return 0, false
		}
		_, size := utf8.DecodeRune(f.data[at:])
		at += size
	}
	return at, at < len(f.data)
}

// lineStarts finds the lines as yaml.v3 counts them: after LF, CR LF, CR, NEL, LS and PS.
func lineStarts(data []byte) []int {
	starts := []int{0}
	for i := 0; i < len(data); {
		switch c := data[i]; {
		case c == '\r' && i+1 < len(data) && data[i+1] == '\n':
			i += 2
		case c == '\n' || c == '\r':
			i++
		case bytes.HasPrefix(data[i:], []byte("\u0085")):
			i += 2
		case bytes.HasPrefix(data[i:], []byte("\u2028")), bytes.HasPrefix(data[i:], []byte("\u2029")):
			i += 3
		default:
			i++
			continue
		}
		starts = append(starts, i)
	}
	return starts
}
