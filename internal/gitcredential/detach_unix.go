//go:build unix

package gitcredential

import (
	"os/exec"
	"syscall"
)

// detach keeps the terminal from a command and its helpers, and ends them together.
func detach(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
