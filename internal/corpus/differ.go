package corpus

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
)

// OnlyReferencesDiffer compares a file before and after its images were relocated, line by line:
// what differs was characters of references before, and is one of the located references now, or
// its repository, its registry, the rest of it, or its digest.
func OnlyReferencesDiffer(old, now []byte, located ...string) error {
	before, after := bytes.Split(old, []byte("\n")), bytes.Split(now, []byte("\n"))
	if len(before) != len(after) {
		return fmt.Errorf("%d lines became %d", len(before), len(after))
	}
	var parts []string
	for _, reference := range located {
		repository, digest, _ := strings.Cut(reference, "@")
		registry, rest, _ := strings.Cut(repository, "/")
		for _, part := range []string{reference, "@" + digest, digest, strings.TrimPrefix(digest, "sha256:"), repository, registry, rest} {
			parts = append(parts, part, "\x00")
		}
	}
	wild := strings.NewReplacer(parts...)
	for i := range before {
		if bytes.Equal(before[i], after[i]) {
			continue
		}
		if !matchesWild(before[i], wild.Replace(string(after[i]))) {
			return fmt.Errorf("line %d: %.200q became %.200q", i+1, before[i], after[i])
		}
	}
	return nil
}

// matchesWild reports whether a line is a pattern's: each NUL of that stands for characters of
// references.
func matchesWild(line []byte, pattern string) bool {
	parts := strings.Split(pattern, "\x00")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile("(?s)^" + strings.Join(parts, `[A-Za-z0-9._:/@+-]*`) + "$").Match(line)
}
