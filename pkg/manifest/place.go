package manifest

import (
	"bytes"
	"sort"
	"unicode/utf8"
)

const byteOrderMark = "\uFEFF"

// positionIndex turns lines and columns, as yaml.v3 counts them, into byte offsets and back. Both
// count from 1; columns count characters. It looks at the data when it is first asked: of most files
// no place is.
type positionIndex struct {
	data  []byte
	lines []int // byte offset of the start of each line, from lineStarts
	// counts holds how many characters begin before each stride of bytes and in all, so that a place
	// on a line of megabytes is not found by walking it.
	counts []int
}

const stride = 1024

// lineStarts returns the byte offset of the start of each line.
func (p *positionIndex) lineStarts() []int {
	if p.lines == nil {
		p.indexData()
	}
	return p.lines
}

// indexData finds the lines, and counts characters.
func (p *positionIndex) indexData() {
	data, start := p.data, 0
	if bytes.HasPrefix(data, []byte(byteOrderMark)) {
		// In front of a file it stands in no column.
		start = len(byteOrderMark)
	}
	p.lines = []int{start}
	p.counts = make([]int, 0, len(data)/stride+2)
	characters := 0
	for from := 0; from < len(data); from += stride {
		p.counts = append(p.counts, characters)
		to := min(from+stride, len(data))
		if skipPlain(data[from:to]) < to-from {
			characters += p.indexBytes(from, to)
			continue
		}
		characters += to - from // nearly all
		for i := from; ; {
			length := bytes.IndexByte(data[i:to], '\n')
			if length < 0 {
				break
			}
			i += length + 1
			p.lines = append(p.lines, i)
		}
	}
	p.counts = append(p.counts, characters)
}

// indexBytes finds the lines that begin behind one of a range of bytes, and counts the characters that begin in it.
func (p *positionIndex) indexBytes(from, to int) (characters int) {
	data := p.data
	for i := from; i < to; i++ {
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
	return characters
}

// isASCII reports whether each byte of a stride is a character.
func (p *positionIndex) isASCII(i int) bool {
	return i+1 < len(p.counts) && p.counts[i+1]-p.counts[i] == min(stride, len(p.data)-i*stride)
}

// countLines returns how many lines the data has, which takes far less than to find them.
func countLines(data []byte) int {
	lines := 1 + bytes.Count(data, []byte("\n"))
	if bytes.IndexByte(data, '\r') >= 0 {
		lines += bytes.Count(data, []byte("\r")) - bytes.Count(data, []byte("\r\n"))
	}
	if bytes.IndexByte(data, 0xC2) >= 0 {
		lines += bytes.Count(data, []byte("\u0085"))
	}
	if bytes.IndexByte(data, 0xE2) >= 0 {
		lines += bytes.Count(data, []byte("\u2028")) + bytes.Count(data, []byte("\u2029"))
	}
	return lines
}

// offsetOf returns where a place lies in the data, if it does.
func (p *positionIndex) offsetOf(line, column int) (int, bool) {
	lines := p.lineStarts()
	if line < 1 || line > len(lines) || column < 1 {
		return 0, false
	}
	want := p.countCharacters(lines[line-1]) + column - 1
	at := stride * (sort.Search(len(p.counts), func(i int) bool { return p.counts[i] > want }) - 1)
	if at < 0 {
		return 0, false
	}
	before := p.counts[at/stride]
	if p.isASCII(at / stride) {
		return at + want - before, true
	}
	for ; at < len(p.data); at++ {
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
	lines := p.lineStarts()
	line = max(1, sort.Search(len(lines), func(i int) bool { return lines[i] > offset }))
	return line, max(1, p.countCharacters(offset)-p.countCharacters(lines[line-1])+1)
}

// countCharacters counts those that begin before an offset; the data has been indexed.
func (p *positionIndex) countCharacters(offset int) int {
	i := min(offset/stride, len(p.counts)-1)
	count := p.counts[i]
	if p.isASCII(i) {
		return count + offset - i*stride
	}
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
