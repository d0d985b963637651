package ui

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"krtpkg.dev/krtpkg/pkg/progress"
)

const mib = 1 << 20

// bytes.Buffer is not a writer for several goroutines, which the UI must make up for.
func newUI(mode Mode) (*UI, *bytes.Buffer) {
	var stderr bytes.Buffer
	return &UI{Out: io.Discard, Err: &stderr, Mode: mode}, &stderr
}

func planned(items int, bytes int64) progress.Event {
	return progress.Event{Kind: progress.Planned, Items: items, Bytes: bytes}
}

func event(kind progress.Kind, subject string, bytes int64) progress.Event {
	return progress.Event{Kind: kind, Subject: subject, Bytes: bytes}
}

func same(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// stream moves an item at a MiB a second.
func stream(take progress.Func, subject string, seconds int) {
	for range 16 * seconds {
		time.Sleep(time.Second / 16)
		take(event(progress.Moved, subject, mib/16))
	}
}

func TestPlain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u, stderr := newUI(Plain)
		take := u.Progress("copy")
		take(planned(4, 100*mib))
		take(event(progress.Skipped, "there", 40*mib))
		take(event(progress.Mounted, "mounted", 20*mib))
		take(event(progress.Began, "large", 30*mib))
		time.Sleep(10 * time.Millisecond) // between the ticks
		stream(take, "large", 15)
		take(progress.Event{Kind: progress.Note, Subject: "large", Detail: "is large"})
		stream(take, "large", 15)
		take(event(progress.Copied, "large", 30*mib))
		take(event(progress.Copied, "small", 10*mib))
		u.Say("4 items")
		time.Sleep(time.Minute)
		u.EndProgress(nil)
		same(t, stderr.String(), `copy 4 items, 100 MiB in all
copy 70 MiB of 100 MiB, 69%, 1.0 MiB/s, 30s left, 2 of 4 items
note: large is large
copy 80 MiB of 100 MiB, 79%, 1.0 MiB/s, 20s left, 2 of 4 items
copy 90 MiB of 100 MiB, 89%, 1.0 MiB/s, 10s left, 2 of 4 items
copy 100 MiB of 100 MiB, 100%, 4 of 4 items, in 30s
4 items
`)
	})
}

// A log shows that a transfer which stands still is not dead, and where it stopped.
func TestPlainStall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u, stderr := newUI(Plain)
		take := u.Progress("push")
		take(planned(2, 100*mib))
		take(event(progress.Began, "blob", 90*mib))
		stream(take, "blob", 3)
		time.Sleep(27 * time.Second)
		synctest.Wait()
		u.EndProgress(errors.New("broken pipe"))
		same(t, stderr.String(), `push 2 items, 100 MiB in all
push 3.0 MiB of 100 MiB, 3%, 0 B/s, 5m23s left, 0 of 2 items
push 3.0 MiB of 100 MiB, 3%, 0 B/s, 0 of 2 items
push 3.0 MiB of 100 MiB, 3%, 0 B/s, 0 of 2 items
push stopped at 3.0 MiB of 100 MiB, 3%, 0 of 2 items
`)
	})
}

// Without a plan there is no whole to be a part of.
func TestPlainWithoutPlan(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u, stderr := newUI(Plain)
		take := u.Progress("check")
		take(event(progress.Began, "blob", 30*mib))
		stream(take, "blob", 9)
		time.Sleep(1500 * time.Millisecond)
		take(event(progress.Copied, "blob", 30*mib))
		u.EndProgress(nil)
		same(t, stderr.String(), `check 9.0 MiB, 784 KiB/s, 0 items
check 30 MiB, 1 item, in 11s
`)
	})
}

// One plan after the other, as for the volumes of an archive.
func TestPlainPlans(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u, stderr := newUI(Plain)
		take := u.Progress("export")
		for range 2 {
			take(planned(2, 2*mib))
			time.Sleep(2 * time.Second)
			take(event(progress.Copied, "blob", 2*mib)) // the other item goes unmentioned
		}
		err := u.Result("json", 1, nil) // which is the end
		same(t, stderr.String(), `export 2 items, 2.0 MiB in all
export 2.0 MiB of 2.0 MiB, 100%, 1 of 2 items, in 2s
export 2 items, 2.0 MiB in all
export 2.0 MiB of 2.0 MiB, 100%, 1 of 2 items, in 2s
`)
		if err != nil {
			t.Error(err)
		}
	})
}

func TestJSON(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u, stderr := newUI(JSON)
		take := u.Progress("copy")
		take(progress.Event{Kind: progress.Started, Subject: "edge"})
		take(planned(3, 60))
		take(event(progress.Skipped, "a", 10))
		take(progress.Event{Kind: progress.Began, Subject: "b", Detail: "x:v1 layer", Bytes: 20})
		for range 25 { // ten a second
			time.Sleep(100 * time.Millisecond)
			take(event(progress.Moved, "b", 1))
		}
		take(event(progress.Moved, "b", -5))
		take(event(progress.Copied, "b", 20))
		take(progress.Event{Kind: progress.Note, Subject: "c", Detail: "is <odd>"})
		take(event(progress.Mounted, "c", 30))
		u.Say("3 items")
		u.Note("error: no")
		fmt.Fprint(u, "half a ")
		fmt.Fprint(u, "line\n\nrest")
		u.EndProgress(nil)
		same(t, stderr.String(), `{"time":"2000-01-01T00:00:00Z","verb":"copy","event":"started","subject":"edge"}
{"time":"2000-01-01T00:00:00Z","verb":"copy","event":"planned","bytes":60,"items":3}
{"time":"2000-01-01T00:00:00Z","verb":"copy","event":"skipped","subject":"a","bytes":10}
{"time":"2000-01-01T00:00:00Z","verb":"copy","event":"began","subject":"b","detail":"x:v1 layer","bytes":20}
{"time":"2000-01-01T00:00:01Z","verb":"copy","event":"moved","subject":"b","bytes":10}
{"time":"2000-01-01T00:00:02Z","verb":"copy","event":"moved","subject":"b","bytes":20}
{"time":"2000-01-01T00:00:02Z","verb":"copy","event":"copied","subject":"b","bytes":20}
{"time":"2000-01-01T00:00:02Z","verb":"copy","event":"note","subject":"c","detail":"is <odd>"}
{"time":"2000-01-01T00:00:02Z","verb":"copy","event":"mounted","subject":"c","bytes":30}
{"time":"2000-01-01T00:00:02Z","verb":"copy","event":"done","bytes":60,"items":3}
{"time":"2000-01-01T00:00:02Z","event":"summary","text":"3 items"}
{"time":"2000-01-01T00:00:02Z","event":"note","text":"error: no"}
{"time":"2000-01-01T00:00:02Z","event":"output","text":"half a line"}
{"time":"2000-01-01T00:00:02Z","event":"output","text":"rest"}
`)
	})
}

// Work that failed is not done.
func TestJSONFailure(t *testing.T) {
	t.Parallel()
	u, stderr := newUI(JSON)
	take := u.Progress("copy")
	take(planned(3, 60))
	u.EndProgress(errors.New("broken pipe"))
	if text := stderr.String(); !strings.Contains(text, `"planned"`) || strings.Contains(text, `"done"`) {
		t.Error(text)
	}
}

func TestNone(t *testing.T) {
	t.Parallel()
	for _, u := range []*UI{{Mode: None}, {Quiet: true}, {Quiet: true, Mode: JSON}} {
		var stderr bytes.Buffer
		u.Err = &stderr
		take := u.Progress("copy")
		take(planned(1, 1))
		take(event(progress.Began, "a", 1))
		take(event(progress.Copied, "a", 1))
		take(event(progress.Done, "edge", 0))
		u.Say("1 item")
		take(progress.Event{Kind: progress.Note, Subject: "a", Detail: "is odd"})
		u.Note("error: no")
		u.EndProgress(nil)
		same(t, stderr.String(), "note: a is odd\nerror: no\n")
	}
}

func TestMode(t *testing.T) {
	t.Parallel()
	var m Mode
	for _, name := range ListModes() {
		if err := m.Set(name); err != nil || m.String() != name {
			t.Errorf("%s: %v, %v", name, m, err)
		}
	}
	if err := m.Set("fancy"); err == nil || m != None {
		t.Errorf("fancy became %q", m)
	}
}

// What is sent again, for a new attempt or a part of one, is not counted twice.
func TestSentAgain(t *testing.T) {
	t.Parallel()
	u, _ := newUI(Plain)
	w := &workProgress{ui: u, verb: "push", mode: Plain}
	step := func(e progress.Event, have int64) {
		t.Helper()
		w.handleEvent(e)
		if w.have != have {
			t.Errorf("%v: have %d, want %d", e, w.have, have)
		}
	}
	step(planned(2, 100), 0)
	step(event(progress.Began, "a", 60), 0)
	step(event(progress.Moved, "a", 50), 50)
	step(event(progress.Moved, "a", -20), 30)
	step(event(progress.Moved, "a", 10), 40)
	step(event(progress.Began, "a", 60), 0)
	step(event(progress.Moved, "a", 60), 60)
	step(event(progress.Copied, "a", 60), 60)
	step(event(progress.Moved, "a", -60), 60)
	step(event(progress.Began, "b", 40), 60)
	step(event(progress.Moved, "b", 10), 70)
	step(event(progress.Mounted, "b", 40), 100)
	u.EndProgress(nil)
}

func TestRate(t *testing.T) {
	t.Parallel()
	var r transferRate
	if _, ok := r.bytesPerSecond(time.Minute, recent); ok {
		t.Error("there is a rate without bytes")
	}
	check := func(at time.Duration, seconds, want int64) {
		t.Helper()
		if got, ok := r.bytesPerSecond(at, seconds); !ok || got != want {
			t.Errorf("after %s over %d s: %d, want %d", at, seconds, got, want)
		}
	}
	r.addBytes(500*time.Millisecond, 1000)
	if _, ok := r.bytesPerSecond(900*time.Millisecond, recent); ok {
		t.Error("there is a rate in the first second")
	}
	check(2*time.Second, recent, 500)
	r.addBytes(2*time.Second, -300) // arrived in vain, but arrived
	check(2*time.Second, recent, 500)
	check(4500*time.Millisecond, recent, 222)
	check(5*time.Second, recent, 0) // the first second is too long ago
	check(5*time.Second, lately, 200)
	for s := range 40 {
		r.addBytes(time.Duration(10+s)*time.Second, 700)
	}
	check(50*time.Second, recent, 700)
	check(50*time.Second, lately, 700)
}

func TestWords(t *testing.T) {
	t.Parallel()
	durations := map[time.Duration]string{
		0: "0s", 400 * time.Millisecond: "0s", 59 * time.Second: "59s", 59900 * time.Millisecond: "1m00s",
		200 * time.Second: "3m20s", 3*time.Hour + 5*time.Minute: "3h05m", 1000 * time.Hour: "41 days",
	}
	for d, want := range durations {
		same(t, formatDuration(d), want)
	}
	for have, want := range map[int64]int{-5: 0, 0: 0, 999: 99, 1000: 100, 1001: 100} {
		if got := percentOf(have, 1000); got != want {
			t.Errorf("%d of 1000: %d%%, want %d%%", have, got, want)
		}
	}
	names := map[progress.Event]string{
		event(progress.Began, "sha256:0123456789abcdef", 0):                    "sha256:0123456789ab",
		event(progress.Began, "localhost:5000", 0):                             "localhost:5000",
		{Subject: "sha256:0123456789abcdef", Detail: "evil\033[2J/ü:v1 layer"}: "evil?[2J/?:v1 layer",
	}
	for e, want := range names {
		same(t, itemName(e), want)
	}
}

// Events, notes, other programs' output and the end come from everywhere at once.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	for _, mode := range []Mode{TTY, Plain, JSON} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			u, stderr := newUI(mode)
			take := u.Progress("copy")
			clock := map[Mode]func(){TTY: u.redrawScreen, Plain: u.reportWork, JSON: func() {}}
			const items, parts = 40, 50
			take(planned(items, items*parts*mib))
			var group sync.WaitGroup
			for i := range items {
				group.Go(func() {
					subject := fmt.Sprintf("item %d", i)
					take(event(progress.Began, subject, parts*mib))
					for range parts {
						take(event(progress.Moved, subject, mib))
						if i == 0 {
							clock[mode]()
						}
					}
					u.Note("noted %s", subject)
					take(event(progress.Copied, subject, parts*mib))
				})
			}
			group.Go(func() { fmt.Fprint(u, "half ") })
			group.Wait()
			fmt.Fprint(u, "line\n")
			u.EndProgress(nil)
			for i := range items {
				if !strings.Contains(stderr.String(), fmt.Sprintf("noted item %d", i)) {
					t.Errorf("the note of item %d is lost", i)
				}
			}
			if mode == JSON {
				done := records(t, stderr.String(), "done")
				if len(done) != 1 || done[0].Bytes != items*parts*mib || done[0].Items != items {
					t.Errorf("done is %v", done)
				}
			}
		})
	}
}

// records returns those of an event; every line must be one.
func records(t *testing.T, text, event string) (list []progress.Record) {
	t.Helper()
	for line := range strings.Lines(text) {
		var r progress.Record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Errorf("%q: %v", line, err)
		}
		list = append(list, r)
	}
	return slices.DeleteFunc(list, func(r progress.Record) bool { return r.Event != event })
}
