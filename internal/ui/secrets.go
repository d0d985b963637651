package ui

import (
	"encoding/json"
	"io"
	"slices"
	"strings"
)

// shortest is the length under which a text is too common to be kept from the output.
const shortest = 4

// Hide keeps texts, and each line of them, from all that is written from now on.
func (u *UI) Hide(texts ...string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, text := range texts {
		for _, one := range append(strings.Split(text, "\n"), text) {
			if one = strings.TrimSpace(one); len(one) < shortest {
				continue
			}
			u.hidden = append(u.hidden, one)
			// As it stands in JSON and, quoted, in YAML.
			if quoted, err := json.Marshal(one); err == nil {
				u.hidden = append(u.hidden, strings.Trim(string(quoted), `"`))
			}
		}
	}
	// The longest first: one may be part of another.
	slices.SortFunc(u.hidden, func(a, b string) int { return len(b) - len(a) })
	u.hidden = slices.Compact(u.hidden)
	pairs := make([]string, 0, 2*len(u.hidden))
	for _, one := range u.hidden {
		pairs = append(pairs, one, "***")
	}
	u.replace = strings.NewReplacer(pairs...)
}

// Shown is a text without what is hidden, for what is kept elsewhere.
func (u *UI) Shown(text string) string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.shown(text)
}

// shown is a text without what is hidden. The caller holds the lock.
func (u *UI) shown(text string) string {
	if u.replace == nil {
		return text
	}
	return u.replace.Replace(text)
}

// censor hides in what is written as a whole.
type censor struct {
	ui  *UI
	out io.Writer
	all []byte
}

func (c *censor) Write(p []byte) (int, error) { c.all = append(c.all, p...); return len(p), nil }

func (c *censor) flush() error {
	_, err := io.WriteString(c.out, c.ui.shown(string(c.all)))
	return err
}
