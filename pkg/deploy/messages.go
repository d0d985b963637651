package deploy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"carvel.dev/kapp/pkg/kapp/clusterapply"

	"krtpkg.dev/krtpkg/pkg/deploy/records"
)

var ansiColor = regexp.MustCompile("\x1b\\[[0-9;]*m")

// Waiting is a resource that is not ready, or not gone.
type Waiting struct {
	// Resource is as kapp describes it: "deployment/web (apps/v1) namespace: shop".
	Resource string `json:"resource"`
	Reason   string `json:"reason,omitempty"`
	// Hint says what would keep it from ever becoming ready, if that is known.
	Hint string `json:"hint,omitempty"`
	// Since is when it was first seen so.
	Since time.Time `json:"since"`
}

// messageTracker hear what kapp tells while it works on one app: what it waits for, and warnings of
// the API server. They are safe for kapp's goroutines, and may be closed while those go on.
type messageTracker struct {
	mu      sync.Mutex
	closed  bool
	tell    func(Message)
	waiting []Waiting
	rest    string // of a line of a warning
	// hint says what would keep a resource from ever becoming ready; it may take its time.
	hint   func(resource string) string
	hinted map[string]bool

	section    string    // how far kapp is with its changes
	progressed time.Time // since when it is that far; zero before it has begun
}

// Message is what there is to tell of a bundle while it is worked on: what it waits for
// now; that a resource which was waited for is ready;
// a warning of the API server; or that a hook runs.
type Message struct {
	Waiting *Waiting
	Ready   string
	Warning string
	// Hook is one of a deletion or a rollback that runs now.
	Hook string
}

var _ clusterapply.UI = (*messageTracker)(nil)

func newMessages(tell func(Message)) *messageTracker {
	return &messageTracker{tell: tell, hinted: map[string]bool{}}
}

// stopTelling stops the reports of messages.
func (m *messageTracker) stopTelling() {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
}

// pendingResources returns the resources that are waited for.
func (m *messageTracker) pendingResources() []Waiting {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.waiting)
}

// NotifySection is told how many changes are done, and how many not.
func (m *messageTracker) NotifySection(format string, args ...any) {
	if m == nil {
		return
	}
	section := fmt.Sprintf(format, args...)
	m.mu.Lock()
	defer m.mu.Unlock()
	// Which one it waits for changes all the time and is no progress; a changed number is.
	if _, counts, found := strings.Cut(section, "["); found && counts != m.section {
		m.section, m.progressed = counts, time.Now()
	}
}

// noteProgress takes it that something has just become ready, if anything has begun.
func (m *messageTracker) noteProgress() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.progressed.IsZero() {
		m.progressed = time.Now()
	}
}

// sinceProgress returns how long ago something became ready, or kapp began to change things.
func (m *messageTracker) sinceProgress() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.progressed.IsZero() {
		return 0
	}
	return time.Since(m.progressed)
}

// Notify is told the state of one resource, "ongoing: reconcile RESOURCE", and then why, or
// what is done to one.
func (m *messageTracker) Notify(lines []string) {
	if m == nil || len(lines) == 0 {
		return
	}
	first := ansiColor.ReplaceAllString(lines[0], "")
	state, what, _ := strings.Cut(first, ": ")
	switch state {
	case "ongoing", "fail", "error", "ok":
	default: // "create RESOURCE", and what kept it from that for now
		what, state = first, "ok"
		if len(lines) > 1 {
			state = "ongoing"
		} else {
			m.noteProgress()
		}
	}
	_, resource, _ := strings.Cut(what, " ")
	if state != "ok" {
		m.noteWaiting(resource, findReason(lines[1:]))
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	before := len(m.waiting)
	m.waiting = slices.DeleteFunc(m.waiting, func(w Waiting) bool { return w.Resource == resource })
	if len(m.waiting) < before {
		m.progressed = time.Now()
		m.emitMessage(Message{Ready: resource})
	}
}

// findReason returns the first line that says why, and the first of what was made of the resource that is
// not well, either.
func findReason(lines []string) string {
	var why, child string
	for _, line := range lines {
		line = strings.TrimLeft(ansiColor.ReplaceAllString(line, ""), " ^")
		below, is := strings.CutPrefix(line, "L ")
		switch {
		case !is && child != "":
			child += ": " + line // of the child that was named before
			return why + "; " + records.ShortenReason(child)
		case !is && why == "":
			why = line
		case is && child == "" && !strings.HasPrefix(below, "ok: "):
			_, child, _ = strings.Cut(below, ": waiting on ")
		case is && child != "":
			return why + "; " + records.ShortenReason(child)
		}
	}
	if child != "" {
		why += "; " + records.ShortenReason(child)
	}
	return why
}

func (m *messageTracker) noteWaiting(resource, reason string) {
	reason = backtrace.ReplaceAllString(reason, "")
	m.mu.Lock()
	defer m.mu.Unlock()
	i := slices.IndexFunc(m.waiting, func(w Waiting) bool { return w.Resource == resource })
	known := i >= 0
	if !known {
		i = len(m.waiting)
		m.waiting = append(m.waiting, Waiting{Resource: resource, Since: time.Now()})
	} else if m.hint != nil && !m.hinted[resource] && time.Since(m.waiting[i].Since) > hintAfter {
		m.hinted[resource] = true
		go m.addHint(resource)
	}
	if known && m.waiting[i].Reason == reason {
		return
	}
	m.waiting[i].Reason = reason
	w := m.waiting[i]
	m.emitMessage(Message{Waiting: &w})
}

// addHint looks for what is known of a resource that is waited for, and tells it.
func (m *messageTracker) addHint(resource string) {
	hint := m.hint(resource)
	m.mu.Lock()
	defer m.mu.Unlock()
	i := slices.IndexFunc(m.waiting, func(w Waiting) bool { return w.Resource == resource })
	if hint == "" || i < 0 {
		return
	}
	m.waiting[i].Hint = hint
	w := m.waiting[i]
	m.emitMessage(Message{Waiting: &w})
}

// Write takes the warnings of the API server, by lines.
func (m *messageTracker) Write(p []byte) (int, error) {
	if m == nil {
		return len(p), nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	lines := strings.Split(m.rest+ansiColor.ReplaceAllString(string(p), ""), "\n")
	m.rest = lines[len(lines)-1]
	for _, line := range lines[:len(lines)-1] {
		if line = strings.TrimPrefix(strings.TrimSpace(line), "Warning: "); line != "" {
			m.emitMessage(Message{Warning: line})
		}
	}
	return len(p), nil
}

func (m *messageTracker) emitMessage(one Message) {
	if !m.closed && m.tell != nil {
		m.tell(one)
	}
}
