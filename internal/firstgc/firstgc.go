// Package firstgc delays the process's first garbage collection until its heap has 16 MiB instead of 4. What the initialisers of a
// program's packages allocate stays in use, and Go would collect it four times before main: a quarter of the CPU time of a start.
// After the first collection, everything is as without this package.
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

var _ = delayCollection()

// delayCollection leaves everything as it is if the user has set GOGC.
func delayCollection() struct{} {
	if os.Getenv("GOGC") != "" {
		return struct{}{}
	}
	usual := debug.SetGCPercent(firstPercent)
	collected := new([64]byte) // too large for the allocator to put next to other objects
	runtime.AddCleanup(collected, func(percent int) { debug.SetGCPercent(percent) }, usual)
	return struct{}{}
}
