//go:build unix

package main

import (
	"os"
	"runtime"
	"syscall"
)

// peakMemory returns the most memory that a process had, in KiB.
func peakMemory(state *os.ProcessState) int64 {
	peak := int64(state.SysUsage().(*syscall.Rusage).Maxrss)
	if runtime.GOOS == "darwin" { // in bytes there
		peak /= 1024
	}
	return peak
}
