package images

import (
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"krtpkg.dev/krtpkg/pkg/lazyregexp"
)

// What looks at bytes finds what the expressions find alone, in texts made of what they are about.
func TestScanFindsWhatExpressionsFind(t *testing.T) {
	t.Parallel()
	pieces := []string{
		"ghcr.io/a/b:1.0", "quay.io/x/y", "localhost:5000/a@sha256:" + strings.Repeat("0a", 32),
		"ghcr.io", "localhost", "localhost/a", "a:80/b", "A/", "10.0.0.1", "[fd00::1]", "[::]", ":5000", "/", "a/b", "/app", ":1.0", ":latest", "@sha256:" + strings.Repeat("0a", 32),
		"IMAGE", "image", "iMa", "ge", "Img", "_imgs", "imgs_", "imgſ", "im", "ım", " ", "\n", "\t", "=", "==", "a=", "B_c.d-e=", ",", "\"", "é", "\xff", "$(TAG)", "{", "[", "]", "__", "-", ".", "…",
	}
	assigned := regexp.MustCompile(`^(?:[A-Za-z0-9_.-]+=)+`)
	random := rand.New(rand.NewPCG(1, 2))
	matches := 0
	for range 20_000 {
		var text strings.Builder
		for range 1 + random.IntN(12) {
			text.WriteString(pieces[random.IntN(len(pieces))])
		}
		s := text.String()
		for _, c := range []struct {
			expression lazyregexp.Expression
			canMatch   func(string) bool
		}{{full, canBeFull}, {bare, canBeBare}} {
			var want []textMatch
			for _, at := range c.expression.Get().FindAllStringIndex(s, -1) {
				want = append(want, textMatch{start: at[0], end: at[1]})
			}
			if got := findInWords(c.expression, s, c.canMatch); !slices.Equal(got, want) {
				t.Fatalf("findInWords(%q) = %v, want %v", s, got, want)
			}
			matches += len(want)
		}
		if got, want := assignedLength(s), len(assigned.FindString(s)); got != want {
			t.Fatalf("assignedLength(%q) = %d, want %d", s, got, want)
		}
		var word []int
		if start, end, ok := findImageWord(s); ok {
			word = []int{start, end}
		}
		if want := imageWord.Get().FindStringIndex(s); !slices.Equal(word, want) {
			t.Fatalf("findImageWord(%q) = %v, want %v", s, word, want)
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
	if matches < 5000 {
		t.Errorf("%d matches: the texts say nothing", matches)
	}
}

// Names are read by their last letters as by all words.
func TestNamesAreReadByTheirEnds(t *testing.T) {
	t.Parallel()
	words := slices.Concat(referenceWords, policyWords, []string{"image", "images", "img", "Related_Image", "new", "default", "x", "s", "8s", "é", "."})
	for _, ends := range []func() *endIndex{locationEnds, propertyEnds, roleEnds} {
		for _, some := range ends() {
			words = append(words, some...)
		}
	}
	random := rand.New(rand.NewPCG(3, 4))
	for range 20_000 {
		var name strings.Builder
		for range random.IntN(4) {
			name.WriteString(words[random.IntN(len(words))] + []string{"", "", "_", "-"}[random.IntN(4)])
		}
		s := strings.TrimRight(name.String(), "_-")
		for _, ends := range []func() *endIndex{locationEnds, propertyEnds, roleEnds} {
			want := false
			for _, some := range ends() {
				want = want || slices.ContainsFunc(some, func(word string) bool { return strings.HasSuffix(s, word) })
			}
			if got := ends().isEndOf(s); got != want {
				t.Fatalf("isEndOf(%q) = %v, want %v", s, got, want)
			}
		}
		of, role, ok := roleOf(s)
		if wantOf, want, wantOK := readRole(strings.ToLower(s)); of != wantOf || role != want || ok != wantOK {
			t.Fatalf("roleOf(%q) = %q, %v, %v, want %q, %v, %v", s, of, role, ok, wantOf, want, wantOK)
		}
	}
}
