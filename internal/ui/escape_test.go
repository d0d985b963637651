package ui

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// forged is a text that would wipe the line above and put another one in its place.
const forged = "a\x1b[2K\x1b[1A\nverified b\u202e\u200b\r\tc\x07\x7f\u009b31m\u2028d\x9bé\U000e0041\ufeff"

const escaped = `a\x1b[2K\x1b[1A\nverified b\u202e\u200b\x0d\tc\x07\x7f\u009b31m\u2028d\x9bé\U000e0041\ufeff`

// All text for people is on its line and shows what is there; programs get what there is.
func TestTextFromOutside(t *testing.T) {
	t.Parallel()
	table := func(w io.Writer) {
		Fprintf(w, "NAME\tVERSION\n")
		Fprintf(w, "%s\t%-4d|%q\n", forged, 1, []byte("x"))
		Fprintln(w, named(forged), errors.New(forged))
		WriteIndented(w, "    ", "one\n"+forged+"\n")
	}
	joined := errors.Join(errors.New("first"), fmt.Errorf("second: %w", errors.New(forged)), io.EOF)
	for _, c := range []struct {
		name string
		do   func(u *UI)
		want string
	}{
		{"a note", func(u *UI) { u.Note("note: %s,\nand %v", forged, named(forged)) }, "note: " + escaped + ",\nand " + escaped + "\n"},
		{"a step", func(u *UI) { u.Say("%[1]s %[1]s", forged) }, escaped + " " + escaped + "\n"},
		{"widths", func(u *UI) { u.Note("%-*s|%5.1f|%v", 4, "a", 1.0, time.Second) }, "a   |  1.0|1s\n"},
		{"an error", func(u *UI) { u.Note("error: %v", fmt.Errorf("list: %w", errors.New(forged))) },
			"error: list: " + strings.Replace(escaped, `\nv`, "\n  v", 1) + "\n"},
		{"several errors", func(u *UI) { u.Note("error: %v", fmt.Errorf("%w", joined)) },
			"error: first\nsecond: " + strings.Replace(escaped, `\nv`, "\n  v", 1) + "\nEOF\n"},
		{"why a command failed", func(u *UI) { u.HideInErrors("second"); u.Error(fmt.Errorf("%w", joined)) },
			"error: first\n***: " + strings.Replace(escaped, `\nv`, "\n  v", 1) + "\nEOF\n"},
		{"an error with lines of its own", func(u *UI) { u.Note("error: %v", errors.New("yaml: \n    line 3\nx")) }, "error: yaml: \n    line 3\n  x\n"},
		{"another program", func(u *UI) { u.Write([]byte("one\x1b[2K\ntwo\u202e\n")) }, "one\\x1b[2K\ntwo\\u202e\n"},
		{"a result", func(u *UI) {
			if err := u.Result("", nil, table); err != nil {
				t.Error(err)
			}
		}, "NAME" + strings.Repeat(" ", utf8.RuneCountInString(escaped)-2) + "VERSION\n" + escaped + "  1   |\"x\"\n" + escaped + " " + escaped + "\n    one\n    " +
			strings.Replace(escaped, `\nv`, "\n    v", 1) + "\n"},
		{"a result that passed by", func(u *UI) {
			u.Result("", nil, func(w io.Writer) { w.Write([]byte(forged[:40])); w.Write([]byte(forged[40:])) })
		},
			strings.NewReplacer(`\nv`, "\nv", `\t`, "  ").Replace(escaped)},
		{"a question", func(u *UI) { u.AskText(context.Background(), Sprintf("%s?", forged)) }, escaped + "? "},
		{"JSON", func(u *UI) { u.Result("json", forged[:8], nil) }, "\"a\\u001b[2K\\u001b[1\"\n"},
		{"JSON, all but C0", func(u *UI) { u.Result("json", "\u202e\u009b\x7f", nil) }, "\"\u202e\u009b\x7f\"\n"},
		{"data", func(u *UI) { u.Data([]byte(forged)) }, forged},
	} {
		var out bytes.Buffer
		c.do(&UI{In: strings.NewReader("\n"), Out: &out, Err: &out, Mode: Plain})
		if got := out.String(); got != c.want {
			t.Errorf("%s:\ngot  %q\nwant %q", c.name, got, c.want)
		}
	}
	var out bytes.Buffer
	(&UI{Out: &out, Err: &out, Mode: JSON}).Note("note: %s", "\u202ea\nb")
	if !strings.Contains(out.String(), "\"text\":\"note: \u202ea\\nb\"") {
		t.Errorf("records: %q", out.String())
	}
}

// named is a text with methods of its own.
type named string

func (n named) String() string { return string(n) }

// Whatever comes in, what comes out is characters that are shown, on one line.
func FuzzLine(f *testing.F) {
	f.Add(forged)
	f.Add("é\xc3")
	f.Fuzz(func(t *testing.T, text string) {
		line := EscapeLine(text)
		for _, r := range line {
			if !isShown(r) && r != utf8.RuneError {
				t.Errorf("%q: %q is in %q", text, r, line)
			}
		}
		if !utf8.ValidString(line) || EscapeLine(line) != line {
			t.Errorf("%q: %q", text, line)
		}
	})
}
