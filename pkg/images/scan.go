package images

import (
	"path"
	"regexp"
	"slices"
	"strings"

	"krtpkg.dev/krtpkg/pkg/lazyregexp"
)

const (
	hostPattern = `(?:(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z](?:[a-z0-9-]*[a-z0-9])?|(?:[0-9]{1,3}\.){3}[0-9]{1,3}|localhost|\[[0-9a-fA-F:]{2,39}\]|[a-z0-9](?:[a-z0-9-]*[a-z0-9])?:[0-9]{2,5})(?::[0-9]{1,5})?`
	pathPattern = `(?:/[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*)+`
)

var (
	// full is a reference that nothing else looks like: a host, a path, and a tag or a digest
	// (github.com/distribution/reference, "Grammar").
	full = lazyregexp.New(hostPattern + pathPattern +
		`(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}(?:@sha256:[0-9a-f]{64})?|@sha256:[0-9a-f]{64})`)
	// bare is a repository with its host.
	bare = lazyregexp.New(hostPattern + pathPattern)
)

// The characters that a reference in a text stands between.
const (
	before = " \t\r\n\"'`=,;:([{<>|"
	after  = " \t\r\n\"'`,;)]}<>|&\\."
)

// findInWords returns the matches of full or bare. Each lies within one run of the characters of references, and has a
// slash: nothing else is given to the expression, which takes a hundred times as long as a look at each byte.
func findInWords(expression *regexp.Regexp, text string) (found []textMatch) {
	for i := 0; i < len(text); i++ {
		start, hasSlash := i, false
		for ; i < len(text) && isReferenceCharacter(text[i]); i++ {
			hasSlash = hasSlash || text[i] == '/'
		}
		if !hasSlash {
			continue
		}
		for _, at := range expression.FindAllStringIndex(text[start:i], -1) {
			found = append(found, textMatch{start: start + at[0], end: start + at[1]})
		}
	}
	return found
}

// isReferenceCharacter reports whether a byte can be in a match of full or bare.
func isReferenceCharacter(b byte) bool {
	return isNameCharacter(b) || b == '/' || b == ':' || b == '@' || b == '[' || b == ']'
}

// noRegistry are hosts of paths with a colon that are no images: Go packages, mostly.
var noRegistry = []string{"github.com", "k8s.io", "sigs.k8s.io", "golang.org", "pkg.go.dev"}

// textMatch is a reference in a text, as the bytes [start,end) of it, and what a name before it says.
type textMatch struct {
	start, end int
	said       nameLabel
}

// scanText finds the full references of a text.
func scanText(text string) []textMatch {
	if !strings.Contains(text, "/") || !strings.ContainsAny(text, ":@") {
		return nil
	}
	var found []textMatch
	for _, m := range findInWords(full.Get(), text) {
		// What ends a sentence is not part of a tag.
		m.end = m.start + len(strings.TrimRight(text[m.start:m.end], ".-_"))
		if standsAlone(text, m) && isWord(text[m.start:m.end]) {
			found = append(found, m)
		}
	}
	return found
}

func standsAlone(text string, m textMatch) bool {
	return (m.start == 0 || strings.Contains(before, text[m.start-1:m.start])) &&
		(m.end >= len(text) || strings.Contains(after, text[m.end:m.end+1]))
}

// scanLoose finds what only looks like references in a text: the values of names that say image,
// without a host too, the neighbors of full references in a list, repositories of registries, and references of which a part is a variable.
func scanLoose(text string) []textMatch {
	found := scanNamed(text)
	if !strings.Contains(text, "/") {
		return found
	}
	found = append(found, scanLists(text)...)
	for _, scheme := range pointers {
		for i := strings.Index(text, scheme); i >= 0; {
			end := wordEnd(text, i, elementEnds)
			found = append(found, textMatch{start: i, end: end})
			next := strings.Index(text[end:], scheme)
			if i = end + next; next < 0 {
				break
			}
		}
	}
	for _, m := range findInWords(bare.Get(), text) {
		switch {
		case standsAlone(text, m) && inRegistry(text[m.start:m.end]):
			found = append(found, m)
		case m.end+1 < len(text) && strings.Contains(":@", text[m.end:m.end+1]) && (m.start == 0 || strings.Contains(before, text[m.start-1:m.start])):
			// A repository and a tag that is put in later.
			if end := wordEnd(text, m.end+1, wordEnds); variable.MatchString(text[m.end:end]) && !slices.Contains(noRegistry, hostOf(text[m.start:m.end])) {
				found = append(found, textMatch{start: m.start, end: end})
			}
		}
	}
	return found
}

// scanLists finds the references without a host that a list in a text has next to full ones:
// ghcr.io/a/b:1,redis:7.
func scanLists(text string) []textMatch {
	var found []textMatch
	last := 0
	for _, m := range scanText(text) {
		if m.start < last {
			continue // in the list before
		}
		start := last + strings.LastIndexAny(text[last:m.start], wordEnds+"=") + 1
		last = wordEnd(text, m.end, wordEnds)
		for _, e := range splitElements(text[start:last]) {
			if e.start, e.end = start+e.start, start+e.end; isComplete(text[e.start:e.end]) {
				found = append(found, e)
			}
		}
	}
	return found
}

func hostOf(text string) string {
	host, _, _ := strings.Cut(text, "/")
	return host
}

// imageWord is in each name that says image.
var imageWord = lazyregexp.New(`(?i)image|\bimgs?\b|_imgs?\b|\bimgs?_`)

// mayHaveImageWord reports whether a text has the two letters that imageWord begins with. Few have them, and a look at
// two bytes costs a hundredth of what the expression does.
func mayHaveImageWord(text string) bool {
	for i := 1; i < len(text); i++ {
		if text[i]|0x20 == 'm' && text[i-1]|0x20 == 'i' {
			return true
		}
	}
	return false
}

// isNameCharacter reports whether a byte is one of the names of fields, flags and variables.
func isNameCharacter(b byte) bool {
	return 'a' <= b|0x20 && b|0x20 <= 'z' || '0' <= b && b <= '9' || b == '_' || b == '.' || b == '-'
}

// scanNamed finds what stands after the names in a text that say image: name=value, "name":
// value, --name value; and several values where commas or quotes hold them together.
func scanNamed(text string) []textMatch {
	var found []textMatch
	for i := 0; i < len(text); {
		if !mayHaveImageWord(text[i:]) {
			break
		}
		at := imageWord.Get().FindStringIndex(text[i:])
		if at == nil {
			break
		}
		begin, end := i+at[0], i+at[1]
		for begin > i && isNameCharacter(text[begin-1]) {
			begin--
		}
		for end < len(text) && isNameCharacter(text[end]) {
			end++
		}
		i = end
		said := labelOf(strings.Trim(text[begin:end], ".-_"))
		if said < location || begin > 0 && strings.Contains("/@:", text[begin-1:begin]) {
			continue
		}
		start, ok := findValueStart(text, end, text[begin] == '-')
		if !ok {
			continue
		}
		start, stop := findQuoted(text, start)
		for _, m := range splitElements(text[start:stop]) {
			found = append(found, textMatch{start + m.start, start + m.end, said})
		}
	}
	return found
}

// findValueStart returns where the value of a name begins that ends at i: after =, := or a colon and a space,
// or, for a flag, after spaces.
func findValueStart(text string, i int, isFlag bool) (start int, ok bool) {
	rest := strings.TrimPrefix(text[i:], `\`)
	closed := len(rest) > 0 && strings.Contains(`"'`, rest[:1])
	if closed {
		rest = rest[1:]
	}
	spaced := strings.TrimLeft(rest, " \t")
	switch {
	case strings.HasPrefix(spaced, "="), strings.HasPrefix(spaced, ":="):
		rest = strings.TrimLeft(spaced, ":=")
	case strings.HasPrefix(spaced, ":") && (closed || len(spaced) > 1 && strings.Contains(" \t\"'[", spaced[1:2])):
		rest = spaced[1:]
	case isFlag && !closed && len(spaced) < len(rest):
		rest = spaced
	default:
		return 0, false
	}
	return len(text) - len(strings.TrimLeft(rest, " \t")), true
}

// findQuoted returns the text of a value that begins at i: what its quotes or brackets hold, or else a word.
func findQuoted(text string, i int) (start, end int) {
	open := strings.TrimPrefix(text[i:], `\`)
	if bracketed.MatchString(open) {
		return i, wordEnd(text, i, wordEnds)
	}
	for _, pair := range []string{`""`, "''", "[]"} {
		if strings.HasPrefix(open, pair[:1]) {
			start = len(text) - len(open) + 1
			if n := strings.IndexAny(text[start:], pair[1:]+"\n"); n >= 0 {
				return start, start + len(strings.TrimSuffix(text[start:start+n], `\`))
			}
			return start, len(text)
		}
	}
	return i, wordEnd(text, i, wordEnds)
}

// The characters that end a word of a text, and a value among several.
const (
	wordEnds    = " \t\r\n\"'`;)|&\\]}"
	elementEnds = wordEnds + ",["
)

// wordEnd returns the end of the word that begins at i. A variable is a part of it, with its blanks.
func wordEnd(text string, i int, ends string) int {
	for i < len(text) {
		switch text[i] {
		case '{', '$', '%':
			if m := variable.Get().FindStringIndex(text[i:min(len(text), i+maxVariable)]); m != nil && m[0] == 0 {
				i += m[1]
				continue
			}
		case '[':
			if at := bracketed.Get().FindString(text[i:min(len(text), i+maxVariable)]); at != "" {
				i += len(at)
				continue
			}
		}
		if strings.IndexByte(ends, text[i]) >= 0 {
			return i
		}
		i++
	}
	return i
}

// bracketed is the host of a registry at an IPv6 address.
var bracketed = lazyregexp.New(`^\[[0-9a-fA-F]*:[0-9a-fA-F:]+\](?::[0-9]{1,5})?/`)

// maxVariable bounds how far the end of a variable is looked for.
const maxVariable = 256

// splitElements returns the values of a text that commas, semicolons, quotes and blanks separate, less
// the key and = before each.
func splitElements(text string) []textMatch {
	var found []textMatch
	for i := 0; i < len(text); {
		end := wordEnd(text, i, elementEnds)
		if end == i {
			i++
			continue
		}
		start := i + assignedLength(text[i:end])
		if trimmed := strings.TrimRight(text[start:end], ".:"); trimmed != "" {
			found = append(found, textMatch{start: start, end: start + len(trimmed)})
		}
		i = end
	}
	return found
}

// assignedLength returns how long the names are, each with an equals sign, that a text begins with.
func assignedLength(text string) (length int) {
	for i := 0; i < len(text); i++ {
		switch {
		case isNameCharacter(text[i]):
		case text[i] == '=' && i > length:
			length = i + 1
		default:
			return length
		}
	}
	return length
}

// isFull reports whether all of a text is a full reference.
func isFull(text string) bool {
	found := scanText(text)
	return len(found) == 1 && found[0].start == 0 && found[0].end == len(text)
}

// isWord reports whether a text can be a reference at all.
func isWord(text string) bool {
	_, err := ParseReference(text)
	return err == nil && !slices.Contains(noRegistry, hostOf(text)) && !isPicture(text) && !strings.HasPrefix(text, "sha256:")
}

// isPicture reports whether a text names the other kind of image.
func isPicture(text string) bool { return slices.Contains(pictures, path.Ext(text)) }

// pictures are the extensions of the other kind of images.
var pictures = []string{".png", ".svg", ".jpg", ".jpeg", ".gif", ".ico", ".webp"}

// pointers are schemes of references that are not a runtime's to pull: what ko builds, and
// artifacts.
var pointers = []string{"ko://", "oci://", "docker://"}

func isPointer(text string) bool {
	return slices.ContainsFunc(pointers, func(scheme string) bool { return strings.HasPrefix(text, scheme) })
}
