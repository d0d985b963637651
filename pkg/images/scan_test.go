package images

import (
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What looks at bytes finds what the expressions find alone, in texts made of what they are about.
func TestScanFindsWhatExpressionsFind(t *testing.T) {
	t.Parallel()
	pieces := []string{
		"ghcr.io/a/b:1.0", "quay.io/x/y", "localhost:5000/a@sha256:" + strings.Repeat("0a", 32),
		"ghcr.io", "localhost", "10.0.0.1", "[fd00::1]", "[::]", ":5000", "/", "a/b", "/app", ":1.0", ":latest", "@sha256:" + strings.Repeat("0a", 32),
		"IMAGE", "image", "Img", "_imgs", "imgs_", "im", "ım", " ", "\n", "\t", "=", "==", "a=", "B_c.d-e=", ",", "\"", "é", "\xff", "$(TAG)", "{", "[", "]", "__", "-", ".", "…",
	}
	assigned := regexp.MustCompile(`^(?:[A-Za-z0-9_.-]+=)+`)
	random := rand.New(rand.NewPCG(1, 2))
	matches := 0
	for range 4000 {
		var text strings.Builder
		for range 1 + random.IntN(12) {
			text.WriteString(pieces[random.IntN(len(pieces))])
		}
		s := text.String()
		for _, expression := range []*regexp.Regexp{full.Get(), bare.Get()} {
			var want []textMatch
			for _, at := range expression.FindAllStringIndex(s, -1) {
				want = append(want, textMatch{start: at[0], end: at[1]})
			}
			if got := findInWords(expression, s); !slices.Equal(got, want) {
				t.Fatalf("findInWords(%q) = %v, want %v", s, got, want)
			}
			matches += len(want)
		}
		if got, want := assignedLength(s), len(assigned.FindString(s)); got != want {
			t.Fatalf("assignedLength(%q) = %d, want %d", s, got, want)
		}
		if imageWord.MatchString(s) && !mayHaveImageWord(s) {
			t.Fatalf("mayHaveImageWord(%q) = false", s)
		}
		for i := range s {
			if at := bracketed.Get().FindString(s[i:]); at != "" && s[i] != '[' {
				t.Fatalf("bracketed begins with %q", s[i])
			}
			if at := variable.Get().FindStringIndex(s[i:]); at != nil && at[0] == 0 && !strings.ContainsRune("{$%<", rune(s[i])) {
				t.Fatalf("variable begins with %q", s[i])
			}
		}
	}
	if matches < 1000 {
		t.Errorf("%d matches: the texts say nothing", matches)
	}
}
