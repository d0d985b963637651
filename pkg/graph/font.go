package graph

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// advances are the widths of the characters from U+0020 to U+007E in DejaVu Sans Bold, in
// thousandths of the font's size. No font of the stack is wider, and none is bold where text
// is not, so what fits by these fits wherever the picture is shown.
var advances = [...]int{
	349, 457, 521, 838, 696, 1002, 873, 307, 458, 458, 523, 838, 380, 416, 380, 366,
	696, 696, 696, 696, 696, 696, 696, 696, 696, 696, 400, 400, 838, 838, 838, 581,
	1000, 774, 763, 734, 831, 684, 684, 821, 837, 373, 373, 775, 638, 996, 837, 851,
	733, 851, 771, 721, 683, 813, 774, 1104, 771, 725, 726, 458, 366, 458, 838, 500,
	500, 675, 716, 593, 716, 679, 436, 716, 712, 343, 343, 666, 343, 1042, 712, 688,
	716, 716, 494, 596, 479, 712, 652, 924, 646, 652, 583, 712, 366, 712, 838,
}

// elsewhere is the width of every other character: ideographs take 1000, emoji up to 1400.
const elsewhere = 1400

// textWidth returns an upper bound of the width of a text, in the unit of the font's size.
func textWidth(s string, size int) int {
	sum := 0
	for _, r := range s {
		switch {
		case r >= ' ' && int(r-' ') < len(advances):
			sum += advances[r-' ']
		case !unicode.Is(unicode.Mn, r):
			sum += elsewhere
		}
	}
	return (sum*size + 999) / 1000
}

// shortenText shortens a text to a width, with an ellipsis where something is left out.
func shortenText(s string, size, width int) string {
	if textWidth(s, size) <= width {
		return s
	}
	for s != "" {
		_, last := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-last]
		if textWidth(s+"…", size) <= width {
			break
		}
	}
	return s + "…"
}

// wrapText breaks a text into lines of a width, behind what joins words where it can, and shortens
// what does not fit into that many lines.
func wrapText(s string, size, width, most int) []string {
	var lines []string
	for textWidth(s, size) > width && len(lines) < most-1 {
		end, good := 0, 0
		for i, r := range s {
			next := i + utf8.RuneLen(r)
			if end > 0 && textWidth(s[:next], size) > width {
				break
			}
			end = next
			if strings.ContainsRune(" -._/", r) {
				good = end
			}
		}
		if good > 0 {
			end = good
		}
		lines = append(lines, strings.TrimSpace(s[:end]))
		s = s[end:]
	}
	return append(lines, shortenText(strings.TrimSpace(s), size, width))
}
