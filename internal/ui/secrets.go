package ui

import (
	"encoding/json"
	"io"
	"regexp"
	"slices"
	"strings"
)

// shortest is the length under which a text is too common to be kept from the output.
const shortest = 4

// HideTexts keeps texts, and each line of them, from all that is written from now on.
func (u *UI) HideTexts(texts ...string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.hidden = withForms(u.hidden, texts)
	u.replace = newMask(u.hidden)
}

// HideInErrors keeps texts from what [UI.ErrorText] gives.
func (u *UI) HideInErrors(texts ...string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.hiddenInErrors = withForms(u.hiddenInErrors, texts)
}

// ShowInErrors takes texts back that HideInErrors was called with.
func (u *UI) ShowInErrors(texts ...string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.hiddenInErrors = slices.DeleteFunc(u.hiddenInErrors, func(one string) bool { return slices.Contains(texts, one) })
}

// ErrorText returns the text of an error without what is hidden in errors, or everywhere: whoever refuses a
// value quotes it.
func (u *UI) ErrorText(text string) string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return redactURLs(newMask(slices.Concat(u.hidden, u.hiddenInErrors)).Replace(text))
}

// linkPattern matches a URL within a text.
var linkPattern = regexp.MustCompile(`[A-Za-z][A-Za-z0-9+.-]*://[^\s"'<>|\\^\x60]+`)

// redactURLs takes logins and the values of queries out of the URLs in a text: a signed URL, as registries redirect
// to, is a login while it lasts, and logs are read by many. The user of ssh stays.
func redactURLs(text string) string {
	if !strings.Contains(text, "://") {
		return text
	}
	return linkPattern.ReplaceAllStringFunc(text, func(link string) string {
		scheme, rest, _ := strings.Cut(link, "://")
		end := authorityEnd(rest, 0)
		if user, _, is := strings.Cut(rest[:end], ":"); is && !portNumber.MatchString(rest[len(user)+1:end]) && user != "[" {
			end = authorityEnd(rest, max(end, strings.LastIndexByte(rest, '@'))) // a password with a slash
		}
		authority, rest := rest[:end], rest[end:]
		if at := strings.LastIndexByte(authority, '@'); at >= 0 && (!strings.Contains(scheme, "ssh") || strings.Contains(authority[:at], ":")) {
			authority = "***" + authority[at:]
		}
		path, query, _ := strings.Cut(rest, "?")
		if query != "" {
			path += "?" + queryValue.ReplaceAllString(query, "=***")
		}
		return scheme + "://" + authority + path
	})
}

// authorityEnd returns where the authority of a URL ends, from a place in it on.
func authorityEnd(rest string, from int) int {
	if end := strings.IndexAny(rest[from:], "/?#"); end >= 0 {
		return from + end
	}
	return len(rest)
}

var portNumber = regexp.MustCompile(`^[0-9]*[:,.)\]]*$`)

// queryValue matches a value in a query; what ends a sentence stays.
var queryValue = regexp.MustCompile(`=[^&;#]*[^&;#:,.)\]]`)

// withForms adds texts, in the forms in which they may be written.
func withForms(all, texts []string) []string {
	for _, text := range texts {
		for _, one := range append(strings.Split(text, "\n"), text) {
			if one = strings.TrimSpace(one); len(one) < shortest {
				continue
			}
			all = append(all, one)
			// As it stands in JSON and, quoted, in YAML.
			if quoted, err := json.Marshal(one); err == nil {
				all = append(all, strings.Trim(string(quoted), `"`))
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func newMask(hidden []string) *strings.Replacer {
	// The longest first: one may be part of another.
	sorted := slices.SortedFunc(slices.Values(hidden), func(a, b string) int { return len(b) - len(a) })
	pairs := make([]string, 0, 2*len(sorted))
	for _, one := range sorted {
		pairs = append(pairs, one, "***")
	}
	return strings.NewReplacer(pairs...)
}

// maskHidden returns a text without what is hidden. The caller holds the lock.
func (u *UI) maskHidden(text string) string {
	if u.replace == nil {
		return text
	}
	return u.replace.Replace(text)
}

// censoringWriter hides in what is written as a whole.
type censoringWriter struct {
	ui  *UI
	out io.Writer
	all []byte
}

func (c *censoringWriter) Write(p []byte) (int, error) {
	c.all = append(c.all, p...)
	return len(p), nil
}

func (c *censoringWriter) flushCensored() error {
	_, err := io.WriteString(c.out, c.ui.maskHidden(string(c.all)))
	return err
}
