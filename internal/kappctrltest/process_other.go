//go:build !linux

package kappctrltest

import "syscall"

// dieWithParent is a service of Linux: elsewhere a killed test leaves its controller behind.
func dieWithParent() *syscall.SysProcAttr { return nil }
