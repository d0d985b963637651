package manifest

import (
	"bytes"
	"sort"
	"unicode/utf8"
)

const byteOrderMark = "\uFEFF"

// positionIndex turns lines and columns, as yaml.v3 counts them, into byte offsets and back. Both
// count from 1; columns count characters.
type positionIndex struct {
	data  []byte
	lines []int // byte offset of the start of each line
	// counts holds how many characters begin before each stride of bytes, so that a place on
	// a line of megabytes is not found by walking it.
	counts []int
}

const stride = 1024

func newPlaces(data []byte) positionIndex {
	p := positionIndex{data: data}
	start := 0
	if bytes.HasPrefix(data, []byte(byteOrderMark)) {
		// In front of a file it stands in no column.
		start = len(byteOrderMark)
	}
	p.lines = []int{start}
	characters := 0
	for i := 0; i < len(data); i++ {
		if i%stride == 0 {
			p.counts = append(p.counts, characters)
		}
		if data[i] >= ' ' && data[i] < utf8.RuneSelf {
			characters++ // nearly all
			continue
		}
		if utf8.RuneStart(data[i]) {
			characters++
		}
		// The last byte of a line break begins the next line.
		switch data[i] {
		case '\n':
			p.lines = append(p.lines, i+1)
		case '\r':
			if i+1 == len(data) || data[i+1] != '\n' {
				p.lines = append(p.lines, i+1)
			}
		case 0x85, 0xA8, 0xA9:
			if bytes.HasSuffix(data[:i+1], []byte("\u0085")) || bytes.HasSuffix(data[:i+1], []byte("\u2028")) ||
				bytes.HasSuffix(data[:i+1], []byte("\u2029")) {
				p.lines = append(p.lines, i+1)
			}
		}
	}
	return p
}

// offsetOf returns where a place lies in the data, if it does.
func (p *positionIndex) offsetOf(line, column int) (int, bool) {
	if line < 1 || line > len(p.lines) || column < 1 {
		return 0, false
	}
	want := p.countCharacters(p.lines[line-1]) + column - 1
	at := stride * (sort.Search(len(p.counts), func(i int) bool { return p.counts[i] > want }) - 1)
	if at < 0 {
		return 0, false
	}
	for before := p.counts[at/stride]; at < len(p.data); at++ {
		if utf8.RuneStart(p.data[at]) {
			if before == want {
				return at, true
			}
			before++
		}
	}
	return 0, false
}

// positionAt returns the line and the column of an offset.
func (p *positionIndex) positionAt(offset int) (line, column int) {
	line = max(1, sort.Search(len(p.lines), func(i int) bool { return p.lines[i] > offset }))
	return line, max(1, p.countCharacters(offset)-p.countCharacters(p.lines[line-1])+1)
}

// countCharacters counts those that begin before an offset.
func (p *positionIndex) countCharacters(offset int) int {
	if len(p.counts) == 0 {
		return 0
	}
	i := min(offset/stride, len(p.counts)-1)
	count := p.counts[i]
	for _, b := range p.data[i*stride : offset] {
		if utf8.RuneStart(b) {
			count++
		}
	}
	return count
}

// lineBreak returns what the line break at the start of a text stands for, and its length; none has
// the length 0. YAML 1.1 §4.1.4: all but LS and PS are read as LF.
func lineBreak(text []byte) (string, int) {
	if len(text) == 0 {
		return "", 0
	}
	switch text[0] {
	case '\n':
		return "\n", 1
	case '\r':
		if len(text) > 1 && text[1] == '\n' {
			return "\n", 2
		}
		return "\n", 1
	case 0xC2:
		if bytes.HasPrefix(text, []byte("\u0085")) {
			return "\n", 2
		}
	case 0xE2:
		if bytes.HasPrefix(text, []byte("\u2028")) || bytes.HasPrefix(text, []byte("\u2029")) {
			return string(text[:3]), 3
		}
	}
	return "", 0
}
