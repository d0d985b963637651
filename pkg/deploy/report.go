package deploy

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Report is what Apply or Delete did, in the order in which it was done. After an error it
// holds what was finished before.
type Report struct {
	Runtime string
	Applied []Outcome
	Deleted []Outcome
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
}

// Changes count resources by what kapp did to them or, before a confirmation, is to do.
type Changes struct {
	Create, Update, Delete int
	// Wait counts those that needed no change but were not ready.
	Wait int
}

// Any tells whether the cluster had to be changed, be it only by a wait for nothing.
func (c Changes) Any() bool { return c.Create+c.Update+c.Delete > 0 }

func (c Changes) add(d Changes) Changes {
	return Changes{c.Create + d.Create, c.Update + d.Update, c.Delete + d.Delete, c.Wait + d.Wait}
}

// String is like "create 3, update 1"; "no changes" if there are none.
func (c Changes) String() string {
	var parts []string
	for _, p := range []struct {
		verb  string
		count int
	}{{"create", c.Create}, {"update", c.Update}, {"delete", c.Delete}, {"wait for", c.Wait}} {
		if p.count > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", p.verb, p.count))
		}
	}
	if parts == nil {
		return "no changes"
	}
	return strings.Join(parts, ", ")
}

// Phase is what an Event tells.
type Phase string

const (
	Applying  Phase = "applying"
	Applied   Phase = "applied"   // changed, and ready
	Unchanged Phase = "unchanged" // nothing to change, and ready
	Deleting  Phase = "deleting"
	Deleted   Phase = "deleted"
	Failed    Phase = "failed"
)

// Event tells that a bundle entered a phase. Each one that is begun ends in one of the others.
type Event struct {
	Phase   Phase
	Outcome       // Changes and Elapsed are zero as long as the phase is Applying or Deleting
	Err     error // why, if Failed
}

var (
	// ErrNotConfirmed means that Confirm said no.
	ErrNotConfirmed = errors.New("not confirmed")
	// ErrNotInstalled means that nothing on the cluster has the given name.
	ErrNotInstalled = errors.New("not installed")
)

// Error says at which bundle a call ended.
type Error struct {
	Op     string // "apply" or "delete"
	Bundle string
	Layer  int
	// Err is kapp's reason; the context's error if the call was interrupted.
	Err error
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s bundle %s (layer %d): %v", e.Op, e.Bundle, e.Layer, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }
