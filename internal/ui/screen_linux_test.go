package ui

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"krtpkg.dev/krtpkg/internal/terminaltest"
	"krtpkg.dev/krtpkg/pkg/progress"
)

// terminal is one with a UI.
type terminal struct{ *terminaltest.Terminal }

func newTerminal(t *testing.T, width, height int) *terminal {
	t.Helper()
	t.Setenv("TERM", "xterm")
	t.Setenv("COLUMNS", "")
	return &terminal{terminaltest.New(t, width, height)}
}

func (x *terminal) ui() *UI { return &UI{In: x.User, Out: x.User, Err: x.User} }

// on runs a test on a terminal with a clock of its own.
func on(t *testing.T, width, height int, test func(t *testing.T, x *terminal, u *UI)) {
	x := newTerminal(t, width, height)
	synctest.Test(t, func(t *testing.T) {
		x.T = t
		u := x.ui()
		defer u.EndProgress(nil)
		test(t, x, u)
	})
}

// tick lets the display catch up.
func tick() {
	time.Sleep(redrawn)
	synctest.Wait()
}

func TestTerminal(t *testing.T) {
	on(t, 90, 24, func(t *testing.T, x *terminal, u *UI) {
		fmt.Fprintln(u.Err, "$ krtpkg copy")
		take := u.Progress("copy")
		take(planned(5, 100*mib))
		take(event(progress.Skipped, "there", 20*mib))
		take(progress.Event{Kind: progress.Began, Subject: "a", Detail: "quay.io/jetstack/cert-manager-controller:v1.16.2 layer", Bytes: 40 * mib})
		take(event(progress.Began, "sha256:0123456789abcdef0123456789abcdef", 30*mib))
		take(event(progress.Began, "tiny", mib-1))
		tick()
		same(t, x.Text(), `$ krtpkg copy
copy 20 MiB of 100 MiB, 20%, 1 of 5 items
  ...manager-controller:v1.16.2 layer [>                      ]   0%      0 B of 40 MiB
  sha256:0123456789ab                 [>                      ]   0%      0 B of 30 MiB`)
		stream(take, "a", 10)
		tick()
		same(t, x.Text(), `$ krtpkg copy
copy 30 MiB of 100 MiB, 30%, 1006 KiB/s, 1m11s left, 1 of 5 items
  ...manager-controller:v1.16.2 layer [=====>                 ]  25%   10 MiB of 40 MiB
  sha256:0123456789ab                 [>                      ]   0%      0 B of 30 MiB`)
		take(progress.Event{Kind: progress.Note, Subject: "a", Detail: "is large"})
		same(t, x.Text(), `$ krtpkg copy
note: a is large
copy 30 MiB of 100 MiB, 30%, 1006 KiB/s, 1m11s left, 1 of 5 items
  ...manager-controller:v1.16.2 layer [=====>                 ]  25%   10 MiB of 40 MiB
  sha256:0123456789ab                 [>                      ]   0%      0 B of 30 MiB`)
		take(event(progress.Copied, "a", 40*mib))
		tick()
		same(t, x.Text(), `$ krtpkg copy
note: a is large
copy 60 MiB of 100 MiB, 60%, 982 KiB/s, 41s left, 2 of 5 items
  sha256:0123456789ab                 [>                      ]   0%      0 B of 30 MiB`)
		take(event(progress.Copied, "sha256:0123456789abcdef0123456789abcdef", 30*mib))
		take(event(progress.Copied, "tiny", mib-1))
		take(event(progress.Copied, "rest", 9*mib+1))
		same(t, x.Text(), "$ krtpkg copy\nnote: a is large\ncopy 100 MiB of 100 MiB, 100%, 5 of 5 items")
		u.Say("5 items")
		same(t, x.Text(), "$ krtpkg copy\nnote: a is large\n5 items")
		err := u.Result("json", "result", nil)
		same(t, x.Text(), "$ krtpkg copy\nnote: a is large\n5 items\n\"result\"")
		if err != nil {
			t.Error(err)
		}
	})
}

// A terminal that becomes narrower breaks the display's rows, and none of them stays behind.
func TestTerminalResize(t *testing.T) {
	on(t, 100, 24, func(t *testing.T, x *terminal, u *UI) {
		fmt.Fprintln(u.Err, "$ krtpkg push")
		take := u.Progress("push")
		take(planned(2, 100*mib))
		take(event(progress.Began, "large", 90*mib))
		stream(take, "large", 45)
		tick()
		for _, step := range []struct {
			width int
			want  string
		}{
			{100, `$ krtpkg push
push 45 MiB of 100 MiB, 45%, 990 KiB/s, 56s left, 0 of 2 items
  large                                   [==============>              ]  50%   45 MiB of 90 MiB`},
			{60, `$ krtpkg push
push 45 MiB of 100 MiB, 45%, 967 KiB/s, 56s left
  large                     50%   45 MiB of 90 MiB`},
			{35, `$ krtpkg push
push 45 MiB of 100 MiB, 45%
  large                 50%   45 M`},
			{13, "$ krtpkg push\npush 45 MiB \n  large     "},
			{80, `$ krtpkg push
push 45 MiB of 100 MiB, 45%, 904 KiB/s, 57s left, 0 of 2 items
  large                           [========>        ]  50%   45 MiB of 90 MiB`},
		} {
			x.Text()
			x.Resize(step.width, 24)
			tick()
			same(t, x.Text(), step.want)
		}
		x.Resize(40, 24)
		u.EndProgress(nil)
		same(t, x.Text(), "$ krtpkg push")
	})
}

// A display higher than the terminal would leave its upper rows behind.
func TestTerminalHeight(t *testing.T) {
	on(t, 80, 4, func(t *testing.T, x *terminal, u *UI) {
		fmt.Fprint(u.Err, "1\n2\n3\n4\n5\n")
		take := u.Progress("push")
		take(planned(20, 20*mib))
		for i := range 20 {
			take(event(progress.Began, fmt.Sprint("item ", i), mib))
		}
		tick()
		tick()
		if n := strings.Count(x.Text(), "item "); n != 2 {
			t.Errorf("there are rows for %d items, not 2:\n%s", n, x.Text())
		}
		x.Resize(80, 50)
		tick()
		if n := strings.Count(x.Text(), "item "); n != shownItems {
			t.Errorf("there are rows for %d items:\n%s", n, x.Text())
		}
		u.EndProgress(nil)
		same(t, x.Text(), "1\n2\n3\n4\n5")
	})
}

// Some work finds more to do than it had planned.
func TestTerminalMore(t *testing.T) {
	on(t, 80, 24, func(t *testing.T, x *terminal, u *UI) {
		take := u.Progress("push")
		take(planned(1, mib))
		take(event(progress.Copied, "planned", mib))
		tick()
		same(t, x.Text(), "push 1.0 MiB of 1.0 MiB, 100%, 1 of 1 item")
		take(event(progress.Began, "more", 4*mib))
		tick()
		same(t, x.Text(), `push 1.0 MiB of 1.0 MiB, 100%, 1 of 1 item
  more                            [>                ]   0%      0 B of 4.0 MiB`)
		u.EndProgress(nil)
		same(t, x.Text(), "")
	})
}

// What has ended is seen until something else is said, or begins.
func TestTerminalEnd(t *testing.T) {
	on(t, 80, 24, func(t *testing.T, x *terminal, u *UI) {
		end := func(verb string) (take progress.Func) {
			take = u.Progress(verb)
			take(planned(1, mib))
			take(event(progress.Copied, verb, mib))
			return take
		}
		first := end("lock")
		same(t, x.Text(), "lock 1.0 MiB of 1.0 MiB, 100%, 1 of 1 item")
		end("push")
		tick()
		same(t, x.Text(), "push 1.0 MiB of 1.0 MiB, 100%, 1 of 1 item")
		u.Note("note: pushed")
		tick()
		same(t, x.Text(), "note: pushed")
		first(planned(2, mib)) // it goes on with more
		tick()
		same(t, x.Text(), "note: pushed\nlock 0 B of 1.0 MiB, 0%, 0 of 2 items")
	})
}

// What an earlier attempt had sent is no rate, and what is sent again does not show.
func TestTerminalResumed(t *testing.T) {
	on(t, 80, 24, func(t *testing.T, x *terminal, u *UI) {
		take := u.Progress("copy")
		take(planned(2, 100*mib))
		take(event(progress.Began, "large", 90*mib))
		take(event(progress.Resumed, "large", 60*mib))
		time.Sleep(2 * time.Second)
		tick()
		same(t, x.Text(), "copy 60 MiB of 100 MiB, 60%, 0 of 2 items\n  large                           [===========>     ]  66%   60 MiB of 90 MiB")
		stream(take, "large", 10)
		take(event(progress.Moved, "large", -5*mib))
		tick()
		if text := x.Text(); !strings.HasPrefix(text, "copy 70 MiB of 100 MiB, 70%, 1006 KiB/s") {
			t.Error(text)
		}
	})
}

// Lines of a summary are broken between words, notes are left to the terminal.
func TestTerminalLines(t *testing.T) {
	x := newTerminal(t, 30, 24)
	u := x.ui()
	u.Say("%s", "11 items (5.7 MiB) copied, 0 mounted, 0 already present")
	u.Say("%s", "volume 1 of 2: "+strings.Repeat("x", 40)+" and more")
	same(t, x.Text(), "11 items (5.7 MiB) copied, 0\n  mounted, 0 already present\nvolume 1 of 2:\n  "+strings.Repeat("x", 28)+"\n"+strings.Repeat("x", 12)+"\n  and more")
	for text, want := range map[string]string{
		"": "", "one": "one", "one two": "one\n  two", "a b\nc d": "a b\nc d", "  one": "  one", "seventeen": "seventeen", "a seventeen b": "a\n  seventeen\n  b",
	} {
		same(t, breakLines(text, 6), want)
	}
}

// What drew often would be slow on a slow line.
func TestTerminalPace(t *testing.T) {
	on(t, 80, 24, func(t *testing.T, x *terminal, u *UI) {
		take := u.Progress("push")
		take(planned(2, 1000*mib))
		take(event(progress.Began, "large", 1000*mib))
		for range 1000 {
			time.Sleep(time.Millisecond)
			take(event(progress.Moved, "large", mib/2))
		}
		synctest.Wait()
		x.Text()
		if n := strings.Count(x.Written.String(), "large"); n < 9 || n > 10 {
			t.Errorf("drawn %d times in a second", n)
		}
		time.Sleep(20 * time.Second) // nothing moves, and the time left is no longer known
		synctest.Wait()
		x.Text()
		drawn := x.Written.Len()
		time.Sleep(time.Minute)
		synctest.Wait()
		x.Text()
		if more := x.Written.Len() - drawn; more > 0 {
			t.Errorf("%d bytes more while nothing changed", more)
		}
	})
}

// While a line of another program has no end the display stays away from it.
func TestTerminalHalfLine(t *testing.T) {
	on(t, 80, 24, func(t *testing.T, x *terminal, u *UI) {
		take := u.Progress("push")
		take(planned(2, mib))
		tick()
		fmt.Fprint(u, "half a ")
		tick()
		same(t, x.Text(), "half a ")
		fmt.Fprint(u, "line\n")
		tick()
		same(t, x.Text(), "half a line\npush 0 B of 1.0 MiB, 0%, 0 of 2 items")
	})
}

// A question stands alone until it is answered.
func TestTerminalQuestion(t *testing.T) {
	x := newTerminal(t, 80, 24)
	u := x.ui()
	defer u.EndProgress(nil)
	take := u.Progress("apply")
	take(planned(2, mib))
	u.redrawScreen()
	same(t, x.Text(), "apply 0 B of 1.0 MiB, 0%, 0 of 2 items")
	answers := make(chan string)
	go func() {
		answer, err := u.Ask(context.Background(), "Go on? [y/N]")
		answers <- fmt.Sprint(answer, err)
	}()
	for !strings.Contains(x.Written.String(), "Go on?") {
		x.Text()
	}
	u.redrawScreen()
	same(t, x.Text(), "Go on? [y/N] ")
	if _, err := x.Master.WriteString("Yes\n"); err != nil {
		t.Fatal(err)
	}
	same(t, <-answers, "yes<nil>")
	u.redrawScreen()
	same(t, x.Text(), "Go on? [y/N] Yes\napply 0 B of 1.0 MiB, 0%, 0 of 2 items")
}

// Auto draws on a terminal only if it can move its cursor.
func TestAuto(t *testing.T) {
	x := newTerminal(t, 80, 24)
	modes := func(want Mode, u *UI) {
		t.Helper()
		if got := u.effectiveMode(); got != want {
			t.Errorf("the mode is %s, want %s", got, want)
		}
	}
	modes(TTY, x.ui())
	modes(Plain, &UI{Err: io.Discard})
	modes(TTY, &UI{Err: io.Discard, Mode: TTY})
	modes(Plain, &UI{Err: x.User, Mode: Plain})
	modes(None, &UI{Err: x.User, Quiet: true})
	if !x.ui().Color(x.User) {
		t.Error("a terminal has no colours")
	}
	t.Setenv("TERM", "dumb")
	modes(Plain, x.ui())
	modes(TTY, &UI{Err: x.User, Mode: TTY})
	if x.ui().Color(x.User) {
		t.Error("a dumb terminal has colours")
	}
}

func TestColumns(t *testing.T) {
	x := newTerminal(t, 100, 30)
	for columns, want := range map[string]int{"": 100, "70": 70, "200": 100, "0": 100, "-3": 100, "wide": 100} {
		t.Setenv("COLUMNS", columns)
		if width, height := x.ui().terminalSize(); width != want || height != 30 {
			t.Errorf("COLUMNS=%s: %d x %d, want %d x 30", columns, width, height, want)
		}
	}
	for columns, want := range map[string]int{"": 80, "200": 200} {
		t.Setenv("COLUMNS", columns)
		if width, height := (&UI{Err: io.Discard}).terminalSize(); width != want || height != 24 {
			t.Errorf("COLUMNS=%s, no terminal: %d x %d, want %d x 24", columns, width, height, want)
		}
	}
}

// A password is not shown, and who interrupts the question has a terminal that shows what is typed again.
func TestTerminalPassword(t *testing.T) {
	x := newTerminal(t, 80, 24)
	u := x.ui()
	echoes := func() bool {
		state, err := unix.IoctlGetTermios(int(x.User.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		return state.Lflag&unix.ECHO != 0
	}
	type reply struct {
		text []byte
		err  error
	}
	replies := make(chan reply, 1)
	ask := func(ctx context.Context) {
		go func() {
			text, err := u.Password(ctx, "Password for registry.example:")
			replies <- reply{text, err}
		}()
		for echoes() {
			time.Sleep(time.Millisecond)
		}
	}
	answer := func() reply {
		select {
		case r := <-replies:
			return r
		case <-time.After(5 * time.Second):
			t.Fatalf("no answer after 5 seconds; the terminal echoes: %v", echoes())
			return reply{}
		}
	}
	ask(t.Context())
	if _, err := x.Master.WriteString("secret\n"); err != nil {
		t.Fatal(err)
	}
	if r := answer(); string(r.text) != "secret" || r.err != nil {
		t.Errorf("got %q, %v", r.text, r.err)
	}
	same(t, x.Text(), "Password for registry.example: ")
	ctx, interrupt := context.WithCancel(t.Context())
	ask(ctx)
	interrupt()
	if r := answer(); !errors.Is(r.err, context.Canceled) || len(r.text) > 0 {
		t.Errorf("interrupted: got %q, %v", r.text, r.err)
	}
	if !echoes() {
		t.Error("the terminal does not show what is typed after the interruption")
	}
	u.Note("the display is free")
	same(t, x.Text(), "Password for registry.example: \nPassword for registry.example: \nthe display is free")
	if _, err := u.Password(ctx, "Password for registry.example:"); !errors.Is(err, context.Canceled) {
		t.Errorf("asked after the interruption: %v", err)
	}
	if _, err := (&UI{In: strings.NewReader("secret\n")}).Password(t.Context(), ""); !errors.Is(err, ErrNoTerminal) {
		t.Errorf("without a terminal: %v", err)
	}
}
