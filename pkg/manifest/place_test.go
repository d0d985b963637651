package manifest

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"
)

// pieces are what places count differently: line breaks of each kind, halves of them, and characters of each length.
var pieces = []string{
	"a", "b: c\n", "\n", "\r", "\r\n", "\u0085", "\u2028", "\u2029", "é", "日本", "𝄞", "\xC2", "\xE2\x80", "\x85", "\xA8", "\xFF", "\x7F", "\x00", "\t",
	byteOrderMark, strings.Repeat("x", stride), strings.Repeat("key: value\n", stride/8), strings.Repeat("ü", stride/2),
}

func randomText(r *rand.Rand) []byte {
	var text []byte
	for range r.IntN(12) {
		text = append(text, pieces[r.IntN(len(pieces))]...)
	}
	return text
}

// What is looked at in strides and words is what a look at each byte gives.
func TestPlacesAreThoseOfEachByte(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		data := randomText(r)
		p := positionIndex{data: data}
		starts := p.lineStarts()
		if countLines(data) != len(starts) {
			t.Fatalf("%q: %d lines counted, %d found", data, countLines(data), len(starts))
		}
		lines, at := 1, 0
		if bytes.HasPrefix(data, []byte(byteOrderMark)) {
			at = len(byteOrderMark)
		}
		for begin := at; at <= len(data); {
			if starts[lines-1] != begin {
				t.Fatalf("%q: line %d begins at %d, want %d", data, lines, starts[lines-1], begin)
			}
			if at == len(data) {
				break
			}
			if _, width := lineBreak(data[at:]); width > 0 {
				at += width
				begin, lines = at, lines+1
				continue
			}
			at++
		}
		if lines != len(starts) {
			t.Fatalf("%q: %d lines, want %d", data, len(starts), lines)
		}
		for range 8 {
			offset := r.IntN(len(data) + 1)
			characters := 0
			for _, b := range data[:offset] {
				if utf8.RuneStart(b) {
					characters++
				}
			}
			if got := p.countCharacters(offset); got != characters {
				t.Fatalf("%q: %d characters before %d, want %d", data, got, offset, characters)
			}
			if offset < starts[0] || offset == len(data) || !utf8.RuneStart(data[offset]) {
				continue
			}
			line, column := p.positionAt(offset)
			if got, ok := p.offsetOf(line, column); !ok || got != offset {
				t.Fatalf("%q: %d is %d:%d, which is %d, %v", data, offset, line, column, got, ok)
			}
		}
	}
}

func TestSkipPlainStopsAtTheFirstOddByte(t *testing.T) {
	t.Parallel()
	for odd := range 256 {
		isPlain := odd >= ' ' && odd < 0x7F || odd == '\n'
		for length := range 20 {
			for at := range length {
				text := bytes.Repeat([]byte("a\n~ "), 5)[:length]
				text[at] = byte(odd)
				want := at
				if isPlain {
					want = length
				}
				if got := skipPlain(text); got != want {
					t.Fatalf("skipPlain(%q) = %d, want %d", text, got, want)
				}
			}
		}
	}
}
