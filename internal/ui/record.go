package ui

import (
	"bytes"
	"encoding/json"
	"time"

	"krtpkg.dev/krtpkg/pkg/progress"
)

// eventRecord is a line for programs. A number that is absent is 0.
type eventRecord struct {
	Time time.Time `json:"time"`
	// Verb is the work: push, copy, lock. Notes that belong to none have none.
	Verb string `json:"verb,omitempty"`
	// Event is started, planned, began, moved, copied, skipped, mounted or note, as in
	// package progress; done, of a subject or, without one, of all that was planned; summary,
	// which is what a command says of its work; or output, a line of another program's.
	Event   string `json:"event"`
	Subject string `json:"subject,omitempty"`
	Detail  string `json:"detail,omitempty"`
	// Text is what people read in a note, a summary or an output.
	Text string `json:"text,omitempty"`
	// Bytes are an item's size, or the plan's; of moved what has arrived of the item so far,
	// and of done what is at its place.
	Bytes int64 `json:"bytes,omitempty"`
	// Items are how many are planned or done.
	Items int `json:"items,omitempty"`
}

var events = map[progress.Kind]string{
	progress.Started: "started", progress.Done: "done", progress.Planned: "planned", progress.Copied: "copied",
	progress.Skipped: "skipped", progress.Mounted: "mounted", progress.Note: "note", progress.Began: "began", progress.Moved: "moved",
}

// writeRecord writes a line for programs.
func (u *UI) writeRecord(r eventRecord) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.recordLocked(r)
}

func (u *UI) recordLocked(r eventRecord) {
	r.Time = time.Now().UTC().Truncate(time.Second)
	encoder := json.NewEncoder(u.Err)
	encoder.SetEscapeHTML(false)
	encoder.Encode(r) // who cannot write to standard error has no one to tell
}

// recordLines makes records of whole lines of others, and keeps the rest.
func (u *UI) recordLines(p []byte) {
	u.screen.output = append(u.screen.output, p...)
	for {
		line, rest, found := bytes.Cut(u.screen.output, []byte("\n"))
		if !found {
			return
		}
		u.screen.output = rest
		if len(bytes.TrimSpace(line)) > 0 {
			u.recordLocked(eventRecord{Event: "output", Text: string(line)})
		}
	}
}

// flushOutput records what is left of a line that never ended.
func (u *UI) flushOutput() {
	if len(u.screen.output) > 0 {
		u.recordLocked(eventRecord{Event: "output", Text: string(u.screen.output)})
		u.screen.output = nil
	}
}
