package images

import (
	"path"
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

// findInWords returns the matches of full or bare. Each lies within one run of the characters of references, and such a
// run has to pass a test of its bytes: the expression takes a hundred times as long.
func findInWords(expression lazyregexp.Expression, text string, canMatch func(run string) bool) (found []textMatch) {
	for at := 0; ; {
		start := strings.IndexByte(text[at:], '/')
		if start < 0 {
			return found
		}
		start += at
		end := start + 1
		for start > at && isReferenceCharacter(text[start-1]) {
			start--
		}
		for end < len(text) && isReferenceCharacter(text[end]) {
			end++
		}
		if run := text[start:end]; canMatch(run) {
			for _, m := range expression.Get().FindAllStringIndex(run, -1) {
				found = append(found, textMatch{start: start + m[0], end: start + m[1]})
			}
		}
		at = end
	}
}

// canBeFull reports whether full may match in a run of the characters of references.
func canBeFull(run string) bool {
	end := endOfHost(run)
	return end >= 0 && strings.ContainsAny(run[end:], ":@")
}

// canBeBare reports whether bare may match in a run of the characters of references.
func canBeBare(run string) bool { return endOfHost(run) >= 0 }

// endOfHost returns where the first host may end that has a path behind it, or -1. It may end there or later.
func endOfHost(run string) int {
	for begin := 0; ; {
		length := strings.IndexByte(run[begin:], '/')
		end := begin + length
		if length < 0 || end+1 == len(run) {
			return -1
		}
		if host := run[begin:end]; isLowerOrDigit(run[end+1]) && host != "" && (isLowerOrDigit(host[len(host)-1]) || host[len(host)-1] == ']') &&
			(strings.ContainsAny(host, ".:[") || strings.HasSuffix(host, "localhost")) {
			return end
		}
		begin = end + 1
	}
}

func isLowerOrDigit(b byte) bool { return 'a' <= b && b <= 'z' || '0' <= b && b <= '9' }

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
	for _, m := range findInWords(full, text, canBeFull) {
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

// scanLoose finds what only looks like references in a text: the values of names that say image, without a host too, the
// neighbors in a list of the full references that scanText has found, repositories of registries, and references of which a
// part is a variable.
func scanLoose(text string, full []textMatch) []textMatch {
	found := scanNamed(text)
	if !strings.Contains(text, "/") {
		return found
	}
	found = append(found, scanLists(text, full)...)
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
	for _, m := range findInWords(bare, text, canBeBare) {
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
func scanLists(text string, full []textMatch) []textMatch {
	var found []textMatch
	last := 0
	for _, m := range full {
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

// findImageWord returns the first match of imageWord, if there is one. It looks for the letters that each match has, and
// leaves to the expression only what has img.
func findImageWord(text string) (start, end int, ok bool) {
	for i := 0; i+2 < len(text); i++ {
		if text[i+1]|0x20 != 'm' || text[i]|0x20 != 'i' {
			continue
		}
		switch text[i+2] | 0x20 {
		case 'a':
			if i+4 < len(text) && text[i+3]|0x20 == 'g' && text[i+4]|0x20 == 'e' {
				return i, i + 5, true
			}
		case 'g':
			at := imageWord.Get().FindStringIndex(text)
			if at == nil {
				return 0, 0, false
			}
			return at[0], at[1], true
		}
	}
	return 0, 0, false
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
		begin, end, ok := findImageWord(text[i:])
		if !ok {
			break
		}
		begin, end = i+begin, i+end
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
