// Package firstgc delays the process's first garbage collection until its heap has 16 MiB instead of 4. What the initialisers of a
// program's packages allocate stays in use, and Go would collect it four times before main: a quarter of the CPU time of a start.
// After the first collection, a ballast lets the heap grow by 16 MiB more than Go would before each: with a few MiB in use, as
// where many small files are read, a program would collect with each few MiB that it allocates.
//
// A program imports it for that effect. It imports nothing but the runtime, so that Go initialises it before nearly all others.
package firstgc

import (
	"os"
	"runtime"
	"runtime/debug"
)

// firstPercent is what GOGC is until the first collection: Go's smallest heap is 4 MiB × GOGC / 100.
const firstPercent = 400

// ballastSize is by how much the heap seems to be larger than it is: Go collects when what is in use has doubled.
const ballastSize = 16 << 20

// ballast is never written to, so that it takes addresses and no memory.
var ballast []byte

var _ = delayCollection()

// delayCollection leaves everything as it is if the user has set GOGC.
func delayCollection() struct{} {
	if os.Getenv("GOGC") != "" {
		return struct{}{}
	}
	usual := debug.SetGCPercent(firstPercent)
	collected := new([64]byte) // too large for the allocator to put next to other objects
	runtime.AddCleanup(collected, func(percent int) {
		ballast = make([]byte, ballastSize)
		debug.SetGCPercent(percent)
	}, usual)
	return struct{}{}
}
