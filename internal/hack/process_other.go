//go:build !linux

package hack

import "syscall"

// DieWithParent is a service of Linux: elsewhere a killed test leaves its programs behind.
func DieWithParent() *syscall.SysProcAttr { return nil }
