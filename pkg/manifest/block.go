package manifest

import "strings"

// block reads a block scalar (YAML 1.2.2 §8.1) with an indicator, literal or folded.
func (s *speller) block(indicator byte) bool {
	if s.peek() != indicator {
		return false
	}
	header := string(s.data[s.at : s.at+s.toBreak()])
	header, _, _ = strings.Cut(header, "#")
	s.at += s.toBreak()
	_, width := lineBreak(s.data[s.at:])
	s.at += width
	indent := s.indent()
	if indent < 1 {
		return false
	}
	// Between two lines of text stand the first one's line break and then those of empty lines.
	from, first := s.at, ""
	others, column := s.emptyLines(indent)
	wasBlank := false
	for column == indent && s.at < len(s.data) {
		blank := s.peek() == ' ' || s.peek() == '\t'
		text := first + others
		if indicator == '>' && first == "\n" && !wasBlank && !blank {
			text = others
			if others == "" {
				text = " "
			}
		}
		if !s.whole(text, from) || !s.copy(s.toBreak()) {
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
		return s.whole(first+others, from)
	}
	return s.whole(first, from)
}

// indent is by how many blanks the block that begins here is indented: those by which its
// first line of text is further in than the same line of the value. What an indicator says
// counts from a node that is not known here.
func (s *speller) indent() int {
	source, ok := margin(s.data[s.at:])
	value, found := margin([]byte(s.value))
	if !ok || !found {
		return 0
	}
	return source - value
}

// margin counts the blanks in front of the first line that has text.
func margin(text []byte) (int, bool) {
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
func (s *speller) emptyLines(indent int) (breaks string, column int) {
	var all strings.Builder
	for {
		column = 0
		for column < indent && s.peek() == ' ' {
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
