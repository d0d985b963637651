//go:build !unix

package worker

import (
	"runtime/debug"
	"syscall"

	"krtpkg.dev/krtpkg/pkg/render"
)

// limit has the collector keep to the memory; render's own watch ends what is over it.
func limit(l render.Limits) {
	debug.SetMemoryLimit(min(debug.SetMemoryLimit(-1), int64(l.Memory)))
}

func apart() *syscall.SysProcAttr { return nil }
