// Package progress is what long work says of itself while it goes on. It knows no terminal:
// whoever starts the work shows the events, or drops them.
package progress

// Event is a step of long work.
type Event struct {
	// Kind says what happened.
	Kind Kind
	// Subject is what it happened to: a bundle's name, an image, a digest.
	Subject string
	// Detail is more about it, in words, or empty.
	Detail string
	// Bytes is the size of the step's subject, or of the whole plan; 0 where it has none.
	Bytes int64
	// Items is the number of items in a plan.
	Items int
}

// Kind is a kind of event.
type Kind int

// The kinds of events.
const (
	// Started says that work on the subject has begun.
	Started Kind = iota
	// Done says that work on the subject has ended well.
	Done
	// Planned says how much there is to do: Items and Bytes in all.
	Planned
	// Copied says that an item of the plan has arrived.
	Copied
	// Skipped says that an item was there already.
	Skipped
	// Mounted says that a registry took an item from another of its repositories.
	Mounted
	// Note is something that the user should know though nothing failed.
	Note
	// Began says that an item of the plan has begun to move: Bytes is its size. It ends with
	// Copied.
	Began
	// Moved says that Bytes more of an item have arrived. Where they are sent again it is
	// emitted again, and with a negative number for what was lost.
	Moved
	// Resumed says that Bytes of an item that began are there from an earlier attempt.
	Resumed
)

// Func receives events. Work calls it from several goroutines at once; a nil Func drops them.
type Func func(Event)

// Emit calls the function, if there is one.
func (f Func) Emit(e Event) {
	if f != nil {
		f(e)
	}
}
