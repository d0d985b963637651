package corpus

import (
	"regexp"
	"strings"
)

// Mention is a line of a text that could name an image.
type Mention struct {
	Line int // from 1
	Text string
}

// mentions are what people would search for, without any knowledge of how krtpkg finds images.
var mentions = []*regexp.Regexp{
	regexp.MustCompile(`[a-z0-9-]+(?:\.[a-z0-9-]+)+(?::[0-9]+)?/[a-z0-9._/-]+(?::[A-Za-z0-9_][A-Za-z0-9_.-]*|@sha256:[0-9a-f]{64})`),
	regexp.MustCompile(`(?i)image[a-z0-9_.-]*["']?\s*[:= ]\s*\\?["']?[a-z0-9][a-z0-9._-]*(?:/[a-z0-9._/-]+|:[a-z0-9])`),
	regexp.MustCompile(`\b(?:docker\.io|quay\.io|gcr\.io|ghcr\.io|registry\.k8s\.io|nvcr\.io|mcr\.microsoft\.com|public\.ecr\.aws)/[a-z0-9]`),
}

// ListMentions lists the lines of a text that could name an image, but for comments.
func ListMentions(data []byte) []Mention {
	var found []Mention
	at := 0
	for line := range strings.Lines(string(data)) {
		at++
		text := strings.TrimSpace(line)
		if strings.HasPrefix(text, "#") {
			continue
		}
		for _, m := range mentions {
			if m.MatchString(text) {
				found = append(found, Mention{at, text})
				break
			}
		}
	}
	return found
}
