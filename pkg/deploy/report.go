package deploy

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Report is what Apply or Delete did, in the order of the runtime. After an error it holds what
// was finished.
type Report struct {
	Runtime string
	Applied []Outcome
	Deleted []Outcome
	// Blocked were not begun, because something that they need failed.
	Blocked []Outcome
	// Skipped are the hooks that were not run, since nobody said so.
	Skipped []SkippedHook
}

// Outcome is what was done to one bundle.
type Outcome struct {
	// Bundle is its name, that of the runtime for a bundle applied without one.
	Bundle  string
	App     string // the kapp app
	Version string
	Layer   int
	Changes Changes
	Elapsed time.Duration
	// WaitsFor are the bundles that failed or were blocked, if it was blocked.
	WaitsFor []string
}

// Phase is what an Event tells.
type Phase string

// The phases.
const (
	Applying  Phase = "applying"
	Applied   Phase = "applied"   // changed, and ready
	Unchanged Phase = "unchanged" // nothing to change, and ready
	Deleting  Phase = "deleting"
	Deleted   Phase = "deleted"
	Failed    Phase = "failed"
	Blocked   Phase = "blocked" // not begun, since what it needs failed
)

// Event tells that a bundle entered a phase, or, if it has a message, something of the phase
// that it is in. Each phase that is begun ends in another one.
type Event struct {
	Phase   Phase
	Outcome // Changes and Elapsed are zero as long as the phase is Applying or Deleting
	Message
	Err error // why, if Failed
}

var (
	// ErrNotConfirmed means that Confirm said no, or failed.
	ErrNotConfirmed = errors.New("not confirmed")
	// ErrNotInstalled means that nothing on the cluster has the given name.
	ErrNotInstalled = errors.New("not installed")
	// ErrOwned means that a resource is managed by something else.
	ErrOwned = errors.New("has another owner")
)

// Error says at which bundle a call ended, and what was to be seen on the cluster then.
type Error struct {
	Op     string // "apply" or "delete"
	Bundle string
	Layer  int
	// Err is kapp's reason; the context's error if the call was interrupted.
	Err error
	// Waiting are the resources that kapp waited for.
	Waiting []Waiting
	// Symptoms are what pods of the bundle that are not ready, events and logs say.
	Symptoms []string
}

func (e *Error) Error() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%s bundle %s (layer %d): %v", e.Op, e.Bundle, e.Layer, kappError{e.Err})
	for _, w := range e.Waiting {
		fmt.Fprintf(&text, "\n  %s is not ready", w.Resource)
		if e.Op == "delete" {
			fmt.Fprintf(&text, " to go")
		}
		fmt.Fprintf(&text, " since %s", time.Since(w.Since).Round(time.Second))
		if w.Reason != "" {
			fmt.Fprintf(&text, ": %s", w.Reason)
		}
		if w.Hint != "" {
			fmt.Fprintf(&text, "; %s", w.Hint)
		}
	}
	for _, s := range e.Symptoms {
		fmt.Fprintf(&text, "\n  %s", s)
	}
	return text.String()
}

func (e *Error) Unwrap() error { return e.Err }
