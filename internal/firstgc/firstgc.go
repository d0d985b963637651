// Package firstgc lets the heap of the process grow by 16 MiB more than Go would before garbage is collected. What the initialisers
// of a program's packages allocate stays in use, and Go would collect it four times before main: a third of the CPU time of a start.
// And a program that reads many small files with a few MiB in use would collect with each few MiB that it allocates.
//
// A program imports it for that effect. It imports only os and the runtime, so that Go initialises it before nearly all others.
package firstgc

import (
	"os"
	"runtime"
	"runtime/debug"
)

const (
	// ballastSize is by how much the heap seems to be larger than it is: Go collects when what was in use has doubled.
	ballastSize = 16 << 20
	// firstPercent is what GOGC is until the first collection, since Go's smallest heap is 4 MiB × GOGC / 100: the ballast and as
	// much again.
	firstPercent = 2 * ballastSize / (4 << 20) * 100
)

// ballast is never written to, so that it takes addresses and no memory.
var ballast []byte

var _ = delayCollection()

// delayCollection leaves everything as it is if the user has set GOGC, or GOMEMLIMIT, against which the ballast would count.
func delayCollection() struct{} {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return struct{}{}
	}
	ballast = make([]byte, ballastSize)
	usual := debug.SetGCPercent(firstPercent)
	collected := new([64]byte) // too large for the allocator to put next to other objects
	runtime.AddCleanup(collected, func(percent int) { debug.SetGCPercent(percent) }, usual)
	return struct{}{}
}
