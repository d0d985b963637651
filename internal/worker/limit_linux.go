package worker

import (
	"os"
	"runtime/debug"
	"syscall"

	"krtpkg.dev/krtpkg/pkg/render"
)

// limitProcess bounds this process by the system, beyond what render's own watch does: an allocation of more
// than there may be fails, whatever the watch sees, and where memory gets scarce this process goes first.
func limitProcess(l render.Limits) {
	debug.SetMemoryLimit(min(debug.SetMemoryLimit(-1), int64(l.Memory)))
	// Data is what can be written, and so memory; addresses alone Go takes as it likes.
	most := 2*l.Memory + 4*l.Recursion
	var now syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_DATA, &now) == nil && now.Cur > most {
		_ = syscall.Setrlimit(syscall.RLIMIT_DATA, &syscall.Rlimit{Cur: most, Max: min(most, now.Max)})
	}
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0o600)
}

// newProcessGroup keeps signals of the terminal from the process: the one that started it hears them, and ends it.
func newProcessGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
