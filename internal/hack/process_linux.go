package hack

import "syscall"

// dieWithParent ends the controller with a test that is killed and so cannot clean up.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
