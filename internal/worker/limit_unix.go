//go:build unix && !linux

package worker

import (
	"runtime/debug"
	"syscall"

	"krtpkg.dev/krtpkg/pkg/render"
)

// limitProcess has the collector keep to the memory; render's own watch ends what is over it.
func limitProcess(l render.Limits) {
	debug.SetMemoryLimit(min(debug.SetMemoryLimit(-1), int64(l.Memory)))
}

// newProcessGroup keeps signals of the terminal from the process: the one that started it hears them, and ends it.
func newProcessGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
