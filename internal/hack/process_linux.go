package hack

import "syscall"

// DieWithParent ends a program with a test that is killed and so cannot clean up.
func DieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
