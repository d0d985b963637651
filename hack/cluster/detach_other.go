//go:build !linux

package main

import "syscall"

// detach keeps a terminal's Ctrl-C from a component, because they must end in order.
// If this process is killed, they stay: only Linux ends them with it.
func detach() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
