package manifest

import (
	"bytes"
	"fmt"
	"slices"
	"sort"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// Span is a range of bytes of a file's source.
type Span struct{ Start, End int }

type pendingEdit struct {
	span  Span
	value string
}

// spelledScalar is what is known of how a scalar is written.
type spelledScalar struct {
	runs  []spelledRun
	start int
	ok    bool
}

// plainCharacters are those of image references. They mean themselves in every style of
// scalar, so a value of them stands in the text as it is.
const plainCharacters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-/:@+"

// ScalarSpan returns the bytes of the source that the bytes [start,end) of a scalar's Value stand for.
// An error says that these cannot be edited in place: a part of an escape or of a line fold,
// and, outside of quotes, nothing or what begins or ends with white space.
//
// A value that is YAML or JSON itself nests: parsed as a file of its own, a Span of that file
// is a range of this scalar's Value.
func (f *File) ScalarSpan(scalar *yaml.Node, start, end int) (Span, error) {
	if scalar.Kind != yaml.ScalarNode {
		return Span{}, f.Errorf(scalar, "is not a scalar and cannot be edited in place")
	}
	value := scalar.Value
	if start < 0 || start > end || end > len(value) {
		return Span{}, f.Errorf(scalar, "%s has no bytes %d to %d", quoteShort(value), start, end)
	}
	s, known := f.spelled[scalar]
	if !known {
		s.runs, s.start, s.ok = f.spellScalar(scalar)
		f.spelled[scalar] = s
	}
	quoted := scalar.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0
	if s.ok && (quoted || s.hasText(value, start, end)) && !cutsCharacter(value, start) && !cutsCharacter(value, end) {
		if span, ok := s.sourceSpan(start, end); ok {
			return span, nil
		}
	}
	return Span{}, f.Errorf(scalar, "%s is written in a form that cannot be edited in place", quoteShort(value[start:end]))
}

// sourceSpan returns the source of a range of the value, if no run is cut that is one whole.
func (s *spelledScalar) sourceSpan(start, end int) (Span, bool) {
	if start == end {
		at, ok := s.sourceOffset(start)
		return Span{at, at}, ok
	}
	from, ok := s.sourceOffset(start)
	if !ok {
		return Span{}, false
	}
	// The end belongs to the run before it: between two runs may stand source without value.
	last := s.runs[s.findRun(end-1)]
	if last.verbatim {
		return Span{from, last.source + end - last.value}, true
	}
	return Span{from, last.source + last.width}, end == last.value+last.length
}

// sourceOffset returns the offset in the source of one in the value.
func (s *spelledScalar) sourceOffset(offset int) (int, bool) {
	i := s.findRun(offset)
	if i < 0 {
		return s.start, true
	}
	r := s.runs[i]
	switch {
	case r.verbatim:
		return r.source + offset - r.value, true
	case offset == r.value+r.length:
		return r.source + r.width, true
	}
	return r.source, offset == r.value
}

// findRun returns the index of the run that an offset in the value lies in; the last one's end counts
// as in it.
func (s *spelledScalar) findRun(offset int) int {
	return sort.Search(len(s.runs), func(i int) bool { return s.runs[i].value > offset }) - 1
}

// hasText reports whether a range begins and ends with text. Where there are no quotes, white
// space at its edges holds up the layout around it.
func (s *spelledScalar) hasText(value string, start, end int) bool {
	return start < end && s.isText(value, start) && s.isText(value, end-1)
}

func (s *spelledScalar) isText(value string, offset int) bool {
	return s.runs[s.findRun(offset)].verbatim && value[offset] != ' ' && value[offset] != '\t'
}

func cutsCharacter(value string, offset int) bool {
	return offset < len(value) && !utf8.RuneStart(value[offset])
}

// quoteShort quotes a value for an error, not more than the beginning of a long one.
func quoteShort(value string) string {
	if len(value) > 80 {
		return fmt.Sprintf("%q…", strings.ToValidUTF8(value[:80], ""))
	}
	return fmt.Sprintf("%q", value)
}

// ReplaceSpan puts a value in the place of a span: an image reference or a part of one, whose
// characters mean themselves in every style of scalar. The same edit twice is one; edits that
// overlap otherwise are an error.
//
// A registry with an IPv6 address begins with [, which plain scalars cannot: such a value gets
// quotes where it needs them, and [File.EditedBytes] makes sure that the file still means the same.
func (f *File) ReplaceSpan(span Span, value string) error {
	inRange := span.Start >= 0 && span.Start <= span.End && span.End <= len(f.data)
	if inRange && strings.HasPrefix(value, "[") && strings.Trim(value, plainCharacters+"[]") == "" {
		f.bracketed = true
		return f.replaceText(span, f.quoteIfNeeded(span, value))
	}
	if strings.Trim(value, plainCharacters) != "" && span.Start >= 0 && span.Start <= span.End && span.End <= len(f.data) {
		return f.errorAt(span.Start, "%s cannot be written here: it has characters that are not allowed in image references", quoteShort(value))
	}
	return f.replaceText(span, value)
}

// quoteIfNeeded puts quotes around a value that takes the place of a whole word outside of quotes, in
// the file or in a document inside of one of its scalars.
func (f *File) quoteIfNeeded(span Span, value string) string {
	at := func(i int) string {
		if i < 0 || i >= len(f.data) {
			return ""
		}
		return string(f.data[i])
	}
	before, after := at(span.Start-1), at(span.End)
	if !strings.Contains(" \t\n,[{", before) || !strings.Contains(" \t\r\n,]}\\", after) {
		return value
	}
	scalar := f.scalarAt(span)
	switch {
	case scalar == nil:
	case scalar.Style&yaml.DoubleQuotedStyle != 0:
		return "'" + value + "'"
	case scalar.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 && strings.TrimSpace(scalar.Value) == string(f.data[span.Start:span.End]):
		return value
	}
	return `"` + value + `"`
}

// scalarAt finds the scalar of the file in which a span of it was found.
func (f *File) scalarAt(span Span) *yaml.Node {
	for scalar, s := range f.spelled {
		if len(s.runs) == 0 || s.start > span.Start {
			continue
		}
		last := s.runs[len(s.runs)-1]
		if span.End <= last.source+max(last.width, last.length) {
			return scalar
		}
	}
	return nil
}

// EditedBytes is [File.Bytes], or an error where an edit has changed more than the scalar in whose
// place it stands.
func (f *File) EditedBytes() ([]byte, error) {
	data := f.Bytes()
	if !f.bracketed {
		return data, nil
	}
	after, err := Parse(f.Name, data)
	if err != nil || len(after.Documents) != len(f.Documents) {
		return nil, f.Errorf(nil, "cannot hold a registry address in brackets: %v", err)
	}
	for i, doc := range f.Documents {
		if at := f.firstChange(doc, after.Documents[i]); at != nil {
			return nil, f.Errorf(at, "cannot hold a registry address in brackets")
		}
	}
	return data, nil
}

// firstChange finds the first node that differs from what stands in its place after the edits,
// but for scalars that hold an address in brackets now.
func (f *File) firstChange(before, after *yaml.Node) *yaml.Node {
	switch {
	case before.Kind != after.Kind || len(before.Content) != len(after.Content):
		return before
	case before.Kind == yaml.ScalarNode && before.Value != after.Value:
		if _, edited := f.spelled[before]; !edited {
			return before
		}
	}
	for i := range before.Content {
		if at := f.firstChange(before.Content[i], after.Content[i]); at != nil {
			return at
		}
	}
	return nil
}

// replaceText is [File.ReplaceSpan] for any text.
func (f *File) replaceText(span Span, value string) error {
	if span.Start < 0 || span.Start > span.End || span.End > len(f.data) {
		return f.Errorf(nil, "has no bytes %d to %d", span.Start, span.End)
	}
	i := sort.Search(len(f.edits), func(i int) bool { return f.edits[i].span.Start >= span.Start })
	e := pendingEdit{span, value}
	if i < len(f.edits) && f.edits[i] == e {
		// A node can be reached twice, through an anchor and its alias.
		return nil
	}
	if i > 0 && f.edits[i-1].span.End > span.Start ||
		i < len(f.edits) && (f.edits[i].span.Start < span.End || f.edits[i].span.Start == span.Start) {
		return f.errorAt(span.Start, "is edited twice, the second time to %s", quoteShort(value))
	}
	f.edits = slices.Insert(f.edits, i, e)
	return nil
}

// ReplaceScalar puts a new value in the place of a scalar's, inside its own quotes. Both consist of
// the characters of image references, less white space around the old one. An error says that
// the scalar does not, or is written with escapes or over several lines.
func (f *File) ReplaceScalar(scalar *yaml.Node, value string) error {
	text := strings.TrimSpace(scalar.Value)
	start := strings.Index(scalar.Value, text)
	span, err := f.ScalarSpan(scalar, start, start+len(text))
	if err != nil || text == "" || strings.Trim(text, plainCharacters) != "" || string(f.data[span.Start:span.End]) != text {
		return f.Errorf(scalar, "%s is written with escapes or over several lines and cannot be replaced in place", quoteShort(scalar.Value))
	}
	return f.ReplaceSpan(span, value)
}

// Bytes returns the file with its edits; without any, the very bytes it was parsed from.
func (f *File) Bytes() []byte {
	if len(f.edits) == 0 {
		return f.data
	}
	var out bytes.Buffer
	at := 0
	for _, e := range f.edits {
		out.Write(f.data[at:e.span.Start])
		out.WriteString(e.value)
		at = e.span.End
	}
	out.Write(f.data[at:])
	return out.Bytes()
}
