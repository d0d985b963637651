package deploy

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"sync"

	"github.com/cppforlife/go-cli-ui/ui"
	"github.com/cppforlife/go-cli-ui/ui/table"
)

// console is kapp's user interface for one call: text goes to a writer, the table of
// changes is counted, and questions find nobody. It is safe for use by kapp's goroutines,
// and may be closed while they go on.
type console struct {
	color      bool
	showTables bool

	mu      sync.Mutex
	out     io.Writer // nil once closed, or to discard
	counted Changes
}

func newConsole(out io.Writer, color, showTables bool) *console {
	return &console{out: out, color: color, showTables: showTables}
}

func (c *console) ui() ui.UI {
	writer := ui.NewWriterUI(c, c, ui.NewNoopLogger())
	kapp := consoleUI{WriterUI: writer, console: c}
	if c.color {
		return ui.NewColorUI(kapp)
	}
	return kapp
}

// close makes the console forget its writer, which belongs to the caller again.
func (c *console) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out = nil
}

func (c *console) changes() Changes {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counted
}

func (c *console) count(changes Changes) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counted = c.counted.add(changes)
}

var ansiColor = regexp.MustCompile("\x1b\\[[0-9;]*m")

// Write never fails: what kapp says is no reason to stop halfway.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.out == nil {
		return len(p), nil
	}
	text := p
	if !c.color {
		text = ansiColor.ReplaceAll(p, nil)
	}
	c.out.Write(text)
	return len(p), nil
}

// consoleUI is what kapp sees.
type consoleUI struct {
	*ui.WriterUI
	console *console
}

// PrintTable gets one table in each call: the changes, a row for each resource.
func (u consoleUI) PrintTable(t table.Table) {
	changes := countChanges(t)
	u.console.count(changes)
	if u.console.showTables && len(t.Rows) > 0 {
		u.PrintLinef("")
		u.WriterUI.PrintTable(t)
		u.PrintLinef("")
	}
}

// countChanges reads the column in which kapp names the operation. It is empty for a
// resource that is only waited for.
func countChanges(t table.Table) Changes {
	op := slices.IndexFunc(t.Header, func(h table.Header) bool { return h.Key == "op" })
	if op < 0 {
		// A kapp that prints another table: rather ask for once too often.
		return Changes{Update: len(t.Rows)}
	}
	var changes Changes
	for _, row := range t.Rows {
		switch row[op].String() {
		case "create":
			changes.Create++
		case "update":
			changes.Update++
		case "delete":
			changes.Delete++
		default:
			changes.Wait++
		}
	}
	return changes
}

var errNobody = errors.New("kapp asked a question that has no one to answer it")

func (consoleUI) AskForText(label string) (string, error) {
	return "", fmt.Errorf("%w: %s", errNobody, label)
}

func (consoleUI) AskForChoice(label string, _ []string) (int, error) {
	return 0, fmt.Errorf("%w: %s", errNobody, label)
}

func (consoleUI) AskForPassword(label string) (string, error) {
	return "", fmt.Errorf("%w: %s", errNobody, label)
}

// AskForConfirmation agrees: Options.Confirm has been asked before kapp was called.
func (consoleUI) AskForConfirmation() error { return nil }

func (consoleUI) IsInteractive() bool { return false }
