package ui

import (
	"errors"
	"strings"
)

// DocumentFormat is a form of results that can be Markdown too.
type DocumentFormat struct {
	// Format is "" for text and for Markdown.
	Format Format
	// Markdown is set if it is Markdown.
	Markdown bool
}

// String, Set and Type make a DocumentFormat a flag.
func (f *DocumentFormat) String() string {
	if f.Markdown {
		return "markdown"
	}
	return f.Format.String()
}

// Set takes json, yaml, markdown or text.
func (f *DocumentFormat) Set(s string) error {
	if f.Markdown = s == "markdown"; f.Markdown {
		f.Format = ""
		return nil
	}
	if f.Format.Set(s) != nil {
		return errors.New("want json, yaml, markdown or text")
	}
	return nil
}

// Type returns what help calls the flag's value.
func (f *DocumentFormat) Type() string { return "json|yaml|markdown|text" }

// MarkdownCode returns a text from outside as a code span: nothing in it is markup, a link, or a name of somebody who
// would be notified. It stays within its line.
func MarkdownCode(text string) string {
	text = strings.TrimSpace(EscapeLine(text))
	if text == "" {
		return ""
	}
	fence := strings.Repeat("`", longestRun(text, '`')+1)
	if strings.HasPrefix(text, "`") || strings.HasSuffix(text, "`") {
		text = " " + text + " "
	}
	return fence + text + fence
}

// MarkdownCell is [MarkdownCode] for a cell of a table.
func MarkdownCell(text string) string { return strings.ReplaceAll(MarkdownCode(text), "|", `\|`) }

// MarkdownBlock returns the lines of a text from outside as a block of code in a language.
func MarkdownBlock(language, text string) string {
	fence := strings.Repeat("`", max(3, longestRun(text, '`')+1))
	var out strings.Builder
	out.WriteString(fence + language + "\n")
	for line := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		out.WriteString(EscapeLine(line) + "\n")
	}
	out.WriteString(fence + "\n")
	return out.String()
}

// longestRun returns how often a character follows itself at most.
func longestRun(text string, c rune) (longest int) {
	run := 0
	for _, r := range text {
		if r != c {
			run = 0
			continue
		}
		run++
		longest = max(longest, run)
	}
	return longest
}
