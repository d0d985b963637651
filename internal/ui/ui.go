// Package ui is all that knows a terminal: results go to standard output, everything else
// (progress, notes, questions, errors) to standard error, so that output can be piped.
package ui

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/term"
	"gopkg.in/yaml.v3"

	"krtpkg.dev/krtpkg/pkg/progress"
)

// UI is how a command speaks to its user.
type UI struct {
	In       io.Reader
	Out, Err io.Writer
	// Quiet drops progress, not notes.
	Quiet bool

	mu   sync.Mutex
	line bool // a progress line stands on the terminal
}

// IsTerminal says whether a person can be asked: input and messages are a terminal.
func (u *UI) IsTerminal() bool { return isTerminal(u.In) && isTerminal(u.Err) }

// Color says whether a stream may have colours (no-color.org).
func (u *UI) Color(w io.Writer) bool { return isTerminal(w) && os.Getenv("NO_COLOR") == "" }

func isTerminal(stream any) bool {
	file, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// Format is a form of results: "" for people, "json" or "yaml" for programs.
type Format string

// String, Set and Type make a Format a flag.
func (f *Format) String() string { return string(*f) }

// Set takes json, yaml or text.
func (f *Format) Set(s string) error {
	switch s {
	case "json", "yaml":
		*f = Format(s)
	case "text", "":
		*f = ""
	default:
		return fmt.Errorf("want json, yaml or text")
	}
	return nil
}

// Type is what help calls the flag's value.
func (f *Format) Type() string { return "json|yaml|text" }

// Result writes a result: the value in a format for programs, or what text writes.
func (u *UI) Result(format Format, value any, text func(w io.Writer)) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.clear()
	switch format {
	case "json":
		encoder := json.NewEncoder(u.Out)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		return encoder.Encode(value)
	case "yaml":
		// Through JSON, so that both have the same names.
		data, err := json.Marshal(value)
		if err != nil {
			return err
		}
		var node yaml.Node
		if err := yaml.Unmarshal(data, &node); err != nil {
			return err
		}
		blockStyle(&node)
		encoder := yaml.NewEncoder(u.Out)
		encoder.SetIndent(2)
		return encoder.Encode(&node)
	}
	w := tabwriter.NewWriter(u.Out, 0, 0, 2, ' ', 0)
	text(w)
	return w.Flush()
}

// blockStyle undoes the quotes and braces of JSON.
func blockStyle(n *yaml.Node) {
	n.Style = 0
	for _, child := range n.Content {
		blockStyle(child)
	}
}

// Note says something that the user should know.
func (u *UI) Note(format string, args ...any) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.clear()
	fmt.Fprintf(u.Err, format+"\n", args...)
}

// Say reports a step of the work, unless the user wants it quiet.
func (u *UI) Say(format string, args ...any) {
	if !u.Quiet {
		u.Note(format, args...)
	}
}

// Write makes the UI a writer of other programs' progress, on standard error.
func (u *UI) Write(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.clear()
	return u.Err.Write(p)
}

// Ask puts a question and returns the answer in lower case, without white space around it;
// "" when there is none.
func (u *UI) Ask(ctx context.Context, question string) (string, error) {
	u.mu.Lock()
	u.clear()
	fmt.Fprintf(u.Err, "%s ", question)
	u.mu.Unlock()
	type reply struct {
		text string
		err  error
	}
	// Reading can't be interrupted; whoever interrupts ends the process.
	replies := make(chan reply, 1)
	go func() {
		text, err := bufio.NewReader(u.In).ReadString('\n')
		replies <- reply{text, err}
	}()
	select {
	case r := <-replies:
		return strings.ToLower(strings.TrimSpace(r.text)), ignoreEOF(r.err)
	case <-ctx.Done():
		fmt.Fprintln(u.Err)
		return "", ctx.Err()
	}
}

func ignoreEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// Password reads a password from the terminal without showing it.
func (u *UI) Password(prompt string) ([]byte, error) {
	file, ok := u.In.(*os.File)
	if !ok || !u.IsTerminal() {
		return nil, fmt.Errorf("there is no terminal to ask for it")
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.clear()
	fmt.Fprint(u.Err, prompt)
	password, err := term.ReadPassword(int(file.Fd()))
	fmt.Fprintln(u.Err)
	return password, err
}

func (u *UI) clear() {
	if u.line {
		fmt.Fprint(u.Err, "\r\033[K")
		u.line = false
	}
}

// Progress shows the events of a piece of work: on a terminal as a line that changes, else
// as plain lines of what was planned and noted.
func (u *UI) Progress(verb string) progress.Func {
	bar := &bar{ui: u, verb: verb, live: isTerminal(u.Err) && !u.Quiet}
	return bar.take
}

// interval is how often the line on a terminal changes.
const interval = 100 * time.Millisecond

type bar struct {
	ui   *UI
	verb string
	live bool

	mu          sync.Mutex
	items, done int
	bytes, have int64
	shown       time.Time
}

func (b *bar) take(e progress.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e.Kind {
	case progress.Note:
		b.ui.Note("note: %s %s", e.Subject, e.Detail)
		return
	case progress.Done:
		b.ui.Say("%s %s %s", b.verb, e.Subject, e.Detail)
		return
	case progress.Planned:
		b.items, b.bytes = e.Items, e.Bytes
		b.ui.Say("%s %d items, %s in all", b.verb, e.Items, Bytes(e.Bytes))
		return
	case progress.Copied, progress.Skipped, progress.Mounted:
		b.done++
		b.have += e.Bytes
	}
	if now := time.Now(); b.live && b.items > 0 && now.Sub(b.shown) > interval {
		b.shown = now
		b.ui.show(fmt.Sprintf("%s %d of %d items, %s of %s", b.verb, b.done, b.items, Bytes(b.have), Bytes(b.bytes)))
	}
}

func (u *UI) show(line string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.clear()
	fmt.Fprint(u.Err, line)
	u.line = true
}

// Bytes is a number of bytes for people.
func Bytes(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }
