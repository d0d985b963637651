package ui

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/term"
)

// screenState is what a UI shows of the work that goes on. Its owner's lock guards it.
type screenState struct {
	works []*workProgress
	// stop ends the clock, which runs while there is work.
	stop chan struct{}
	// rows stand on the terminal, the cursor below them.
	rows []string
	// inLine is set if the last line that others wrote has no end yet, asking that a question
	// has no answer: nothing is drawn meanwhile.
	inLine, asking bool
	// output is a line of others, as far as it came, where lines become records.
	output []byte
}

// effectiveMode returns how progress is shown here.
func (u *UI) effectiveMode() Mode {
	switch {
	case u.Quiet:
		return None
	case u.Mode != "" && u.Mode != Auto:
		return u.Mode
	case isTerminal(u.Err) && !isDumbTerminal():
		return TTY
	}
	return Plain
}

// EndProgress ends what Progress shows, without a trace on a terminal. err is why the work ended early,
// or nil. It does nothing where nothing is shown.
func (u *UI) EndProgress(err error) {
	u.mu.Lock()
	works := u.screen.works
	u.screen.works = nil
	if u.screen.stop != nil {
		close(u.screen.stop)
		u.screen.stop = nil
	}
	u.paintRows(nil)
	u.flushOutput()
	u.mu.Unlock()
	for _, w := range works {
		w.mu.Lock()
		w.shown = false
		w.mu.Unlock()
		w.finishPlan(err)
	}
}

// addWork adds a piece of work to those that are shown.
func (u *UI) addWork(w *workProgress) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.dropComplete()
	u.screen.works = append(u.screen.works, w)
	every := map[Mode]time.Duration{TTY: redrawn, Plain: reported}[w.mode]
	if u.screen.stop == nil && every > 0 {
		u.screen.stop = make(chan struct{})
		go u.watchWork(every, u.screen.stop)
	}
}

// watchWork shows how far the work is, again and again.
func (u *UI) watchWork(every time.Duration, stop <-chan struct{}) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-stop:
			return
		case <-ticker.C:
		}
		if every == redrawn {
			u.redrawScreen()
		} else {
			u.reportWork()
		}
	}
}

// reportWork writes a line for each piece of work.
func (u *UI) reportWork() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, w := range u.screen.works {
		if status := w.statusParts(time.Now()); len(status) > 0 {
			fmt.Fprintln(u.Err, strings.Join(status, ", "))
		}
	}
}

// redrawScreen brings the display up to date.
func (u *UI) redrawScreen() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.screen.inLine || u.screen.asking {
		return
	}
	u.paintRows(u.displayRows())
}

// displayRows returns the rows of all work. The caller holds the lock.
func (u *UI) displayRows() (rows []string) {
	width, height := u.terminalSize()
	for _, w := range u.screen.works {
		rows = append(rows, w.progressRows(time.Now(), width-1)...)
	}
	// The cursor stands below, and what has left the top of a screen cannot be drawn again.
	return rows[:min(len(rows), height-1)]
}

// dropComplete takes work that is complete off the display: it stays until there is something else to be
// seen. It reports whether there was any. The caller holds the lock.
func (u *UI) dropComplete() (dropped bool) {
	u.screen.works = slices.DeleteFunc(u.screen.works, func(w *workProgress) bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.mode != TTY || !w.isComplete() {
			return false
		}
		w.shown, dropped = false, true
		return true
	})
	return dropped
}

// paintRows draws rows over those that stand there. The caller holds the lock.
func (u *UI) paintRows(rows []string) {
	if slices.Equal(rows, u.screen.rows) {
		return
	}
	var out bytes.Buffer
	out.WriteString(u.moveToTop())
	for _, row := range rows {
		// A row is ended before the next, so that nothing of an older one is left next to it.
		out.WriteString(row + "\033[K\n")
	}
	out.WriteString("\033[J")
	u.Err.Write(out.Bytes())
	u.screen.rows = rows
}

// moveToTop moves the cursor to where the display begins.
func (u *UI) moveToTop() string {
	width, _ := u.terminalSize()
	up := 0
	for _, row := range u.screen.rows {
		// A terminal that became narrower has broken its lines.
		up += max(1, (len(row)+width-1)/width)
	}
	if up == 0 {
		return ""
	}
	return fmt.Sprintf("\r\033[%dA", up)
}

// writeAbove writes text above the display. The caller holds the lock.
func (u *UI) writeAbove(text []byte) (int, error) {
	rows := u.screen.rows
	if u.dropComplete() {
		rows = u.displayRows()
	}
	u.paintRows(nil)
	n, err := u.Err.Write(text)
	if len(text) > 0 {
		u.screen.inLine = text[len(text)-1] != '\n'
	}
	if !u.screen.inLine && !u.screen.asking {
		u.paintRows(rows)
	}
	return n, err
}

// terminalSize returns that of the terminal, or at most $COLUMNS wide. Asked for each time it follows every
// change without signals, which not all systems have.
func (u *UI) terminalSize() (width, height int) {
	if file, ok := u.Err.(*os.File); ok {
		if w, h, err := term.GetSize(int(file.Fd())); err == nil {
			width, height = w, h
		}
	}
	columns, err := strconv.Atoi(os.Getenv("COLUMNS"))
	if err == nil && columns > 0 && (width == 0 || columns < width) {
		width = columns
	}
	return cmp.Or(width, 80), cmp.Or(height, 24)
}

// breakLines breaks lines between words so that they fit a width; what follows is indented. A word that is too
// long has a line of its own.
func breakLines(text string, width int) string {
	var out strings.Builder
	column := 0
	for i, word := range strings.SplitAfter(text, " ") {
		length := len(strings.TrimRight(word, " "))
		if i > 0 && column+length > width && !strings.Contains(word, "\n") {
			out.WriteString("\n  ")
			column = len("  ")
		}
		out.WriteString(word)
		if end := strings.LastIndexByte(word, '\n'); end >= 0 {
			column, word = 0, word[end+1:]
		}
		column += len(word)
	}
	return strings.ReplaceAll(out.String(), " \n", "\n")
}

const (
	// shownItems and shownSize say which items get a row: more would be a flicker.
	shownItems = 8
	shownSize  = 1 << 20
)

// progressRows returns a row for the whole and one for each item of some size that moves.
func (w *workProgress) progressRows(now time.Time, width int) []string {
	status := w.statusParts(now)
	if len(status) == 0 {
		return nil
	}
	rows := []string{joinFitting(status, width)}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, i := range w.active {
		if i.size >= shownSize && len(rows) <= shownItems {
			rows = append(rows, i.progressRow(width))
		}
	}
	return rows
}

// joinFitting joins as many parts as there is room for.
func joinFitting(parts []string, width int) string {
	row := parts[0]
	for _, part := range parts[1:] {
		if len(row)+len(part)+2 > width {
			break
		}
		row += ", " + part
	}
	return row[:min(len(row), max(width, 0))]
}

// progressRow returns a name, a bar where there is room, and numbers.
func (i *activeItem) progressRow(width int) string {
	moved := min(max(i.moved, 0), i.size)
	numbers := fmt.Sprintf(" %3d%% %8s of %s", percentOf(moved, i.size), Bytes(moved), Bytes(i.size))
	const numbersWidth = len(" 100% 1023 MiB of 1023 MiB")
	column := min(max(width*2/5, 19), 40)
	text := i.name
	if len(text) > column {
		text = "..." + text[len(text)-column+3:] // the end tells more: the start is a registry's name
	}
	row := fmt.Sprintf("  %-*s ", column, text)
	if room := min(width-len(row)-numbersWidth, 32); room >= 12 {
		row += drawBar(moved, i.size, room)
	}
	row += numbers
	return row[:min(len(row), max(width, 0))]
}

func drawBar(have, all int64, width int) string {
	inner := width - 2
	full := int(float64(have) / float64(all) * float64(inner))
	text := strings.Repeat("=", full)
	if full < inner {
		text += ">" + strings.Repeat(" ", inner-full-1)
	}
	return "[" + text + "]"
}
