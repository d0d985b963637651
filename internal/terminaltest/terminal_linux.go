// Package terminaltest is a terminal of some size, and what a person sees on it.
package terminaltest

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Terminal is a pseudo terminal and what a person sees on it.
type Terminal struct {
	// T is told of what no terminal understands.
	T *testing.T
	// User is the end for the program that is tested, Master that of the person.
	Master, User *os.File
	// Written is all that was written to it, Wrapped the lines that were too long for it.
	Written strings.Builder
	Wrapped []string
	// Screens are what was to be seen each time a display was complete.
	Screens []string

	mu      sync.Mutex
	arrived []byte
	// bells gives a byte for each bell that has arrived. To wait for a pipe is not to sleep in the test's own time.
	bells, ring   *os.File
	width, height int
	// lines are all that there are, those that have left the screen at its top too.
	lines            []string
	top, row, column int
}

// New returns a terminal of a size, which ends with the test.
func New(t *testing.T, width, height int) *Terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	user, err := os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { user.Close() })
	bells, ring, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { bells.Close() })
	term := &Terminal{T: t, Master: master, User: user, bells: bells, ring: ring, lines: []string{""}}
	term.Resize(width, height)
	go term.read()
	return term
}

// Resize breaks lines that became too long, as today's terminals do.
func (x *Terminal) Resize(width, height int) {
	x.T.Helper()
	size := &unix.Winsize{Col: uint16(width), Row: uint16(height)}
	if err := unix.IoctlSetWinsize(int(x.Master.Fd()), unix.TIOCSWINSZ, size); err != nil {
		x.T.Fatal(err)
	}
	x.width, x.height = width, height
	var lines []string
	for i, line := range x.lines {
		if i == x.row {
			x.row = len(lines)
		}
		for len(line) > width {
			lines, line = append(lines, line[:width]), line[width:]
		}
		lines = append(lines, line)
	}
	x.lines = lines
	x.top = max(0, x.row-height+1)
}

// read takes what was written, for a terminal holds little, until the last user closes it.
func (x *Terminal) read() {
	defer x.ring.Close()
	var b [1024]byte
	for {
		n, err := x.Master.Read(b[:])
		x.mu.Lock()
		x.arrived = append(x.arrived, b[:n]...)
		x.mu.Unlock()
		for range bytes.Count(b[:n], []byte("\a")) {
			if _, err := x.ring.Write([]byte{0}); err != nil {
				return // the test has ended
			}
		}
		if err != nil {
			return
		}
	}
}

// Text returns the text on the terminal, once all that was written has arrived.
func (x *Terminal) Text() string {
	x.T.Helper()
	// What one end writes arrives at the other when the kernel finds the time, in order: a
	// bell is the end of it.
	if _, err := x.User.WriteString("\a"); err != nil {
		x.T.Fatal(err)
	}
	if _, err := x.bells.Read(make([]byte, 1)); err != nil {
		x.T.Fatal(err)
	}
	x.mu.Lock()
	text, rest, _ := bytes.Cut(x.arrived, []byte("\a"))
	x.arrived = rest
	x.mu.Unlock()
	x.play(text)
	return x.text()
}

func (x *Terminal) text() string { return strings.TrimRight(strings.Join(x.lines, "\n"), "\n") }

// play does what the text says.
func (x *Terminal) play(text []byte) {
	x.T.Helper()
	x.Written.Write(text)
	escape := ""
	for _, b := range text {
		switch {
		case b == '\033' || escape != "":
			escape += string(rune(b))
			if b >= 'A' && b <= 'z' && b != '[' {
				x.control(escape)
				escape = ""
			}
		default:
			x.put(b)
		}
	}
}

// control obeys what a display may say.
func (x *Terminal) control(escape string) {
	x.T.Helper()
	var up int
	switch {
	case escape == "\033[K":
		x.lines[x.row] = x.lines[x.row][:min(x.column, len(x.lines[x.row]))]
	case escape == "\033[J":
		x.lines = append(x.lines[:x.row], x.lines[x.row][:min(x.column, len(x.lines[x.row]))])
		x.Screens = append(x.Screens, x.text())
	case strings.HasSuffix(escape, "A"):
		if _, err := fmt.Sscanf(escape, "\033[%dA", &up); err != nil {
			x.T.Errorf("%q: %v", escape, err)
		}
		x.row -= up
		if x.row < x.top {
			x.T.Errorf("%q: the cursor leaves the screen", escape)
			x.row = x.top
		}
	default:
		x.T.Errorf("unexpected escape sequence %q", escape)
	}
}

func (x *Terminal) put(b byte) {
	switch b {
	case '\r':
		x.column = 0
		return
	case '\n':
		if x.row++; x.row == len(x.lines) {
			x.lines = append(x.lines, "")
		}
		x.top = max(x.top, x.row-x.height+1)
		return
	}
	if x.column == x.width {
		x.Wrapped = append(x.Wrapped, x.lines[x.row])
		x.column = 0
		x.put('\n')
	}
	line := x.lines[x.row]
	line += strings.Repeat(" ", max(0, x.column-len(line)))
	x.lines[x.row] = line[:x.column] + string(rune(b)) + line[min(x.column+1, len(line)):]
	x.column++
}
