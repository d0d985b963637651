package progress

import "time"

// Record is a line of --progress json on standard error. A number that is absent is 0.
type Record struct {
	Time time.Time `json:"time"`
	// Verb is the work: push, copy, lock. Notes that belong to none have none.
	Verb string `json:"verb,omitempty"`
	// Event is started, planned, began, moved, resumed, copied, skipped, mounted or note, as the
	// kinds of events; done, of a subject or, without one, of all that was planned; summary,
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
