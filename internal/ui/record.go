package ui

import (
	"bytes"
	"encoding/json"
	"time"

	"krtpkg.dev/krtpkg/pkg/progress"
)

var events = map[progress.Kind]string{
	progress.Started: "started", progress.Done: "done", progress.Planned: "planned", progress.Copied: "copied",
	progress.Skipped: "skipped", progress.Mounted: "mounted", progress.Note: "note", progress.Began: "began", progress.Moved: "moved", progress.Resumed: "resumed",
}

// writeRecord writes a line for programs.
func (u *UI) writeRecord(r progress.Record) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.recordLocked(r)
}

func (u *UI) recordLocked(r progress.Record) {
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
			u.recordLocked(progress.Record{Event: "output", Text: string(line)})
		}
	}
}

// flushOutput records what is left of a line that never ended.
func (u *UI) flushOutput() {
	if len(u.screen.output) > 0 {
		u.recordLocked(progress.Record{Event: "output", Text: string(u.screen.output)})
		u.screen.output = nil
	}
}
