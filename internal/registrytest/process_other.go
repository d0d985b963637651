//go:build !linux

package registrytest

import "syscall"

// dieWithParent is a service of Linux: elsewhere a killed test leaves its registry behind.
func dieWithParent() *syscall.SysProcAttr { return nil }
