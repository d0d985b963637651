package main

import "syscall"

// detach keeps a terminal's Ctrl-C from a component, because they must end in order,
// and has the kernel end it when this process dies without a chance to.
func detach() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
