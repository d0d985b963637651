// Package ui is the only package that knows terminals: results go to standard output, everything else
// (progress, notes, questions, errors) to standard error, so that output can be piped.
//
// The display of progress is its own, some 200 lines in screen.go, and not mpb's, for three
// reasons. Questions, passwords and the half lines of other programs come while work goes on, so
// the display must vanish at any time and come back, under the one lock that guards all
// output; mpb writes from a goroutine of its own, cannot take its bars away for a while,
// and puts only whole lines above them. The sums, rates and times left, which are most
// of the code, are needed anyway for logs and programs, which mpb does not serve. And rows are
// plain ASCII, so the widths of characters, which mpb brings modules for, do not matter.
//
// All text for people goes through escape.go: arguments of [UI.Note], [UI.Say], [Fprintf] and [Sprintf]
// come from outside, and stay within their line.
//
// The display has no colours, so NO_COLOR has nothing to change in it.
package ui

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"text/tabwriter"

	"github.com/dustin/go-humanize"
	"golang.org/x/term"

	"krtpkg.dev/krtpkg/pkg/manifest"
	"krtpkg.dev/krtpkg/pkg/progress"
)

// UI is how a command speaks to its user.
type UI struct {
	In       io.Reader
	Out, Err io.Writer
	// Quiet drops progress, not notes, whatever Mode says.
	Quiet bool
	// Mode is how progress is shown. Default: Auto.
	Mode Mode

	// mu guards all that is written, and the screen.
	mu     sync.Mutex
	screen screenState
	typing *bufio.Reader
	// hidden are texts that are not to be shown, which replace does.
	hidden  []string
	replace *strings.Replacer
	// hiddenInErrors are texts that ErrorText takes out, too.
	hiddenInErrors []string
}

// IsTerminal reports whether a person can be asked: input and messages are a terminal.
func (u *UI) IsTerminal() bool { return isTerminal(u.In) && isTerminal(u.Err) }

// Color reports whether a stream may have colours (no-color.org).
func (u *UI) Color(w io.Writer) bool {
	return isTerminal(w) && os.Getenv("NO_COLOR") == "" && !isDumbTerminal() && u.effectiveMode() != JSON
}

// isDumbTerminal reports whether the terminal only knows the end of a line.
func isDumbTerminal() bool { return os.Getenv("TERM") == "dumb" }

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

// Type returns what help calls the flag's value.
func (f *Format) Type() string { return "json|yaml|text" }

// Result writes a result: the value in a format for programs, or what text writes. What has a
// result has ended.
func (u *UI) Result(format Format, value any, text func(w io.Writer)) error {
	u.EndProgress(nil)
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.replace == nil {
		return writeResult(u.Out, format, value, text)
	}
	c := &censoringWriter{ui: u, out: u.Out}
	if err := writeResult(c, format, value, text); err != nil {
		return err
	}
	return c.flushCensored()
}

func writeResult(out io.Writer, format Format, value any, text func(w io.Writer)) error {
	switch format {
	case "json":
		encoder := json.NewEncoder(out)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		return encoder.Encode(value)
	case "yaml":
		// Through JSON, so that both have the same names.
		node, err := manifest.ConvertObject(value)
		if err != nil {
			return err
		}
		data, err := manifest.EncodeYAML(node)
		if err != nil {
			return err
		}
		_, err = out.Write(data)
		return err
	}
	shown := &visibleWriter{out: out}
	w := tabwriter.NewWriter(shown, 0, 0, 2, ' ', 0)
	text(w)
	return errors.Join(w.Flush(), shown.flushRest())
}

// Data writes a result that is for programs in itself, such as manifests: byte for byte, unless it goes to
// a terminal. What has a result has ended.
func (u *UI) Data(data []byte) error {
	u.EndProgress(nil)
	u.mu.Lock()
	defer u.mu.Unlock()
	text := u.maskHidden(string(data))
	if isTerminal(u.Out) {
		text = escapeInvisible(text, "\n\t")
	}
	_, err := io.WriteString(u.Out, text)
	return err
}

// Note says something that the user should know. Arguments stay within their line, but for errors.
func (u *UI) Note(format string, args ...any) {
	u.writeMessage("note", fmt.Sprintf(format, args...), fmt.Sprintf(format, inMessage(args)...))
}

// Error says why a command failed, without what is hidden in errors: each of several errors on lines of
// its own.
func (u *UI) Error(err error) {
	u.writeMessage("note", u.ErrorText("error: "+err.Error()), u.ErrorText("error: "+errorText(err)))
}

// Say reports a step of the work, as [UI.Note] does, unless the user wants it quiet.
func (u *UI) Say(format string, args ...any) {
	if u.effectiveMode() != None {
		u.writeMessage("summary", fmt.Sprintf(format, args...), fmt.Sprintf(format, inMessage(args)...))
	}
}

// writeMessage writes a message: exact for programs, text for people.
func (u *UI) writeMessage(event, exact, text string) {
	exact, text = redactURLs(exact), redactURLs(text)
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.effectiveMode() == JSON {
		u.recordLocked(progress.Record{Event: event, Text: u.maskHidden(exact)})
		return
	}
	text = escapeInvisible(u.maskHidden(text), "\n\t")
	if event == "summary" && isTerminal(u.Err) {
		// Notes and hints stay in one piece: what they name is to be copied.
		width, _ := u.terminalSize()
		text = breakLines(text, width)
	}
	u.writeAbove([]byte(text + "\n"))
}

// Write makes the UI a writer of other programs' progress, on standard error.
func (u *UI) Write(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	text := []byte(u.maskHidden(string(p)))
	if u.effectiveMode() == JSON {
		u.recordLines(text)
	} else if _, err := u.writeAbove([]byte(escapeInvisible(string(text), "\n\t"))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Ask puts a question and returns the answer in lower case, without white space around it;
// "" for an empty answer.
func (u *UI) Ask(ctx context.Context, question string) (string, error) {
	text, err := u.AskText(ctx, question)
	return strings.ToLower(text), ignoreEOF(err)
}

// AskText is Ask for answers that stay as they were typed; at the end of the input it fails with
// [io.EOF].
func (u *UI) AskText(ctx context.Context, question string) (string, error) {
	u.ask(question)
	defer u.answered()
	type reply struct {
		text string
		err  error
	}
	// Reading cannot be interrupted; whoever interrupts ends the process.
	replies := make(chan reply, 1)
	go func() {
		text, err := u.typedReader().ReadString('\n')
		replies <- reply{text, err}
	}()
	select {
	case r := <-replies:
		return strings.TrimSpace(r.text), r.err
	case <-ctx.Done():
		fmt.Fprintln(u.Err)
		return "", ctx.Err()
	}
}

// typedReader returns what was typed, which may be further ahead than the questions.
func (u *UI) typedReader() *bufio.Reader {
	if u.typing == nil {
		u.typing = bufio.NewReader(u.In)
	}
	return u.typing
}

// ask puts a question. The display stays away until it is answered.
func (u *UI) ask(question string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.paintRows(nil)
	u.screen.asking = true
	fmt.Fprintf(u.Err, "%s ", escapeInvisible(question, "\n\t"))
}

func (u *UI) answered() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.screen.asking = false
}

func ignoreEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// ErrNoTerminal is the error of a question that only a person can answer.
var ErrNoTerminal = errors.New("no terminal")

// Password reads a password from the terminal without showing it. Interrupted, it leaves the terminal as it
// was.
func (u *UI) Password(ctx context.Context, prompt string) ([]byte, error) {
	file, ok := u.In.(*os.File)
	if !ok || !u.IsTerminal() {
		return nil, ErrNoTerminal
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	terminal := int(file.Fd())
	before, err := term.GetState(terminal)
	if err != nil {
		return nil, err
	}
	u.ask(EscapeLine(prompt))
	defer u.answered()
	type reply struct {
		password []byte
		err      error
	}
	// Reading cannot be interrupted; whoever interrupts ends the process.
	replies := make(chan reply, 1)
	go func() {
		password, err := term.ReadPassword(terminal)
		replies <- reply{password, err}
	}()
	select {
	case r := <-replies:
		fmt.Fprintln(u.Err)
		return r.password, r.err
	case <-ctx.Done():
		fmt.Fprintln(u.Err)
		return nil, errors.Join(ctx.Err(), term.Restore(terminal, before))
	}
}

// Bytes returns a number of bytes for people.
func Bytes(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }
