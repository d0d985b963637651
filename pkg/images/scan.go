package images

import (
	"path"
	"regexp"
	"slices"
	"strings"
)

// full is a reference that nothing else looks like: a host, a path, and a tag or a digest
// (github.com/distribution/reference, "Grammar").
var full = regexp.MustCompile(
	`(?:(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z](?:[a-z0-9-]*[a-z0-9])?|(?:[0-9]{1,3}\.){3}[0-9]{1,3}|localhost|[a-z0-9](?:[a-z0-9-]*[a-z0-9])?:[0-9]{2,5})(?::[0-9]{1,5})?` +
		`(?:/[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*)+` +
		`(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}(?:@sha256:[0-9a-f]{64})?|@sha256:[0-9a-f]{64})`)

// The characters that a reference in a text stands between.
const (
	before = " \t\r\n\"'`=,;:([{<>|"
	after  = " \t\r\n\"'`,;)]}<>|&\\."
)

// noRegistry are hosts of paths with a colon that are no images: Go packages, mostly.
var noRegistry = []string{"github.com", "k8s.io", "sigs.k8s.io", "golang.org", "pkg.go.dev"}

// match is a reference in a text, as the bytes [start,end) of it.
type match struct{ start, end int }

// scan finds the full references of a text.
func scan(text string) []match {
	if !strings.Contains(text, "/") || !strings.ContainsAny(text, ":@") {
		return nil
	}
	var found []match
	for _, at := range full.FindAllStringIndex(text, -1) {
		m := match{at[0], at[1]}
		// What ends a sentence is no part of a tag.
		m.end = m.start + len(strings.TrimRight(text[m.start:m.end], ".-_"))
		switch {
		case m.start > 0 && !strings.Contains(before, text[m.start-1:m.start]),
			m.end < len(text) && !strings.Contains(after, text[m.end:m.end+1]),
			!isWord(text[m.start:m.end]):
			continue
		}
		found = append(found, m)
	}
	return found
}

// isFull says whether all of a text is a full reference.
func isFull(text string) bool {
	found := scan(text)
	return len(found) == 1 && found[0] == match{0, len(text)}
}

// isNamed says whether a text is a reference in the eyes of someone who expects one: with a
// path, a tag or a digest. A single word can be anything.
func isNamed(text string) bool {
	return strings.ContainsAny(text, "/:@") && isWord(text)
}

// isWord says whether a text can be a reference at all.
func isWord(text string) bool {
	host, _, _ := strings.Cut(text, "/")
	_, err := ParseReference(text)
	return err == nil && !slices.Contains(noRegistry, host) && !slices.Contains(pictures, path.Ext(text))
}

// pictures are the extensions of the other kind of images.
var pictures = []string{".png", ".svg", ".jpg", ".jpeg", ".gif", ".ico", ".webp"}

// imageKey are names of fields, flags and variables that hold an image.
var imageKey = regexp.MustCompile(`(?i)image(?:[._-]?(?:ref|reference|name|url|uri))?$|^related_image_`)

// policyKey are names that speak of images and hold none.
var policyKey = regexp.MustCompile(`(?i)(?:pull|policy|secret)`)

func isImageKey(key string) bool { return imageKey.MatchString(key) && !policyKey.MatchString(key) }

// pointers are schemes of references that are not a runtime's to pull: what ko builds, and
// artifacts.
var pointers = []string{"ko://", "oci://", "docker://"}

func isPointer(text string) bool {
	return slices.ContainsFunc(pointers, func(scheme string) bool { return strings.HasPrefix(text, scheme) })
}
