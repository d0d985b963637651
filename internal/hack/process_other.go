//go:build !linux

package hack

import "syscall"

// dieWithParent is a service of Linux: elsewhere a killed test leaves its programs behind.
func dieWithParent() *syscall.SysProcAttr { return nil }
