package manifest

import "strings"

// readBlock reads a block scalar (YAML 1.2.2 §8.1) with an indicator, literal or folded.
func (s *scalarSpeller) readBlock(indicator byte) bool {
	if s.peekByte() != indicator {
		return false
	}
	header := string(s.data[s.at : s.at+s.lengthToBreak()])
	header, _, _ = strings.Cut(header, "#")
	s.at += s.lengthToBreak()
	_, width := lineBreak(s.data[s.at:])
	s.at += width
	indent := s.blockIndent()
	if indent < 1 {
		return false
	}
	// Between two lines of text stand the first one's line break and then those of empty lines.
	from, first := s.at, ""
	others, column := s.emptyLines(indent)
	wasBlank := false
	for column == indent && s.at < len(s.data) {
		blank := s.peekByte() == ' ' || s.peekByte() == '\t'
		text := first + others
		if indicator == '>' && first == "\n" && !wasBlank && !blank {
			text = others
			if others == "" {
				text = " "
			}
		}
		if !s.takeWhole(text, from) || !s.copyPlain(s.lengthToBreak()) {
			return false
		}
		wasBlank = blank
		from = s.at
		first, width = lineBreak(s.data[s.at:])
		s.at += width
		others, column = s.emptyLines(indent)
	}
	switch {
	case strings.Contains(header, "-"):
		return true
	case strings.Contains(header, "+"):
		return s.takeWhole(first+others, from)
	}
	return s.takeWhole(first, from)
}

// blockIndent is by how many blanks the block that begins here is indented: those by which its
// first line of text is further in than the same line of the value. What an indicator says
// counts from a node that is not known here.
func (s *scalarSpeller) blockIndent() int {
	source, ok := countIndent(s.data[s.at:])
	value, found := countIndent([]byte(s.value))
	if !ok || !found {
		return 0
	}
	return source - value
}

// countIndent counts the blanks in front of the first line that has text.
func countIndent(text []byte) (int, bool) {
	n := 0
	for len(text) > 0 {
		_, width := lineBreak(text)
		switch {
		case width > 0:
			n = 0
		case text[0] == ' ':
			n++
			width = 1
		default:
			return n, true
		}
		text = text[width:]
	}
	return 0, false
}

// emptyLines skips lines without text up to the text of one that has some. It gives their line
// breaks, and the column (from 0) that is reached.
func (s *scalarSpeller) emptyLines(indent int) (breaks string, column int) {
	var all strings.Builder
	for {
		column = 0
		for column < indent && s.peekByte() == ' ' {
			s.at++
			column++
		}
		text, width := lineBreak(s.data[s.at:])
		if width == 0 {
			return all.String(), column
		}
		all.WriteString(text)
		s.at += width
	}
}
