package ui

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"krtpkg.dev/krtpkg/pkg/progress"
)

// Mode is how progress is shown.
type Mode string

// The modes. The zero Mode is Auto.
const (
	// Auto is TTY on a terminal that can move its cursor, else Plain.
	Auto Mode = "auto"
	// TTY is a display that changes in place.
	TTY Mode = "tty"
	// Plain is lines: what is planned, how far it is every now and then, the end.
	Plain Mode = "plain"
	// JSON is one object a line, for programs. All that is said becomes one; see [progress.Record].
	JSON Mode = "json"
	// None is no progress: notes and errors are all that is said.
	None Mode = "none"
)

// ListModes returns all modes, for completion.
func ListModes() []string {
	return []string{string(Auto), string(TTY), string(Plain), string(JSON), string(None)}
}

// String, Set and Type make a Mode a flag.
func (m *Mode) String() string {
	if *m == "" {
		return string(Auto)
	}
	return string(*m)
}

// Set takes one of [ListModes].
func (m *Mode) Set(s string) error {
	if !slices.Contains(ListModes(), s) {
		return fmt.Errorf("want auto, tty, plain, json or none")
	}
	*m = Mode(s)
	return nil
}

// Type returns what help calls the flag's value.
func (m *Mode) Type() string { return strings.Join(ListModes(), "|") }

const (
	// redrawn is how often a display on a terminal changes.
	redrawn = 100 * time.Millisecond
	// reported is how often plain lines come: a log should grow slowly, and not look dead.
	reported = 10 * time.Second
	// recorded is how often the bytes of one item are told to programs.
	recorded = time.Second
)

// Progress shows the events of a piece of work until there is a result, or [UI.EndProgress] is called.
// Several pieces can go on at a time.
func (u *UI) Progress(verb string) progress.Func {
	w := &workProgress{ui: u, verb: verb, mode: u.effectiveMode()}
	return w.handleEvent
}

// workProgress is a piece of work, as far as its events tell.
type workProgress struct {
	ui   *UI
	verb string
	mode Mode

	// mu is held to count, never to write: a terminal that is stopped must not stop the work.
	// Who holds it may not take the UI's lock; the other way around is fine.
	mu    sync.Mutex
	shown bool // it is in the UI's list
	ended bool // the end of its plan was told
	planTally
}

// planTally is what the events of one plan add up to.
type planTally struct {
	start time.Time
	// items and bytes are the plan's; no items are no plan.
	items int
	bytes int64
	// done and have are what is at its place, however it came there. Some work finds more
	// there than it had planned.
	done int
	have int64
	// peak is the most that was there: what is lost on the way and sent again does not show.
	peak int64
	// active are the items that move, in the order in which they began.
	active  []*activeItem
	arrived transferRate
}

// activeItem is one that moves.
type activeItem struct {
	subject, name string
	size, moved   int64
	recorded      time.Time
}

// handleEvent counts an event and tells of it.
func (w *workProgress) handleEvent(e progress.Event) {
	switch {
	case e.Kind == progress.Note || e.Kind == progress.Started || e.Kind == progress.Done:
		w.reportEvent(e)
		return
	case w.mode == None:
		return
	case e.Kind == progress.Planned:
		w.finishPlan(nil) // the plan before this one
	}
	w.showOnce()
	e, news, complete := w.countEvent(e)
	if news {
		w.reportEvent(e)
	}
	if complete {
		w.finishPlan(nil)
	}
}

// countEvent adds an event up. It returns what there is to tell of it, whether that is news, and
// whether nothing of the plan is left.
func (w *workProgress) countEvent(e progress.Event) (told progress.Event, news, complete bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if e.Kind == progress.Planned || w.start.IsZero() {
		w.planTally, w.ended = planTally{start: now}, false
	}
	news = true
	switch e.Kind {
	case progress.Planned:
		w.items, w.bytes = e.Items, e.Bytes
	case progress.Began:
		w.dropItem(e.Subject)
		w.active = append(w.active, &activeItem{e.Subject, itemName(e), e.Bytes, 0, now})
	case progress.Moved:
		e.Bytes, news = w.moveItem(e.Subject, e.Bytes, now)
	case progress.Resumed:
		w.resumeItem(e.Subject, e.Bytes)
	case progress.Copied, progress.Skipped, progress.Mounted:
		moved := w.dropItem(e.Subject)
		w.have += e.Bytes
		w.done++
		// Small items come at once. What is left of one that moved was there before.
		if e.Kind == progress.Copied && moved == 0 {
			w.arrived.addBytes(now.Sub(w.start), e.Bytes)
		}
	}
	w.peak = max(w.peak, w.have)
	return e, news, w.isComplete()
}

// dropItem forgets an item that moves, and what has arrived of it, which it returns.
func (t *planTally) dropItem(subject string) (moved int64) {
	if i := t.findItem(subject); i >= 0 {
		moved = t.active[i].moved
		t.active = slices.Delete(t.active, i, i+1)
	}
	t.have -= moved
	return moved
}

func (t *planTally) findItem(subject string) int {
	return slices.IndexFunc(t.active, func(i *activeItem) bool { return i.subject == subject })
}

// moveItem adds to what has arrived of an item and returns the sum, and whether it is time to
// record it. What was lost has arrived all the same, as far as the rate goes.
func (t *planTally) moveItem(subject string, bytes int64, now time.Time) (moved int64, news bool) {
	i := t.findItem(subject)
	if i < 0 {
		return 0, false // it ended: a reader may be closed late
	}
	it := t.active[i]
	it.moved += bytes
	t.have += bytes
	t.arrived.addBytes(now.Sub(t.start), bytes)
	if news = now.Sub(it.recorded) >= recorded; news {
		it.recorded = now
	}
	return it.moved, news
}

// resumeItem adds to an item what was there before, which says nothing about the rate.
func (t *planTally) resumeItem(subject string, bytes int64) {
	if i := t.findItem(subject); i >= 0 {
		t.active[i].moved += bytes
		t.have += bytes
	}
}

func (t *planTally) isComplete() bool {
	return t.items > 0 && t.done >= t.items && len(t.active) == 0
}

// itemName returns what people call an item.
func itemName(e progress.Event) string {
	if e.Detail != "" {
		return toPrintable(e.Detail)
	}
	if algorithm, hex, ok := strings.Cut(e.Subject, ":"); ok && len(hex) > 12 {
		return toPrintable(algorithm + ":" + hex[:12])
	}
	return toPrintable(e.Subject)
}

// toPrintable keeps a name from moving the cursor, and makes its width its length: names come
// from registries and archives.
func toPrintable(name string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, name)
}

// showOnce has the UI show the work, until its end.
func (w *workProgress) showOnce() {
	w.mu.Lock()
	shown := w.shown
	w.shown = true
	w.mu.Unlock()
	if !shown {
		w.ui.addWork(w)
	}
}

// reportEvent says at once what is not only counted.
func (w *workProgress) reportEvent(e progress.Event) {
	switch {
	case w.mode == JSON:
		w.ui.writeRecord(progress.Record{Verb: w.verb, Event: events[e.Kind], Subject: e.Subject, Detail: e.Detail, Bytes: e.Bytes, Items: e.Items})
	case e.Kind == progress.Note:
		if e.Detail == "" {
			w.ui.Note("note: %s", e.Subject)
			break
		}
		w.ui.Note("note: %s %s", e.Subject, e.Detail)
	case e.Kind == progress.Done:
		w.ui.Say("%s %s %s", w.verb, e.Subject, e.Detail)
	case e.Kind == progress.Planned && w.mode == Plain:
		w.ui.Say("%s %s, %s in all", w.verb, countItems(e.Items), Bytes(e.Bytes))
	}
}

// finishPlan tells the end of a plan, once; err is why it ended early.
func (w *workProgress) finishPlan(err error) {
	w.mu.Lock()
	told := w.ended || w.start.IsZero()
	w.ended = true
	now := time.Now()
	end := progress.Record{Verb: w.verb, Event: "done", Bytes: w.have, Items: w.done}
	text := w.verb + " " + strings.Join(append(w.formatAmounts(), w.formatCounts(), "in "+formatDuration(now.Sub(w.start))), ", ")
	if err != nil {
		text = w.verb + " stopped at " + strings.Join(append(w.formatAmounts(), w.formatCounts()), ", ")
	}
	w.mu.Unlock()
	switch {
	case told:
	case w.mode == Plain:
		w.ui.Say("%s", text)
	case w.mode == JSON && err == nil:
		w.ui.writeRecord(end)
	case w.mode == TTY:
		w.ui.redrawScreen()
	}
}

// statusParts returns how far the work is, the most important first; nothing when its end was told.
func (w *workProgress) statusParts(now time.Time) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.start.IsZero() || w.mode != TTY && (w.isComplete() || w.ended) {
		return nil
	}
	parts := w.formatAmounts()
	parts[0] = w.verb + " " + parts[0]
	if w.isComplete() {
		return append(parts, w.formatCounts())
	}
	since := now.Sub(w.start)
	if bytes, ok := w.arrived.bytesPerSecond(since, recent); ok {
		parts = append(parts, Bytes(bytes)+"/s")
	}
	if bytes, ok := w.arrived.bytesPerSecond(since, lately); ok && bytes > 0 && w.have < w.bytes {
		parts = append(parts, formatDuration(time.Duration(float64(w.bytes-w.have)/float64(bytes)*float64(time.Second)))+" left")
	}
	return append(parts, w.formatCounts())
}

// formatAmounts are bytes and, where there is a plan, how much of it they are.
func (t *planTally) formatAmounts() []string {
	if t.items == 0 {
		return []string{Bytes(t.have)}
	}
	have := min(t.peak, t.bytes)
	return []string{Bytes(have) + " of " + Bytes(t.bytes), fmt.Sprintf("%d%%", percentOf(have, t.bytes))}
}

func (t *planTally) formatCounts() string {
	if t.items == 0 {
		return countItems(t.done)
	}
	return fmt.Sprintf("%d of %s", min(t.done, t.items), countItems(t.items))
}

func countItems(n int) string {
	if n == 1 {
		return "1 item"
	}
	return fmt.Sprintf("%d items", n)
}

// percentOf is rounded down: 100 is all.
func percentOf(have, all int64) int {
	if have >= all {
		return 100
	}
	return int(float64(max(have, 0)) / float64(all) * 100)
}

// formatDuration returns a duration for people, in at most two units.
func formatDuration(d time.Duration) string {
	switch s := int64(d.Round(time.Second) / time.Second); {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 60*60:
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	case s < 100*60*60:
		return fmt.Sprintf("%dh%02dm", s/(60*60), s/60%60)
	default:
		return fmt.Sprintf("%d days", s/(24*60*60))
	}
}

const (
	// recent seconds are what a rate is shown of, and the time left is told by lately: it
	// should not jump.
	recent = 5
	lately = 15
)

// transferRate is how many bytes arrived in each of the last seconds.
type transferRate struct {
	seconds [lately]struct{ at, bytes int64 }
	any     bool
}

// addBytes counts bytes that arrived at some time after the start.
func (r *transferRate) addBytes(at time.Duration, bytes int64) {
	if bytes <= 0 {
		return
	}
	second := int64(at / time.Second)
	slot := &r.seconds[second%lately]
	if slot.at != second {
		slot.at, slot.bytes = second, 0
	}
	slot.bytes += bytes
	r.any = true
}

// bytesPerSecond returns the bytes a second of the last few seconds, this one included. There is none in the
// first second, nor before any byte.
func (r *transferRate) bytesPerSecond(at time.Duration, seconds int64) (int64, bool) {
	if at < time.Second || !r.any {
		return 0, false
	}
	first := max(int64(at/time.Second)-seconds+1, 0)
	var sum int64
	for _, slot := range r.seconds {
		if slot.at >= first {
			sum += slot.bytes
		}
	}
	return int64(float64(sum) / (at - time.Duration(first)*time.Second).Seconds()), true
}
